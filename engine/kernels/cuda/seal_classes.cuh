#pragma once

// Sealing keys in classes of width (kv_classes.h), in three launches, as widths depend on all of a head's keys: what
// lies in each group of a channel, and what queries were (measure_classes); the widths, and what belongs to a block but
// its codes (choose_classes); the codes (write_classes). Sums are made in the CPU's order, by one thread.

#include "kernels/cuda/brick.h"
#include "kernels/cuda/seal_feedback.cuh"
#include "kernels/cuda/seal_queries.cuh"
#include "kernels/cuda/seal_values.cuh"
#include "kv/class_grid.h"
#include "kv/kv_ema.h"

namespace livekv::device {

constexpr int32_t most_class_quads = 128;  // of a head

// Tokens of a key group that are not sinks: first ... last - 1.
struct group_tokens {
    int32_t first;
    int32_t last;
};
SIMT_FN group_tokens tokens_of_group(const device_seal & s, int32_t group) {
    const int32_t g = s.k_header.group;
    const int32_t last = (group + 1) * g < s.n_tokens ? (group + 1) * g : s.n_tokens;
    const int32_t first = group * g < s.n_sinks ? s.n_sinks : group * g;
    return {first < last ? first : last, last};
}

// Where a group's channel is measured.
SIMT_FN device_moments & moments_of(const device_seal & s, int32_t head, int32_t group, int32_t c) {
    const int32_t n_groups = s.k_map.n_scales / s.head_dim;
    return s.moments[(static_cast<size_t>(head) * static_cast<size_t>(n_groups) + static_cast<size_t>(group)) *
                         static_cast<size_t>(s.head_dim) +
                     static_cast<size_t>(c)];
}

// All channels of a group, a thread each.
SIMT_FN void measure_group(const device_seal & s, int32_t group, int32_t head) {
    const size_t row = static_cast<size_t>(s.n_head_kv) * static_cast<size_t>(s.head_dim);
    const group_tokens tokens = tokens_of_group(s, group);
    for (int32_t c = simt::thread(); c < s.head_dim; c += seal_threads) {
        device_moments m = {};
        const uint16_t * const from = s.k + head * s.head_dim + c;
        const auto value = [&](int32_t t) { return simt::to_float(from[static_cast<size_t>(t) * row]); };
        if (tokens.first < tokens.last) {
            m.low = m.high = value(tokens.first);
            for (int32_t t = tokens.first + 1; t < tokens.last; ++t) {
                m.low = simt::smaller(value(t), m.low);
                m.high = simt::larger(value(t), m.high);
            }
            for (int32_t t = tokens.first; t < tokens.last; ++t) {
                const float above = value(t) - m.low;
                m.sum += above;
                m.squares += above * above;
            }
        }
        moments_of(s, head, group, c) = m;
    }
}

// Grid: x: groups of keys, queries where there are any, then tiles of values; y: kv heads.
SIMT_KERNEL void measure_classes_kernel(const SIMT_PARAM device_seal s) {
    const int32_t n_groups = s.k_map.n_scales / s.head_dim;
    const int32_t n_queries = s.new_state ? 1 : 0;
    const int32_t i = simt::block_x();
    if (i < n_groups) {
        measure_group(s, i, simt::block_y());
    } else if (i < n_groups + n_queries) {
        sum_queries(s, simt::block_y());
        if (s.method.key_feedback) {
            mean_queries(s, simt::block_y());
        }
    } else {
        seal_value_tile(s, i - n_groups - n_queries, simt::block_y());
    }
}

// Of a head of d channels, in shared memory.
struct choice_memory {
    double * whole;       // [d] what a channel costs without a bit
    double * errors;      // [d / 4, n_widths_chosen] what a quad costs
    channel_cost * cost;  // [d]
    uint16_t * ranked;    // [d] channels by falling cost: before widths are chosen, quads of four
    uint8_t * widths;     // [d / 4] numbers of the quads' widths

