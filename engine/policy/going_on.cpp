#include "policy/going_on.h"

#include <algorithm>
#include <numeric>

#include "error.h"
#include "store/tail_weights.h"

namespace livekv {

going_on::going_on(const guided_plan & of, int64_t n_prompt, int64_t first, int64_t n, int64_t n_outputs)
    : of_(of), n_prompt_(n_prompt), first_(first), last_too_(n_outputs > 0), gathers_(n_outputs <= 1) {
    ends_.fill(of.n_layer);
    size_t n_ends = 0;
    held_[0].resize(static_cast<size_t>(n));
    for (int64_t il = 0; il < of.n_layer; ++il) {
        const guided_place place = guided_place_of(of.method, il, of.n_layer, n_prompt);
        if (place.lets_go(of.method)) {
            const int64_t n_in = static_cast<int64_t>(held_[n_ends].size());
            ends_[n_ends++] = il;
            held_[n_ends].resize(static_cast<size_t>(n_best_tokens(of.method, place, first, n, n_in, last_too_)));
        }
    }
    for (std::vector<int32_t> & tokens : held_) {
        std::iota(tokens.begin(), tokens.end(), 0);  // any, should a pass fail before it chooses
    }
}

size_t going_on::stage(int64_t il) const {
    return static_cast<size_t>(std::ranges::count_if(ends_, [&](int64_t end) { return end < il; }));
}

void going_on::choose(int64_t il, std::span<float> weights, const guided_state & before) {
    const std::vector<int32_t> & in = held_[stage(il)];
    std::vector<int32_t> & stay = held_[stage(il + 1)];
    const std::span<float> mine = weights.last(held_[0].size());
    guided_range range = before.range;
    std::vector<float> attention;
    for (const float w : weights.first(weights.size() - mine.size())) {
        if (tail_weight::came_in(w)) {
            attention.push_back(tail_weight::of(w));
        }
    }
    range.add(attention);
    attention.clear();
    std::vector<int64_t> positions;
    for (const int32_t token : in) {
        attention.push_back(mine[static_cast<size_t>(token)]);
        positions.push_back(first_ + token);
    }
    range.add(attention);
    const guided_place place = guided_place_of(of_.method, il, of_.n_layer, n_prompt_);
    guided_scores scores = guided_scores_of(of_.method, place, range, positions, attention);
    if (last_too_) {
        scores.is_protected.back() = 1;
    }
    const guided_bits best =
        guided_bits_of(of_.method, place, scores, positions, static_cast<int64_t>(held_[0].size()));
    LIVEKV_ASSERT(best.kept.size() == stay.size());
    size_t n_stay = 0;
    for (size_t i = 0; i < in.size(); ++i) {
        if (n_stay < stay.size() && best.kept[n_stay] == static_cast<int32_t>(i)) {
            stay[n_stay++] = in[i];
        } else {
            float & w = mine[static_cast<size_t>(in[i])];
            w = tail_weight::dropped(w);
        }
    }
}

}  // namespace livekv
