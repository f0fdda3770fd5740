#include "kv/level_block.h"

#include <algorithm>
#include <cstring>

#include "error.h"
#include "kv/kv_check.h"
#include "kv/kv_pack.h"

namespace livekv {

namespace {

constexpr size_t places_at = sizeof(kv_block_header) + kv_n_levels * sizeof(kv_level);

kv_block_header header_of(const uint8_t * block) {
    kv_block_header h;
    std::memcpy(&h, block, sizeof(h));
    return h;
}

// The tokens of x that are of a level, one after the other.
std::vector<float> rows_of_level(const level_plan & plan, size_t level, std::span<const float> x) {
    const size_t d = plan.header.head_dim;
    std::vector<float> rows;
    for (size_t t = 0; t < plan.places.size(); ++t) {
        if (plan.places[t] == level) {
            rows.insert(rows.end(), x.begin() + static_cast<std::ptrdiff_t>(t * d),
                        x.begin() + static_cast<std::ptrdiff_t>((t + 1) * d));
        }
    }
    return rows;
}

bool is_width(int32_t bits) {
    return bits == 16 || bits == 8 || bits == 5 || bits == 4 || bits == 3 || bits == 2;
}

}  // namespace

level_plan plan_levels(kv_side side, guided_method::key_axis axis, std::span<const uint8_t> bits, int64_t head_dim) {
    std::vector<uint8_t> widths(bits.begin(), bits.end());
    std::ranges::sort(widths, std::greater<>());
    widths.erase(std::unique(widths.begin(), widths.end()), widths.end());
    std::erase(widths, 0);
    LIVEKV_ASSERT(widths.size() <= kv_n_levels && std::ranges::all_of(widths, is_width));
    level_plan plan;
    for (const uint8_t b : bits) {
        const auto found = std::ranges::find(widths, b);
        plan.places.push_back(b == 0 ? kv_no_level : static_cast<uint8_t>(found - widths.begin()));
    }
    size_t at = kv_align(places_at + bits.size(), kv_block_align);
    plan.levels.resize(kv_n_levels);
    for (size_t i = 0; i < widths.size(); ++i) {
        const auto n = std::ranges::count(bits, widths[i]);
        plan.levels[i] = {static_cast<uint32_t>(at), static_cast<uint16_t>(n), widths[i]};
        at += kv_map(guided_header(side, axis, n, head_dim, widths[i])).bytes;
    }
    plan.header = kv_level_header(side, static_cast<int32_t>(bits.size()), static_cast<int32_t>(head_dim), at);
    return plan;
}

std::vector<uint8_t> seal_levels(const level_plan & plan, guided_method::key_axis axis, std::span<const float> x) {
    const kv_block_header & h = plan.header;
    const kv_block_map map = kv_map(h);
    LIVEKV_ASSERT(x.size() == static_cast<size_t>(h.n_tokens) * h.head_dim);
    std::vector<uint8_t> block(map.bytes);
    std::memcpy(block.data(), &h, sizeof(h));
    std::memcpy(block.data() + map.levels, plan.levels.data(), kv_n_levels * sizeof(kv_level));
    std::ranges::copy(plan.places, block.data() + map.places);
    for (size_t i = 0; i < plan.levels.size(); ++i) {
        const kv_level & level = plan.levels[i];
        if (level.n_tokens > 0) {
            const kv_block_header inner = guided_header(h.side, axis, level.n_tokens, h.head_dim, level.bits);
            std::ranges::copy(guided_block(inner, rows_of_level(plan, i, x)), block.data() + level.offset);
        }
    }
    return block;
}

uint8_t level_of_token(const uint8_t * block, int32_t token) {
    return block[places_at + static_cast<size_t>(token)];
}

bool same_tokens(const uint8_t * a, const uint8_t * b) {
    return std::memcmp(a + places_at, b + places_at, header_of(a).n_tokens) == 0;
}

kv_level level_of_block(const uint8_t * block, int32_t level) {
    kv_level one;
    std::memcpy(&one, block + sizeof(kv_block_header) + static_cast<size_t>(level) * sizeof(one), sizeof(one));
    return one;
}

int32_t tokens_of_level(const uint8_t * block, int32_t level, int32_t n) {
    return static_cast<int32_t>(std::count(block + places_at, block + places_at + n, static_cast<uint8_t>(level)));
}

std::vector<float> unpack_levels(const uint8_t * block) {
    const kv_block_header h = header_of(block);
    const size_t d = h.head_dim;
    std::vector<float> x(h.n_tokens * d);
    for (int32_t i = 0; i < kv_n_levels; ++i) {
        const kv_level level = level_of_block(block, i);
        if (level.n_tokens == 0) {
            continue;
        }
        std::vector<float> rows(level.n_tokens * d);
        unpack_rows(block + level.offset, 0, level.n_tokens, rows.data());
        auto from = rows.begin();
        for (size_t t = 0; t < h.n_tokens; ++t) {
            if (block[places_at + t] == i) {
                std::copy_n(from, d, x.begin() + static_cast<std::ptrdiff_t>(t * d));
                from += static_cast<std::ptrdiff_t>(d);
            }
        }
    }
    return x;
}

std::string problem_of_levels(const uint8_t * block, const kv_block_header & expected) {
    const kv_block_map map = kv_map(expected);
    if (map.bytes < map.codes) {
        return "it has no room for its levels";
    }
    size_t at = map.codes;
    int32_t before = 17;
    int32_t n_placed = 0;
    for (int32_t i = 0; i < kv_n_levels; ++i) {
        const kv_level level = level_of_block(block, i);
        const int32_t n = tokens_of_level(block, i, expected.n_tokens);
        n_placed += n;
        if (n != level.n_tokens || (n == 0 && (level.offset != 0 || level.bits != 0))) {
            return "its levels do not have the tokens that are of them";
        }
        if (n == 0) {
            before = 0;
            continue;
        }
        if (!is_width(level.bits) || level.bits >= before || level.offset != at) {
            return "its levels are impossible";
        }
        before = level.bits;
        const auto problem_of = [&](guided_method::key_axis axis) {
            const kv_block_header inner = guided_header(expected.side, axis, n, expected.head_dim, level.bits);
            const size_t bytes = kv_map(inner).bytes;
            if (bytes > map.bytes - at) {
                return std::string("its levels need more bytes than it has");
            }
            const std::string problem = problem_of_block(block + at, inner);
            at += problem.empty() ? bytes : 0;
            return problem;
        };
        const std::string by_channel = problem_of(guided_method::key_axis::channel);
        if (!by_channel.empty()) {
            const bool may_be_by_token = expected.side == kv_side::key && level.bits < 16;
            if (!may_be_by_token || !problem_of(guided_method::key_axis::token).empty()) {
                return by_channel;
            }
        }
    }
    const auto n_none = std::count(block + places_at, block + places_at + expected.n_tokens, kv_no_level);
    return n_placed + n_none == expected.n_tokens && at == map.bytes ? "" : "its levels are not all there is in it";
}

}  // namespace livekv