    LIVEKV_HD static size_t bytes(int32_t d) {
        return static_cast<size_t>(d) * (sizeof(double) + sizeof(channel_cost) + sizeof(uint16_t)) +
               static_cast<size_t>(d / 4) * (n_widths_chosen * sizeof(double) + 1);
    }
    SIMT_MEMBER static choice_memory at(uint8_t * memory, int32_t d) {
        choice_memory m;
        m.whole = simt::as<double>(memory);
        m.errors = m.whole + d;
        m.cost = reinterpret_cast<channel_cost *>(m.errors + d / 4 * n_widths_chosen);
        m.ranked = reinterpret_cast<uint16_t *>(m.cost + d);
        m.widths = reinterpret_cast<uint8_t *>(m.ranked + d);
        return m;
    }
};

SIMT_FN channel_range range_in(const device_seal & s, int32_t head, int32_t group, int32_t c) {
    const group_tokens tokens = tokens_of_group(s, group);
    if (tokens.first == tokens.last) {
        return {};
    }
    const device_moments & m = moments_of(s, head, group, c);
    const bool bounded = s.method.scale_method == kv_method::scale::ema_clipped;
    return livekv::range_of(m.low, m.high, m.sum, m.squares, static_cast<size_t>(tokens.last - tokens.first),
                            bounded ? s.bounds[head * s.head_dim + c] : INFINITY);
}

// Moves the statistics of a head's channels by what was measured; sinks count as 0.
SIMT_FN void move_statistics(const device_seal & s, int32_t head) {
    const int32_t n_groups = s.k_map.n_scales / s.head_dim;
    for (int32_t c = simt::thread(); c < s.head_dim; c += seal_threads) {
        float high = 0.0f;
        float low = 0.0f;
        for (int32_t g = 0; g < n_groups; ++g) {
            const device_moments & m = moments_of(s, head, g, c);
            high = simt::larger(high, m.high);
            low = simt::smaller(low, m.low);
        }
        const size_t at = static_cast<size_t>(head) * static_cast<size_t>(s.state_floats) + static_cast<size_t>(c);
        const channel_ema e = ema_after(s.method, {s.old_state ? s.state_before(at) : 0.0f, 0.0f, INFINITY}, high, low);
        s.put_state(at, e.high);
        s.bounds[head * s.head_dim + c] = e.bound;
    }
}

// What channels and quads cost, and the channels' ranks.
SIMT_FN void take_costs(const device_seal & s, int32_t head, const choice_memory & m) {
    const int32_t d = s.head_dim;
    const int32_t n_groups = s.k_map.n_scales / d;
    for (int32_t c = simt::thread(); c < d; c += seal_threads) {
        float variance = 0.0f;
        float span = 0.0f;
        for (int32_t g = 0; g < n_groups; ++g) {
            const channel_range r = range_in(s, head, g, c);
            variance += r.variance;
            span += r.square();
        }
        m.cost[c] = channel_cost(s.q2[head * d + c], variance, span);
        m.whole[c] = m.cost[c].whole();
    }
    simt::sync();
    for (int32_t c = simt::thread(); c < d; c += seal_threads) {
        int32_t rank = 0;
        for (int32_t k = 0; k < d; ++k) {
            rank += m.whole[k] > m.whole[c] || (m.whole[k] == m.whole[c] && k < c) ? 1 : 0;
        }
        m.ranked[rank] = static_cast<uint16_t>(c);
    }
    simt::sync();
    for (int32_t i = simt::thread(); i < d / 4 * n_widths_chosen; i += seal_threads) {
        const int32_t quad = i / n_widths_chosen;
        double error = 0.0;
        for (int32_t j = 0; j < 4; ++j) {
            error += m.cost[m.ranked[4 * quad + j]].of_width(width_chosen(i % n_widths_chosen));
        }
        m.errors[i] = error;
    }
    simt::sync();
}

SIMT_FN double shuffle_xor_double(double x, int32_t mask) {
    uint32_t w[2];
    memcpy(w, &x, sizeof(w));
    w[0] = simt::shuffle_xor(w[0], mask);
    w[1] = simt::shuffle_xor(w[1], mask);
    memcpy(&x, w, sizeof(x));
    return x;
}

// By one warp, whose lanes have the quads lane + 32 j: bits go, one after the other, to the quad whose error falls
// most.
SIMT_FN void share_bits(const device_seal & s, const choice_memory & m) {
    constexpr int32_t each = most_class_quads / simt::warp_size;
    const int32_t n_quads = s.head_dim / 4;
    int32_t left = s.k_header.width_sum;
    int32_t at[each] = {};
    class_raise next[each];
    SIMT_UNROLL
    for (int32_t j = 0; j < each; ++j) {
        const int32_t quad = simt::lane() + simt::warp_size * j;
        next[j] = quad < n_quads ? best_raise(m.errors + quad * n_widths_chosen, 0, left) : class_raise{-2.0, 0};
    }
    while (left > 0) {
        class_raise best = {-2.0, 0};
        uint32_t who = 0;  // quad << 8 | number of its width
        SIMT_UNROLL
        for (int32_t j = 0; j < each; ++j) {
            if (next[j].rate > best.rate) {
                best = next[j];
                who = static_cast<uint32_t>((simt::lane() + simt::warp_size * j) << 8 | at[j]);
            }
        }
        for (int32_t step = 16; step > 0; step /= 2) {
            const double rate = shuffle_xor_double(best.rate, step);
            const uint32_t to = simt::shuffle_xor(static_cast<uint32_t>(best.to), step);
            const uint32_t other = simt::shuffle_xor(who, step);
            if (rate > best.rate || (rate == best.rate && other < who)) {
                best = {rate, static_cast<int32_t>(to)};
                who = other;
            }
        }
        if (best.to == 0) {
            break;
        }
        left -= width_chosen(best.to) - width_chosen(static_cast<int32_t>(who & 255u));
        SIMT_UNROLL
        for (int32_t j = 0; j < each; ++j) {
            const int32_t quad = simt::lane() + simt::warp_size * j;
            const bool chosen = static_cast<int32_t>(who >> 8) == quad;
            at[j] = chosen ? best.to : at[j];
            const bool too_much = width_chosen(next[j].to) - width_chosen(at[j]) > left;
            if (quad < n_quads && (chosen || too_much)) {
                next[j] = best_raise(m.errors + quad * n_widths_chosen, at[j], left);
            }
        }
    }
    SIMT_UNROLL
    for (int32_t j = 0; j < each; ++j) {
        const int32_t quad = simt::lane() + simt::warp_size * j;
        if (quad < n_quads) {
            m.widths[quad] = static_cast<uint8_t>(at[j]);
        }
    }
    simt::sync_warp();
    if (left == 1 && simt::lane() == 0) {  // as on the CPU: one gives a bit for another's first two
        constexpr int32_t last = n_widths_chosen - 1;
        int32_t widest = n_quads - 1;
        while (widest > 0 && m.widths[widest] != last) {
            --widest;
        }
        m.widths[widest] = last - 1;
        int32_t first = 0;
        while (first + 1 < n_quads && m.widths[first] != 0) {
            ++first;
        }
        m.widths[first] = 1;
    }
}

// Order and widths; quads by falling width.
SIMT_FN void write_order(const device_seal & s, const choice_memory & m, uint8_t * block) {
    for (int32_t quad = simt::thread(); quad < s.head_dim / 4; quad += seal_threads) {
        int32_t rank = 0;
        for (int32_t k = 0; k < s.head_dim / 4; ++k) {
            rank += m.widths[k] > m.widths[quad] || (m.widths[k] == m.widths[quad] && k < quad) ? 1 : 0;
        }
        put(block, s.k_map.widths, static_cast<size_t>(rank), static_cast<uint8_t>(width_chosen(m.widths[quad])));
        for (int32_t j = 0; j < 4; ++j) {
            put(block, s.k_map.order, static_cast<size_t>(4 * rank + j), m.ranked[4 * quad + j]);
        }
    }
}

// Scales and minima of all groups, in the block's order.
SIMT_FN void write_grids(const device_seal & s, int32_t head, uint8_t * block) {
    const uint16_t * const order = simt::as<uint16_t>(block + s.k_map.order);
    for (int32_t i = simt::thread(); i < s.k_map.n_scales; i += seal_threads) {
        const int32_t place = i % s.head_dim;
        const channel_range r = range_in(s, head, i / s.head_dim, order[place]);
        const class_grid grid(r.low, r.high, r.mean, block[s.k_map.widths + static_cast<size_t>(place / 4)]);
        put(block, s.k_map.scales, static_cast<size_t>(i), f32_to_f16(grid.scale));
        put(block, s.k_map.minima, static_cast<size_t>(i), f32_to_f16(grid.minimum));
    }
}

// Grid: x: 1, y: kv heads.
SIMT_KERNEL void choose_classes_kernel(const SIMT_PARAM device_seal s) {
    const int32_t head = simt::block_y();
    if (s.new_state && s.state_floats > s.head_dim) {
        move_statistics(s, head);
    }
    if (!s.k_blocks) {
        return;
    }
    simt::sync();  // the bounds are there
    const choice_memory m = choice_memory::at(simt::shared(), s.head_dim);
    take_costs(s, head, m);
    if (simt::warp() == 0) {
        share_bits(s, m);
    }
    simt::sync();
    uint8_t * const block = s.k_blocks + static_cast<size_t>(head) * s.k_map.bytes;
    write_order(s, m, block);
    simt::sync();
    write_grids(s, head, block);
    if (s.method.key_feedback && simt::warp() == 0) {
        factor_feedback(s, head, simt::as<uint16_t>(block + s.k_map.order));
    }
    const kv_block_map & map = s.k_map;
    write_header(s.k_header, block);
    clear_bytes(block, map.centres, map.codes);
    const size_t row_bytes = static_cast<size_t>(8 * s.k_header.width_sum);
    clear_bytes(block, map.codes + static_cast<size_t>(kv_ceil_div(s.n_tokens, 16)) * row_bytes, map.bytes);
}

// A tile's codes before they are packed.
struct class_codes_memory {
    uint32_t * first;  // [d / 4] where a quad's bricks begin in a row of them
    uint8_t * codes;   // [32, d + 4] in the block's order

