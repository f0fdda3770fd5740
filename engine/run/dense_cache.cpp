#include "run/dense_cache.h"

#include <atomic>
#include <map>

#include "error.h"
#include "kernels/cpu/rotate_rows.h"
#include "model/ggml_memory.h"
#include "rope/key_shift.h"
#include "without_bad_alloc.h"

namespace livekv {

namespace {

constexpr float f16_max = 65504.0f;

// Views grow in steps of this many rows: ggml's CUDA attention wants multiples of it, and a graph stays valid within a
// step. The rows in excess are zero and masked.
constexpr int64_t row_padding = 256;

int64_t padded(int64_t n) {
    return (n + row_padding - 1) / row_padding * row_padding;
}

constexpr int32_t value_run = 64;  // llama.cpp rotates values in runs of 64, keys in the longest

int32_t key_run(int64_t head_dim) {
    return static_cast<int32_t>(head_dim & -head_dim);
}

template <bool values>
void rotate_node(ggml_tensor * dst, const ggml_tensor * a, int ith, int nth, void *) {
    const int32_t d = static_cast<int32_t>(a->ne[0]);
    const int32_t run = values ? value_run : key_run(d);
    for (int64_t i = ith; i < ggml_nrows(a); i += nth) {
        float * row = static_cast<float *>(dst->data) + i * d;
        std::copy_n(static_cast<const float *>(a->data) + i * d, d, row);
        rotate_rows(row, d, run, 1);
    }
}

// x [head_dim, ...], contiguous, with each row rotated.
template <bool values>
ggml_tensor * rotate(ggml_context * ctx, ggml_tensor * x) {
    return ggml_map_custom1(ctx, x, rotate_node<values>, GGML_N_TASKS_MAX, nullptr);
}

}  // namespace

dense_cache::dense_cache(ggml_type type, bool rotated, const kv_shape & shape, const kv_buffer_types & where)
    : type_(type), rotated_(rotated), shape_(shape), where_(where), k_(shape.layers.size()), v_(shape.layers.size()) {
    static std::atomic<uint64_t> n_made{0};
    id_ = ++n_made;
    LIVEKV_ASSERT(where.size() == shape.layers.size());
    std::map<ggml_backend_buffer_type_t, ggml_context *> by_type;
    size_t needed = 0;
    for (size_t il = 0; il < k_.size(); ++il) {
        const kv_layer_shape & layer = shape.layers[il];
        if (layer.head_dim % ggml_blck_size(type) != 0) {
            fail("the ", ggml_type_name(type), " cache stores ", ggml_blck_size(type),
                 " values a block, but head_dim is ", layer.head_dim, "; use the f16 cache");
        }
        if (rotated && layer.head_dim % value_run != 0) {
            fail("a rotated cache takes heads of a multiple of ", value_run, " values, but head_dim is ",
                 layer.head_dim);
        }
        ggml_context *& ctx = by_type[where[il]];
        if (!ctx) {
            contexts_.push_back(make_ggml_context(2 * k_.size() * ggml_tensor_overhead()));
            ctx = contexts_.back().get();
        }
        k_[il] = ggml_new_tensor_2d(ctx, type, layer.n_embd_kv(), padded(shape.n_ctx));
        v_[il] = ggml_new_tensor_2d(ctx, type, layer.n_embd_kv(), padded(shape.n_ctx));
        needed += 2 * ggml_nbytes(k_[il]);
    }
    for (auto & [buft, ctx] : by_type) {
        ggml_backend_buffer_ptr buffer = allocate_tensors(ctx, buft);
        if (!buffer) {
            fail("not enough memory for the ", ggml_type_name(type), " cache of ", shape.n_ctx,
                 " tokens: ", needed / (1 << 20), " MiB; use a shorter context or a smaller cache");
        }
        ggml_backend_buffer_clear(buffer.get(), 0);  // as clear_rows
        buffers_.push_back(std::move(buffer));
    }
}

void dense_cache::clear_rows(int64_t first, int64_t n) noexcept {
    for (const std::vector<ggml_tensor *> * side : {&k_, &v_}) {
        for (ggml_tensor * rows : *side) {
            ggml_backend_tensor_memset(rows, 0, static_cast<size_t>(first) * rows->nb[1],
                                       static_cast<size_t>(n) * rows->nb[1]);
        }
    }
}

void dense_cache::begin(int64_t n_new) noexcept {
    clear_rows(n_tokens_, n_new_);  // a pass that failed wrote them
    n_new_ = n_new;
}

void dense_cache::commit() noexcept {
    n_tokens_ += n_new_;
    n_new_ = 0;
}

void dense_cache::trim(int64_t n) noexcept {
    clear_rows(n, n_tokens_ + n_new_ - n);
    n_tokens_ = n;
    n_new_ = 0;
}

token_run dense_cache::shiftable(int64_t n_keep, int64_t n_wanted) const {
    const int64_t n_behind = n_tokens_ - n_keep;
    return {n_keep, n_wanted <= n_behind ? n_wanted : 0};
}

void dense_cache::shift(const token_run & leaving) {
    const auto n_left = static_cast<size_t>(n_tokens_ - leaving.end());
    std::vector<uint8_t> bytes(n_left * std::max(k_.front()->nb[1], v_.front()->nb[1]));
    std::vector<float> row;
    std::vector<key_shift> backs;
    for (size_t il = 0; il < k_.size(); ++il) {  // what allocates comes first: the rest fails no more
        backs.emplace_back(shape_.layers[il].rope, -leaving.n);
        bytes.resize(std::max(bytes.size(), n_left * std::max(k_[il]->nb[1], v_[il]->nb[1])));
        row.resize(std::max(row.size(), static_cast<size_t>(shape_.layers[il].n_embd_kv())));
    }
    for (size_t il = 0; il < k_.size(); ++il) {
        const kv_layer_shape & shape = shape_.layers[il];
        const auto d = static_cast<size_t>(shape.head_dim);
        const int32_t run = rotated_ ? key_run(shape.head_dim) : 0;
        for (ggml_tensor * side : {k_[il], v_[il]}) {
            const size_t stride = side->nb[1];
            ggml_backend_tensor_get(side, bytes.data(), static_cast<size_t>(leaving.end()) * stride, n_left * stride);
            for (size_t t = 0; side == k_[il] && t < n_left; ++t) {
                uint8_t * const stored = bytes.data() + t * stride;
                ggml_get_type_traits(type_)->to_float(stored, row.data(), shape.n_embd_kv());
                for (size_t h = 0; h < static_cast<size_t>(shape.n_head_kv); ++h) {
                    const std::span<float> key(row.data() + h * d, d);
                    rotate_rows(key.data(), static_cast<int32_t>(d), run, 1);
                    backs[il].apply(key);
                    rotate_rows(key.data(), static_cast<int32_t>(d), run, 1);
                }
                ggml_quantize_chunk(type_, row.data(), stored, 0, 1, shape.n_embd_kv(), nullptr);
            }
            ggml_backend_tensor_set(side, bytes.data(), static_cast<size_t>(leaving.first) * stride, n_left * stride);
        }
    }
    trim(n_tokens_ - leaving.n);
}

int64_t dense_cache::n_rows_read(int64_t n_new) const {
    return padded(n_tokens_ + n_new);
}

// A block's scale is f16, and so many steps of it make the largest value.
float dense_cache::largest() const {
    return f16_max * (type_ == GGML_TYPE_F16 ? 1.0f : type_ == GGML_TYPE_Q4_0 ? 8.0f : 127.0f);
}

float dense_cache::largest_query() const {
    return f16_max * (type_ == GGML_TYPE_F16 ? 1.0f : 127.0f);  // rounded as f16 or q8_0
}

ggml_tensor * dense_cache::rotate_keys(ggml_context * ctx, ggml_tensor * x) {
    return rotate<false>(ctx, x);
}
ggml_tensor * dense_cache::rotate_values(ggml_context * ctx, ggml_tensor * x) {
    return rotate<true>(ctx, x);
}

std::unique_ptr<kv_cache> dense_cache::fork() const {
    auto copy = std::make_unique<dense_cache>(type_, rotated_, shape_, where_);
    copy->n_tokens_ = n_tokens_;
    for (size_t il = 0; il < k_.size(); ++il) {
        ggml_backend_tensor_copy(k_[il], copy->k_[il]);
        ggml_backend_tensor_copy(v_[il], copy->v_[il]);
    }
    return copy;
}

kv_report dense_cache::report() const {
    kv_report r;
    r.bytes.codes = bytes();
    return r;
}

kv_side_dump dense_cache::dump_rows(const ggml_tensor * cache, const kv_layer_shape & shape, int32_t rotation) const {
    const int64_t d = shape.head_dim;
    std::vector<uint8_t> bytes(static_cast<size_t>(n_tokens_) * cache->nb[1]);
    ggml_backend_tensor_get(cache, bytes.data(), 0, bytes.size());
    std::vector<float> row(static_cast<size_t>(shape.n_embd_kv()));
    kv_side_dump out;
    out.rotation = rotation;
    out.kind.assign(static_cast<size_t>(n_tokens_), kv_kind::dense);
    out.stored.resize(row.size() * static_cast<size_t>(n_tokens_));
    for (int64_t t = 0; t < n_tokens_; ++t) {
        ggml_get_type_traits(type_)->to_float(bytes.data() + static_cast<size_t>(t) * cache->nb[1], row.data(),
                                              static_cast<int64_t>(row.size()));
        for (int64_t h = 0; h < shape.n_head_kv; ++h) {
            std::copy_n(row.begin() + h * d, d, out.stored.begin() + (h * n_tokens_ + t) * d);
        }
    }
    out.reconstruction = out.stored;
    for (int64_t r = 0; r < shape.n_head_kv * n_tokens_; ++r) {
        rotate_rows(out.reconstruction.data() + r * d, static_cast<int32_t>(d), rotation, 1);
    }
    return out;
}

kv_layer_dump dense_cache::dump(int64_t il) const {
    return without_bad_alloc("the dump of a layer", [&]() -> kv_layer_dump {
        const size_t i = static_cast<size_t>(il);
        const kv_layer_shape & shape = shape_.layers.at(i);
        return {dump_rows(k_[i], shape, rotated_ ? key_run(shape.head_dim) : 0),
                dump_rows(v_[i], shape, rotated_ ? value_run : 0)};
    });
}

size_t dense_cache::bytes() const {
    size_t total = 0;
    for (const ggml_backend_buffer_ptr & buffer : buffers_) {
        total += ggml_backend_buffer_get_size(buffer.get());
    }
    return total;
}

}  // namespace livekv
