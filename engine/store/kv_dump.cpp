#include "store/kv_dump.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/cpu/rotate_rows.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"
#include "kv/level_block.h"
#include "store/tail_weights.h"

namespace livekv {

namespace {

// Writes one side's chunks, in the order of the sequence, into its arrays.
class side_writer {
  public:
    side_writer(int64_t n_head_kv, int64_t n_tokens, int64_t head_dim, int64_t n_groups)
        : h_(n_head_kv), t_(n_tokens), d_(head_dim) {
        const size_t n = static_cast<size_t>(h_ * t_ * d_);
        out.n_groups = n_groups;
        out.kind.resize(static_cast<size_t>(t_));
        out.group.assign(static_cast<size_t>(t_), -1);
        out.codes.resize(n);
        out.stored.resize(n);
    }

    // rows: f16 [n, n_head_kv, head_dim], of the tokens from first on.
    void rows(const uint16_t * rows, int64_t first, int64_t n, kv_kind kind) {
        for (int64_t i = 0; i < n; ++i) {
            out.kind[static_cast<size_t>(first + i)] = kind;
            for (int64_t h = 0; h < h_; ++h) {
                for (int64_t c = 0; c < d_; ++c) {
                    out.stored[at(h, first + i, c)] = f16_to_f32(rows[(i * h_ + h) * d_ + c]);
                }
            }
        }
    }

    // The same of a tail, of whose tokens some may have no rows.
    void tail(const uint16_t * tail_rows, const kv_layer & layer) {
        for (int64_t i = 0; i < layer.n_tail; ++i) {
            if (!layer.tail_weights.empty() && !tail_weight::is_held(layer.tail_weights.data()[i])) {
                out.kind[static_cast<size_t>(layer.n_chunked + i)] = kv_kind::dropped;
                continue;
            }
            rows(tail_rows, layer.n_chunked + i, 1, kv_kind::tail);
            tail_rows += layer.row();
        }
    }

    // One head's block, of the tokens from first on; n of them are in the sequence. first_group: of the block's.
    void block(const sealed_chunk & sealed, int64_t h, int64_t first, int64_t n, int64_t first_group) {
        const size_t width = sealed.per_channel          ? static_cast<size_t>(d_)
                             : sealed.channel_group == 0 ? 1
                                                         : sealed.scale.size() / static_cast<size_t>(sealed.n_tokens);
        const size_t n_scales = n_groups(sealed, n) * width;
        const size_t from = (static_cast<size_t>(h * out.n_groups + first_group)) * width;
        out.scale.resize(static_cast<size_t>(h_ * out.n_groups) * width);
        out.zero.resize(out.scale.size());
        // Where a block has the dump's grid i: a token's lie side by side here, a group's tokens there.
        const auto at_block = [&](size_t i) {
            return sealed.per_channel ? i : i % width * static_cast<size_t>(sealed.n_tokens) + i / width;
        };
        for (size_t i = 0; i < n_scales; ++i) {
            out.scale[from + i] = sealed.scale[at_block(i)];
            out.zero[from + i] = sealed.zero.empty() ? int16_t{0} : sealed.zero[at_block(i)];
        }
        if (sealed.per_channel) {
            grids_of_keys(sealed, from, n_scales);
        } else if (!sealed.minimum.empty()) {
            out.minimum.resize(out.scale.size());
            out.width.resize(out.scale.size(), static_cast<uint8_t>(sealed.bits));
            for (size_t i = 0; i < n_scales; ++i) {
                out.minimum[from + i] = sealed.minimum[at_block(i)];
            }
        }
        out.levels = sealed.levels;
        const std::vector<float> x = reconstruct(sealed);
        for (int64_t i = 0; i < n; ++i) {
            const size_t t = static_cast<size_t>(first + i);
            out.kind[t] = kv_kind::sealed;
            out.group[t] = static_cast<int32_t>(first_group + (sealed.per_channel ? i / sealed.group : i));
            std::copy_n(x.begin() + i * d_, d_, out.stored.begin() + static_cast<int64_t>(at(h, first + i, 0)));
            std::copy_n(sealed.codes.begin() + i * d_, d_,
                        out.codes.begin() + static_cast<int64_t>(at(h, first + i, 0)));
        }
        for (size_t i = 0; i < sealed.outlier_index.size(); ++i) {
            const int64_t token = sealed.outlier_index[i] / d_;
            if (token < n) {
                const int32_t channel = static_cast<int32_t>(sealed.outlier_index[i] % d_);
                out.outlier_index.insert(out.outlier_index.end(),
                                         {static_cast<int32_t>(h), static_cast<int32_t>(first + token), channel});
                out.outlier_value.push_back(sealed.outlier_value[i]);
            }
        }
    }

