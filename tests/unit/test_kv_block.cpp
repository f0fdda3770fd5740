// The block format: where codes and sections lie.

#include <cmath>
#include <cstring>

#include "check.h"
#include "error.h"
#include "kv/kv_grid.h"
#include "kv/kv_pack.h"
#include "random_rows.h"

using namespace livekv;

namespace {

constexpr int32_t all_bits[] = {2, 3, 4, 5, 8};
constexpr int32_t lengths[] = {1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 100, 512, 4096};
constexpr int32_t head_dims[] = {8, 16, 24, 40, 64, 128, 264};

size_t n_bricks(const kv_block_header & h) {
    const size_t d = h.head_dim;
    const size_t n = h.n_tokens;
    return h.side == kv_side::key ? (n + 15) / 16 * (d / 4) : (d + 15) / 16 * ((n + 3) / 4);
}

}  // namespace

TEST(every_code_has_a_place_of_its_own) {
    for (const kv_side side : {kv_side::key, kv_side::value}) {
        for (const int32_t n : lengths) {
            for (const int32_t d : head_dims) {
                const kv_block_header h = kv_header(side, n, d, 4, n, 1, false);
                std::vector<bool> taken(n_bricks(h) * 64);
                bool distinct = true;
                for (int32_t token = 0; token < n; ++token) {
                    for (int32_t channel = 0; channel < d; ++channel) {
                        const kv_place place = kv_place_of(h, token, channel);
                        const size_t at = place.brick * 64 + static_cast<size_t>(place.code);
                        distinct = distinct && place.code >= 0 && place.code < 64 && at < taken.size() && !taken[at];
                        if (at < taken.size()) {
                            taken[at] = true;
                        }
                    }
                }
                CHECK(distinct);
            }
        }
    }
}

TEST(a_tile_reads_bricks_of_its_own_tokens_only) {
    for (const int32_t n : lengths) {
        for (const int32_t d : head_dims) {
            size_t end = 0;  // of the bricks of the tiles before
            for (int32_t tile = 0; tile < kv_ceil_div(n, kv_tile_tokens); ++tile) {
                CHECK_EQ(kv_value_tile_brick(d, tile), end);
                end += static_cast<size_t>(kv_ceil_div(d, 16) * kv_value_tile_quads(n, tile));
                const int32_t last = std::min(n, (tile + 1) * kv_tile_tokens) - 1;
                CHECK(kv_value_place(n, d, tile * kv_tile_tokens, 0).brick >= kv_value_tile_brick(d, tile));
                CHECK(kv_value_place(n, d, last, d - 1).brick < end);
            }
            CHECK_EQ(end, n_bricks(kv_header(kv_side::value, n, d, 4, 1, 1, false)));
        }
    }
}

TEST(sections_follow_each_other_aligned) {
    int n_shapes = 0;
    for (const kv_side side : {kv_side::key, kv_side::value}) {
        for (const int32_t n : lengths) {
            for (const int32_t d : {8, 40, 128, 256, 264, 2048}) {
                for (const int32_t bits : all_bits) {
                    for (const int32_t group : {32, 128, n}) {
                        for (const int32_t k : {0, 1, 3}) {
                            for (const bool centres : {false, true}) {
                                const bool key = side == kv_side::key;
                                const kv_block_header h =
                                    kv_header(side, n, d, bits, std::min(group, n), std::min(k, n), centres);
                                const kv_block_map m = kv_map(h);
                                const size_t n_scales =
                                    key ? static_cast<size_t>((n + h.group - 1) / h.group * d) : static_cast<size_t>(n);
                                const size_t n_out = static_cast<size_t>(key ? d : n) * h.n_outliers;
                                const size_t place_bytes = key || d > 256 ? 2 : 1;
                                const size_t tiles_bytes =
                                    key && h.n_outliers ? 4 * static_cast<size_t>((n + 31) / 32 + 1) : 0;
                                const size_t brick_bytes = 8 * static_cast<size_t>(bits);
                                bool ok = m.scales == 16 && m.outliers == 16 + 2 * n_scales;
                                ok = ok && m.index == m.outliers + 2 * n_out && m.index % 2 == 0;
                                const size_t index_end = m.index + place_bytes * n_out;
                                ok = ok && (!tiles_bytes ||
                                            (m.tiles >= index_end && m.tiles < index_end + 4 && m.tiles % 4 == 0));
                                const size_t tiles_end = tiles_bytes ? m.tiles + tiles_bytes : index_end;
                                ok = ok && m.centres == tiles_end;
                                const size_t head_end = m.centres + (centres ? n_scales : 0);
                                ok = ok && m.codes >= head_end && m.codes < head_end + 64 && m.codes % 64 == 0;
                                const size_t codes_end = m.codes + n_bricks(h) * brick_bytes;
                                ok = ok && m.bytes >= codes_end && m.bytes < codes_end + 64 && m.bytes % 64 == 0;
                                const size_t used = 16 + 2 * n_scales + n_out * (2 + place_bytes) + tiles_bytes +
                                                    (centres ? n_scales : 0) +
                                                    (static_cast<size_t>(n * d) * static_cast<size_t>(bits) + 7) / 8;
                                ok = ok && m.padding == m.bytes - used;
                                CHECK(ok);
                                ++n_shapes;
                            }
                        }
                    }
                }
            }
        }
    }
    CHECK(n_shapes > 10000);
}