    LIVEKV_HD static size_t bytes(int32_t d) { return static_cast<size_t>(d + 32 * (d + 4)); }
    SIMT_MEMBER static class_codes_memory at(uint8_t * memory, int32_t d) {
        return {simt::as<uint32_t>(memory), memory + d};
    }
};

// Grid: x: tiles of 32 tokens, y: kv heads.
SIMT_KERNEL void write_classes_kernel(const SIMT_PARAM device_seal s) {
    const int32_t d = s.head_dim;
    const int32_t tile = simt::block_x();
    const int32_t head = simt::block_y();
    const kv_block_map & map = s.k_map;
    uint8_t * const block = s.k_blocks + static_cast<size_t>(head) * map.bytes;
    const uint8_t * const widths = block + map.widths;
    const class_codes_memory m = class_codes_memory::at(simt::shared(), d);
    for (int32_t quad = simt::thread(); quad < d / 4; quad += seal_threads) {
        uint32_t sum = 0;
        for (int32_t k = 0; k < quad; ++k) {
            sum += widths[k];
        }
        m.first[quad] = 8 * sum;
    }
    const size_t row = static_cast<size_t>(s.n_head_kv) * static_cast<size_t>(d);
    const int32_t grid_of_tile = tile * kv_tile_tokens / s.k_header.group * d;
    const uint16_t * const scales = simt::as<uint16_t>(block + map.scales) + grid_of_tile;
    const uint16_t * const minima = simt::as<uint16_t>(block + map.minima) + grid_of_tile;
    if (s.method.key_feedback) {
        float * const sums = simt::as<float>(simt::shared() + class_codes_memory::bytes(d));
        tile_codes_with_feedback(s, tile, head, block, scales, minima, sums, m.codes);
    }
    const int32_t n_channels = s.method.key_feedback ? 0 : 2 * d;
    for (int32_t i = simt::thread(); i < n_channels; i += seal_threads) {  // a thread: 16 tokens of a channel
        const int32_t place = i % d;
        const int32_t c = simt::as<uint16_t>(block + map.order)[place];
        const class_grid grid(simt::to_float(scales[place]), simt::to_float(minima[place]), widths[place / 4]);
        const uint16_t * const from = s.k + head * d + c;
        for (int32_t j = 0; j < 16; ++j) {
            const int32_t in_tile = i / d * 16 + j;
            const int32_t t = tile * kv_tile_tokens + in_tile;
            const bool sealed = t >= s.n_sinks && t < s.n_tokens;
            m.codes[in_tile * (d + 4) + place] =
                static_cast<uint8_t>(sealed ? grid.code(simt::to_float(from[static_cast<size_t>(t) * row])) : 0);
        }
    }
    simt::sync();
    constexpr int32_t most_words = brick_words(widest_class);
    const int32_t n_sixteens = s.n_tokens - tile * kv_tile_tokens > 16 ? 2 : 1;
    for (int32_t i = simt::thread(); i < n_sixteens * (d / 4) * most_words; i += seal_threads) {
        const int32_t w = i % most_words;
        const int32_t quad = i / most_words % (d / 4);
        const int32_t sixteen = i / most_words / (d / 4);
        const int32_t width = widths[quad];
        if (w >= brick_words(width)) {
            continue;
        }
        const auto codes_of = [&](int32_t r) -> uint32_t {
            return *simt::as<uint32_t>(m.codes + (16 * sixteen + r) * (d + 4) + 4 * quad);
        };
        const size_t at = map.codes +
                          static_cast<size_t>(2 * tile + sixteen) * static_cast<size_t>(8 * s.k_header.width_sum) +
                          m.first[quad];
        put(block, at, static_cast<size_t>(w), brick_word(width, w, codes_of));
    }
}

}  // namespace livekv::device