    // One head's block of levels, likewise. Tokens of 16 bits are rows.
    void levels(const uint8_t * block, int64_t h, int64_t first, int64_t n, int64_t first_group, bool by_token) {
        const size_t width = by_token ? 1 : static_cast<size_t>(d_);
        for (std::vector<float> * numbers : {&out.scale, &out.minimum}) {
            numbers->resize(static_cast<size_t>(h_ * out.n_groups) * width);
        }
        out.zero.resize(out.scale.size());
        out.width.resize(out.scale.size());
        std::array<sealed_chunk, kv_n_levels> sealed;
        std::array<std::vector<float>, kv_n_levels> x;
        std::array<size_t, kv_n_levels> at_token = {};
        for (int32_t level = 0; level < kv_n_levels; ++level) {
            if (const kv_level one = level_of_block(block, level); one.n_tokens > 0) {
                sealed[static_cast<size_t>(level)] = read_block(block + one.offset);
                x[static_cast<size_t>(level)] = reconstruct(sealed[static_cast<size_t>(level)]);
            }
        }
        for (int64_t i = 0; i < n; ++i) {
            const size_t t = static_cast<size_t>(first + i);
            const size_t level = level_of_token(block, static_cast<int32_t>(i));
            if (level == kv_no_level) {
                out.kind[t] = kv_kind::dropped;
                continue;
            }
            const sealed_chunk & from = sealed[level];
            const int32_t bits = level_of_block(block, static_cast<int32_t>(level)).bits;
            const size_t mine = at_token[level]++;
            std::copy_n(x[level].begin() + static_cast<int64_t>(mine) * d_, d_,
                        out.stored.begin() + static_cast<int64_t>(at(h, first + i, 0)));
            out.kind[t] = bits == 16 ? kv_kind::exact : kv_kind::sealed;
            if (bits == 16) {
                continue;
            }
            const int64_t group = first_group + (by_token ? i : static_cast<int64_t>(level));
            out.group[t] = static_cast<int32_t>(group);
            std::copy_n(from.codes.begin() + static_cast<int64_t>(mine) * d_, d_,
                        out.codes.begin() + static_cast<int64_t>(at(h, first + i, 0)));
            const size_t to = static_cast<size_t>(h * out.n_groups + group) * width;
            const size_t grid = by_token ? mine : 0;
            std::copy_n(from.scale.begin() + static_cast<int64_t>(grid), width,
                        out.scale.begin() + static_cast<int64_t>(to));
            std::copy_n(from.minimum.begin() + static_cast<int64_t>(grid), width,
                        out.minimum.begin() + static_cast<int64_t>(to));
            std::fill_n(out.width.begin() + static_cast<int64_t>(to), width, static_cast<uint8_t>(bits));
        }
    }

    static size_t n_groups(const sealed_chunk & sealed, int64_t n) {
        return static_cast<size_t>(sealed.per_channel ? (n + sealed.group - 1) / sealed.group : n);
    }

    void given_back(int64_t first, int64_t n) { std::fill_n(out.kind.begin() + first, n, kv_kind::given_back); }

    // Sinks are in the chunk's block too, as zeros: nothing of that is to be seen.
    void sinks(const uint16_t * sink_rows, int64_t n) {
        rows(sink_rows, 0, n, kv_kind::sink);
        for (int64_t h = 0; h < h_; ++h) {
            std::fill_n(out.codes.begin() + static_cast<int64_t>(at(h, 0, 0)), n * d_, int16_t{0});
        }
        std::fill_n(out.group.begin(), n, -1);
        size_t kept = 0;
        for (size_t i = 0; i < out.outlier_value.size(); ++i) {
            if (out.outlier_index[3 * i + 1] >= n) {
                std::copy_n(out.outlier_index.begin() + static_cast<int64_t>(3 * i), 3,
                            out.outlier_index.begin() + static_cast<int64_t>(3 * kept));
                out.outlier_value[kept++] = out.outlier_value[i];
            }
        }
        out.outlier_index.resize(3 * kept);
        out.outlier_value.resize(kept);
    }