TEST(a_code_lies_in_the_bits_the_format_says) {
    for (const int32_t bits : all_bits) {
        for (const kv_side side : {kv_side::key, kv_side::value}) {
            for (const auto & [token, channel] :
                 {std::pair(0, 0), std::pair(5, 3), std::pair(37, 21), std::pair(39, 39)}) {
                IN("bits=", bits, side == kv_side::key ? " keys" : " values", " token=", token, " channel=", channel);
                const kv_block_header h = kv_header(side, 40, 40, bits, 40, 1, false);
                const kv_block_map m = kv_map(h);
                std::vector<uint8_t> block(m.bytes);
                std::memcpy(block.data(), &h, sizeof(h));
                set_block_code(block.data(), token, channel, (1 << bits) - 1);
                // As kv_block.h draws it: bricks of keys [16 tokens][4 channels], of values [16 channels][4 tokens].
                const int32_t quads = token < 32 ? 8 : 2;
                const int32_t brick = side == kv_side::key ? token / 16 * 10 + channel / 4
                                                           : token / 32 * 3 * 8 + channel / 16 * quads + token % 32 / 4;
                const int32_t i = side == kv_side::key ? token % 16 * 4 + channel % 4 : channel % 16 * 4 + token % 4;
                std::vector<uint8_t> expected(m.bytes);
                std::memcpy(expected.data(), &h, sizeof(h));
                uint8_t * const at = expected.data() + m.codes + brick * 8 * bits;
                if (bits == 8) {
                    at[i] = 255;
                } else if (bits >= 4) {
                    at[i % 32] = static_cast<uint8_t>(15 << 4 * (i / 32));
                } else {
                    at[i % 16] = static_cast<uint8_t>(3 << 2 * (i / 16));
                }
                if (bits == 3 || bits == 5) {
                    at[(bits == 3 ? 16 : 32) + i / 8] = static_cast<uint8_t>(1 << i % 8);
                }
                CHECK(block == expected);
            }
        }
    }
}

TEST(codes_written_in_any_order_stay_what_they_are) {
    std::mt19937 rng(1);
    for (const int32_t bits : all_bits) {
        for (const kv_side side : {kv_side::key, kv_side::value}) {
            for (const auto & [n, d] : {std::pair(1, 8), std::pair(33, 40), std::pair(70, 264)}) {
                IN("bits=", bits, side == kv_side::key ? " keys" : " values", " n=", n, " head_dim=", d);
                const kv_block_header h = kv_header(side, n, d, bits, n, 1, true);
                std::vector<uint8_t> block(kv_map(h).bytes, 0xa5);  // what was there before must not show
                std::memcpy(block.data(), &h, sizeof(h));
                const std::vector<uint8_t> before(block.begin(), block.begin() + static_cast<int64_t>(kv_map(h).codes));
                std::vector<int32_t> codes(static_cast<size_t>(n * d));
                for (int pass = 0; pass < 2; ++pass) {
                    for (size_t i = 0; i < codes.size(); ++i) {
                        codes[i] = static_cast<int32_t>(rng() % (1u << bits));
                        set_block_code(block.data(), static_cast<int32_t>(i) / d, static_cast<int32_t>(i) % d,
                                       codes[i]);
                    }
                }
                bool equal = true;
                for (size_t i = 0; i < codes.size(); ++i) {
                    equal = equal && block_code(block.data(), static_cast<int32_t>(i) / d,
                                                static_cast<int32_t>(i) % d) == codes[i];
                }
                CHECK(equal);
                CHECK(std::equal(before.begin(), before.end(), block.begin()));
            }
        }
    }
}

TEST(shapes_the_format_cannot_hold_are_errors) {
    const kv_method m;
    for (const int64_t d : {-8, 0, 4, 12, 100, 2056}) {
        IN("head_dim=", d);
        CHECK_ERROR(block_header(m, kv_side::key, 32, d),
                    "multiple of 8 values, up to 2048, but head_dim is " + std::to_string(d));
    }
    for (const int64_t n : {-1, 0, 4097}) {
        IN("n=", n);
        CHECK_ERROR(block_header(m, kv_side::key, n, 64), "n_tokens");
    }
    CHECK_EQ(block_header(m, kv_side::value, 4096, 2048).head_dim, 2048);
}

TEST_MAIN
