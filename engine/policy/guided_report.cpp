#include "policy/guided_report.h"

#include <algorithm>
#include <cmath>

#include "policy/guided_seal.h"

namespace livekv {

kv_guided_layer guided_report(const chunk_plan & plan, const kv_layer & layer, const kv_layer & first) {
    kv_guided_layer report;
    const auto known = [](const kv_layer & l) { return !l.chunks.empty() && l.chunks.back().state; };
    if (!known(layer) || !known(first)) {
        return report;
    }
    const guided_state state = guided_state::load(layer.chunks.back().state->as<float>());
    const guided_plan & guided = *plan.guided;
    const double n = state.range.n;
    const double n_read = guided_state::load(first.chunks.back().state->as<float>()).range.n;
    report.n_read = std::llround(n_read);
    report.n_tokens = std::llround(n);
    report.n_kept = std::llround(state.n_kept);
    report.n_high = std::llround(state.n_high);
    report.n_medium = std::llround(state.n_mid);
    report.code_bits = state.code_bits;
    if (n > 0.0) {
        report.score_mean = state.score_sum / n;
        report.score_std = std::sqrt(std::max(0.0, state.score_squares / n - report.score_mean * report.score_mean));
        report.score_min = state.score_low;
        report.score_max = state.score_high;
        const bool counts_bits = guided.method.budget == guided_method::budget_of::bits;
        const double share = guided_place{guided.layer, guided.n_layer}.share(guided.method);
        report.budget_use = (counts_bits ? state.code_bits / 8.0 : state.n_kept) / (share * n_read);
    }
    return report;
}

}  // namespace livekv