    void rotate_back(int32_t rotation) {
        out.rotation = rotation;
        out.reconstruction = out.stored;
        for (int64_t row = 0; row < h_ * t_; ++row) {
            rotate_rows(out.reconstruction.data() + row * d_, static_cast<int32_t>(d_), rotation, 1);
        }
    }

    kv_side_dump out;

  private:
    void grids_of_keys(const sealed_chunk & sealed, size_t from, size_t n_scales) {
        const size_t d = static_cast<size_t>(d_);
        std::vector<uint8_t> width(d, static_cast<uint8_t>(sealed.bits));
        for (size_t i = 0; i < sealed.classes.order.size(); ++i) {
            width[sealed.classes.order[i]] = sealed.classes.widths[i / 4];
        }
        out.minimum.resize(out.scale.size());
        out.width.resize(out.scale.size());
        for (size_t i = 0; i < n_scales; ++i) {
            out.minimum[from + i] = sealed.minimum.empty() ? 0.0f : sealed.minimum[i];
            out.width[from + i] = width[i % d];
        }
    }

    size_t at(int64_t h, int64_t t, int64_t c) const { return static_cast<size_t>((h * t_ + t) * d_ + c); }

    int64_t h_;
    int64_t t_;
    int64_t d_;
};

// Whether tokens of a layer in blocks of levels have scales of their own.
bool levels_by_token(const kv_layer & layer, kv_side side) {
    for (const kv_chunk & c : layer.chunks) {
        const kv_chunk_side & one = side == kv_side::key ? c.k : c.v;
        for (int32_t i = 0; one.sealed() && one.header->has_levels() && i < kv_n_levels; ++i) {
            const kv_level level = level_of_block(one.bytes->data(), i);
            if (level.n_tokens > 0 && level.bits < 16) {
                kv_block_header h;
                std::memcpy(&h, one.bytes->data() + level.offset, sizeof(h));
                return h.has_tokens();
            }
        }
    }
    return true;
}

}  // namespace

kv_side_dump dump_side(const kv_layer & layer, kv_side side, int32_t rotation, int32_t bits) {
    const bool key = side == kv_side::key;
    const auto side_of = [&](const kv_chunk & c) -> const kv_chunk_side & { return key ? c.k : c.v; };
    const bool by_token = levels_by_token(layer, side);
    const auto groups_of = [&](const kv_chunk & c) -> int64_t {
        if (side_of(c).sealed() && side_of(c).header->has_levels()) {
            return by_token ? c.n_tokens : kv_n_levels;
        }
        return side_of(c).sealed() ? kv_ceil_div(c.n_tokens, side_of(c).header->tokens_a_grid()) : 0;
    };
    int64_t n_groups = 0;
    for (const kv_chunk & c : layer.chunks) {
        n_groups += groups_of(c);
    }
    side_writer writer(layer.n_head_kv, layer.n_tokens(), layer.head_dim, n_groups);
    int64_t first = 0;
    int64_t first_group = 0;
    for (const kv_chunk & c : layer.chunks) {
        if (c.given_back()) {
            writer.given_back(first, c.n_tokens);
            first += c.n_tokens;
            continue;
        }
        const page & bytes = *side_of(c).bytes;
        const size_t block_bytes = bytes.bytes() / static_cast<size_t>(layer.n_head_kv);
        for (int64_t h = 0; side_of(c).sealed() && h < layer.n_head_kv; ++h) {
            const uint8_t * const block = bytes.data() + static_cast<size_t>(h) * block_bytes;
            if (side_of(c).header->has_levels()) {
                writer.levels(block, h, first, c.n_tokens, first_group, by_token);
            } else {
                writer.block(read_block(block), h, first, c.n_tokens, first_group);
            }
        }
        if (!side_of(c).sealed()) {
            writer.rows(bytes.as<uint16_t>(), first, c.n_tokens, kv_kind::exact);
        }
        first += c.n_tokens;
        first_group += groups_of(c);
    }
    if (!layer.chunks.empty() && !layer.chunks.front().given_back()) {
        const kv_chunk & c = layer.chunks.front();
        writer.sinks(key ? layer.sinks.k.data() : layer.sinks.v.data(), std::min(c.n_sinks, c.n_tokens));
    }
    writer.tail(key ? layer.tail.k.data() : layer.tail.v.data(), layer);
    writer.rotate_back(rotation);
    writer.out.bits = bits;
    return writer.out;
}

}  // namespace livekv
