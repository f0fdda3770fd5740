#include "policy/guided_seal.h"

#include <algorithm>
#include <memory>
#include <numeric>

#include "kv/kv_pack.h"
#include "kv/level_block.h"
#include "store/tail_weights.h"

namespace livekv {

namespace {

constexpr double unit = 1024.0;  // dividing by a power of two loses nothing

// Calls f for every number of a state that is counted or summed up.
template <typename State, typename F>
void for_each_sum(State & s, F && f) {
    f(s.range.n);
    f(s.range.sum);
    f(s.range.squares);
    f(s.n_kept);
    f(s.n_high);
    f(s.n_mid);
    f(s.code_bits);
    f(s.score_sum);
    f(s.score_squares);
}
template <typename State, typename F>
void for_each_end(State & s, F && f) {
    f(s.range.low);
    f(s.range.high);
    f(s.score_low);
    f(s.score_high);
}

// Counts the tokens decided on. bits: of each, with small levels joined; begins: they are the prompt's first.
void count_tokens(const guided_scores & scores, std::span<const uint8_t> bits, bool begins, guided_state & to) {
    for (size_t i = 0; i < bits.size(); ++i) {
        const float score = scores.score[i];
        const bool is_first = begins && i == 0;
        to.score_low = is_first ? score : std::min(to.score_low, score);
        to.score_high = is_first ? score : std::max(to.score_high, score);
        to.score_sum += score;
        to.score_squares += static_cast<double>(score) * score;
        to.code_bits += bits[i];
        to.n_kept += bits[i] > 0;
        to.n_high += bits[i] > 0 && scores.label[i] == 2;
        to.n_mid += bits[i] > 0 && scores.label[i] == 1;
    }
}

void note_error(std::span<const float> x, std::span<const uint8_t> bits, const uint8_t * block, kv_error_sums & error) {
    const std::vector<float> stored = unpack_block(block);
    const size_t d = x.size() / bits.size();
    for (size_t i = 0; i < x.size(); ++i) {
        const double lost = bits[i / d] > 0 ? static_cast<double>(x[i]) - stored[i] : 0.0;
        error.signal += bits[i / d] > 0 ? static_cast<double>(x[i]) * x[i] : 0.0;
        error.noise += lost * lost;
    }
}

}  // namespace

guided_state guided_state::load(const float * from) {
    guided_state s;
    if (from) {
        for_each_end(s, [&](float & x) { x = *from++; });
        for_each_sum(s, [&](double & x) {
            x = unit * (static_cast<double>(from[0]) + from[1]);
            from += 2;
        });
    }
    return s;
}

void guided_state::store(float * to) const {
    for_each_end(*this, [&](float x) { *to++ = x; });
    for_each_sum(*this, [&](double x) {
        *to++ = static_cast<float>(x / unit);
        *to = static_cast<float>(x / unit - to[-1]);
        ++to;
    });
}

guided_decision decide_chunk(const guided_plan & plan, int64_t n_prompt, int64_t first, int64_t n_sinks,
                             std::span<const float> weights, const guided_state & before) {
    std::vector<int64_t> positions;  // of the prompt's tokens that came in, as the next
    std::vector<float> attention;
    std::vector<uint8_t> exact(weights.size());
    int64_t end = first;  // of the prompt, as far as it is in the chunk
    guided_decision out{std::vector<uint8_t>(weights.size()), before};
    for (size_t i = 0; i < weights.size(); ++i) {
        const int64_t position = first + static_cast<int64_t>(i);
        exact[i] = static_cast<int64_t>(i) < n_sinks;
        end = weights[i] != tail_weight::generated ? position + 1 : end;
        out.bits[i] = weights[i] == tail_weight::generated ? static_cast<uint8_t>(plan.method.bits[0]) : uint8_t{0};
        if (tail_weight::came_in(weights[i])) {
            positions.push_back(position);
            attention.push_back(tail_weight::of(weights[i]));
        }
    }
    guided_scores scores;
    if (!positions.empty()) {
        guided_method method = plan.method;
        if (method.propagates == guided_method::propagation::layers) {  // what leaves has left
            method.propagates = guided_method::propagation::off;
        }
        const int64_t n = n_prompt > 0 ? n_prompt : end;
        method.guide_tokens = std::min(method.guide_tokens, n);  // what is left of a prompt may be shorter
        const guided_place place = guided_place_of(method, plan.layer, plan.n_layer, n);
        out.after.range.add(attention);
        scores = guided_scores_of(method, place, out.after.range, positions, attention);
        const guided_bits decided =
            guided_bits_of(method, place, scores, positions, static_cast<int64_t>(positions.size()));
        for (size_t i = 0; i < positions.size(); ++i) {
            const size_t at = static_cast<size_t>(positions[i] - first);
            out.bits[at] = tail_weight::is_held(weights[at]) ? decided.bits[i] : uint8_t{0};
        }
    }
    for (size_t i = 0; i < exact.size(); ++i) {
        out.bits[i] = exact[i] ? uint8_t{16} : out.bits[i];
    }
    join_small_levels(plan.method, exact, out.bits);
    std::vector<uint8_t> of_prompt;
    for (const int64_t position : positions) {
        of_prompt.push_back(out.bits[static_cast<size_t>(position - first)]);
    }
    count_tokens(scores, of_prompt, before.range.n == 0.0, out.after);
    std::fill_n(out.bits.begin(), n_sinks, uint8_t{0});
    return out;
}

std::vector<guided_decision> decide_prompt(const guided_plan & plan, std::span<const int64_t> chunks, int64_t n_sinks,
                                           std::span<const float> attention) {
    const auto n_prompt = static_cast<int64_t>(attention.size());
    const guided_place place = guided_place_of(plan.method, plan.layer, plan.n_layer, n_prompt);
    guided_state state;
    state.range.add(attention);
    std::vector<guided_decision> all;
    int64_t first = 0;
    for (const int64_t n : chunks) {
        std::vector<int64_t> positions(static_cast<size_t>(n));
        std::iota(positions.begin(), positions.end(), first);
        const std::span<const float> mine = attention.subspan(static_cast<size_t>(first), positions.size());
        const guided_scores scores = guided_scores_of(plan.method, place, state.range, positions, mine);
        std::vector<uint8_t> bits = guided_bits_of(plan.method, place, scores, positions, n).bits;
        std::vector<uint8_t> exact(positions.size());
        std::fill_n(exact.begin(), first == 0 ? n_sinks : 0, uint8_t{1});
        join_small_levels(plan.method, exact, bits);
        count_tokens(scores, bits, first == 0, state);
        std::fill_n(bits.begin(), first == 0 ? n_sinks : 0, uint8_t{0});
        all.push_back({std::move(bits), state});
        first += n;
    }
    return all;
}

namespace {

// rows_of(h, x): writes head h's rows of all tokens that have bits into x, f32 [bits.size(), head_dim].
template <typename F>
kv_chunk_side seal_heads(const guided_method & method, kv_side side, size_t n_heads, size_t d,
                         std::span<const uint8_t> bits, std::span<kv_error_sums> errors, F && rows_of) {
    const level_plan levels = plan_levels(side, method.keys, bits, static_cast<int64_t>(d));
    const size_t block_bytes = kv_map(levels.header).bytes;
    kv_chunk_side out;
    out.header = levels.header;
    out.bytes = std::make_shared<page>(host_memory(), n_heads * block_bytes);
    std::vector<float> x(bits.size() * d);
    for (size_t h = 0; h < n_heads; ++h) {
        rows_of(h, x);
        const std::vector<uint8_t> block = seal_levels(levels, method.keys, x);
        std::ranges::copy(block, out.bytes->data() + h * block_bytes);
        if (!errors.empty()) {
            note_error(x, bits, block.data(), errors[h]);
        }
    }
    return out;
}

}  // namespace

kv_chunk_side seal_guided_chunk(const guided_method & method, const cpu_kernels & kernels, kv_side side,
                                std::span<const chunk_rows> heads, std::span<const int32_t> tokens,
                                std::span<const uint8_t> bits, std::span<kv_error_sums> errors) {
    const auto d = static_cast<size_t>(heads.front().head_dim);
    return seal_heads(method, side, heads.size(), d, bits, errors, [&](size_t h, std::vector<float> & x) {
        const std::vector<float> rows = heads[h].to_f32(kernels);
        for (size_t i = 0; i < tokens.size(); ++i) {
            std::copy_n(rows.data() + i * d, d, x.data() + static_cast<size_t>(tokens[i]) * d);
        }
    });
}

kv_chunk_side seal_guided_anew(const guided_method & method, kv_side side, const kv_chunk_side & held,
                               int64_t n_head_kv, std::span<const uint8_t> bits, std::span<kv_error_sums> errors) {
    const auto n_heads = static_cast<size_t>(n_head_kv);
    return seal_heads(method, side, n_heads, held.header->head_dim, bits, errors,
                      [&](size_t h, std::vector<float> & x) {
                          x = unpack_levels(held.bytes->data() + held.bytes->bytes() / n_heads * h);
                      });
}

}  // namespace livekv
