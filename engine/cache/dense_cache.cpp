#include "cache/dense_cache.h"

#include <limits>
#include <map>

#include "error.h"
#include "kernels/cpu/rotate_rows.h"

namespace livekv {

namespace {

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

dense_cache::dense_cache(ggml_type type, bool rotated, const kv_shape & shape)
    : type_(type),
      rotated_(rotated),
      shape_(shape),
      n_rows_(padded(shape.n_ctx)),
      k_(shape.n_layer),
      v_(shape.n_layer) {
    if (shape.head_dim % ggml_blck_size(type) != 0) {
        fail("the ", ggml_type_name(type), " cache stores ", ggml_blck_size(type), " values a block, but head_dim is ",
             shape.head_dim, "; use --kv f16");
    }
    if (rotated && shape.head_dim % value_run != 0) {
        fail("a rotated cache takes heads of a multiple of ", value_run, " values, but head_dim is ", shape.head_dim);
    }
    std::map<ggml_backend_buffer_type_t, ggml_context *> by_type;
    for (int64_t il = 0; il < shape.n_layer; ++il) {
        ggml_context *& ctx = by_type[shape.layer_buft[il]];
        if (!ctx) {
            ctx = ggml_init({2 * static_cast<size_t>(shape.n_layer) * ggml_tensor_overhead(), nullptr, true});
            contexts_.emplace_back(ctx);
        }
        k_[il] = ggml_new_tensor_2d(ctx, type, shape.n_embd_kv(), n_rows_);
        v_[il] = ggml_new_tensor_2d(ctx, type, shape.n_embd_kv(), n_rows_);
    }
    for (auto & [buft, ctx] : by_type) {
        ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(ctx, buft);
        if (!buffer) {
            const size_t needed = 2 * static_cast<size_t>(shape.n_layer) * ggml_nbytes(k_[0]);
            fail("not enough memory for the ", ggml_type_name(type), " cache of ", shape.n_ctx,
                 " tokens: ", needed / (1 << 20), " MiB; use a shorter context (-c) or a smaller cache (--kv)");
        }
        buffers_.emplace_back(buffer);
        ggml_backend_buffer_clear(buffer, 0);  // as clear_rows
    }
}

void dense_cache::begin(int64_t n_new, bool) {
    if (n_tokens_ + n_new > shape_.n_ctx) {
        fail("the context of ", shape_.n_ctx, " tokens is full: ", n_tokens_, " are in it, ", n_new,
             " more do not fit");
    }
    clear_rows(n_tokens_, n_new_);  // a pass that failed wrote them
    n_new_ = n_new;
    n_kv_ = padded(n_tokens_ + n_new);
}

void dense_cache::clear_rows(int64_t first, int64_t n) {
    for (const std::vector<ggml_tensor *> * side : {&k_, &v_}) {
        for (ggml_tensor * rows : *side) {
            ggml_backend_tensor_memset(rows, 0, static_cast<size_t>(first) * rows->nb[1],
                                       static_cast<size_t>(n) * rows->nb[1]);
        }
    }
}

void dense_cache::add_inputs(ggml_context * ctx, ggml_cgraph * graph) {
    rows_ = ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n_new_);
    mask_ = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, n_kv_, n_new_);
    ggml_set_name(rows_, "inp_rows");
    ggml_set_name(mask_, "inp_mask");
    for (ggml_tensor * t : {rows_, mask_}) {
        ggml_set_input(t);
        ggml_build_forward_expand(graph,
                                  t);  // memory for the mask too when no node uses it: the last layer only stores
    }
}

void dense_cache::set_inputs() {
    row_values_.resize(static_cast<size_t>(n_new_));
    mask_values_.resize(static_cast<size_t>(n_new_ * n_kv_));
    const ggml_fp16_t visible = ggml_fp32_to_fp16(0.0f);
    const ggml_fp16_t hidden = ggml_fp32_to_fp16(-std::numeric_limits<float>::infinity());
    for (int64_t i = 0; i < n_new_; ++i) {  // token i sees every row up to its own
        row_values_[static_cast<size_t>(i)] = n_tokens_ + i;
        const auto row = mask_values_.begin() + i * n_kv_;
        std::fill(row, row + n_tokens_ + i + 1, visible);
        std::fill(row + n_tokens_ + i + 1, row + n_kv_, hidden);
    }
    ggml_backend_tensor_set(rows_, row_values_.data(), 0, ggml_nbytes(rows_));
    ggml_backend_tensor_set(mask_, mask_values_.data(), 0, ggml_nbytes(mask_));
}

ggml_tensor * dense_cache::heads_of(ggml_context * ctx, ggml_tensor * cache) const {
    return ggml_view_3d(ctx, cache, shape_.head_dim, n_kv_, shape_.n_head_kv, cache->nb[1],
                        ggml_row_size(cache->type, shape_.head_dim), 0);
}

ggml_tensor * dense_cache::attend(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * q, ggml_tensor * k,
                                  ggml_tensor * v, float scale) {
    if (rotated_) {
        k = rotate<false>(ctx, k);
        v = rotate<true>(ctx, ggml_cont(ctx, v));
    }
    k = ggml_reshape_2d(ctx, k, shape_.n_embd_kv(), n_new_);
    v = ggml_reshape_2d(ctx, v, shape_.n_embd_kv(), n_new_);
    ggml_build_forward_expand(graph, ggml_set_rows(ctx, k_[il], k, rows_));
    ggml_build_forward_expand(graph, ggml_set_rows(ctx, v_[il], v, rows_));
    if (!q) {
        return nullptr;
    }
    if (rotated_) {
        q = rotate<false>(ctx, q);
    }
    q = ggml_permute(ctx, q, 0, 2, 1, 3);  // [head_dim, n_new, n_head]
    ggml_tensor * out =
        ggml_flash_attn_ext(ctx, q, heads_of(ctx, k_[il]), heads_of(ctx, v_[il]), mask_, scale, 0.0f, 0.0f);
    ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
    if (rotated_) {
        out = rotate<true>(ctx, out);
    }
    return ggml_reshape_2d(ctx, out, shape_.head_dim * shape_.n_head, n_new_);
}

void dense_cache::commit() {
    n_tokens_ += n_new_;
    n_new_ = 0;
}

std::unique_ptr<kv_cache> dense_cache::fork() const {
    auto copy = std::make_unique<dense_cache>(type_, rotated_, shape_);
    copy->n_tokens_ = n_tokens_;
    for (size_t il = 0; il < k_.size(); ++il) {
        ggml_backend_tensor_copy(k_[il], copy->k_[il]);
        ggml_backend_tensor_copy(v_[il], copy->v_[il]);
    }
    return copy;
}

kv_side_dump dense_cache::dump_rows(const ggml_tensor * cache, int32_t rotation) const {
    const int64_t d = shape_.head_dim;
    std::vector<uint8_t> bytes(static_cast<size_t>(n_tokens_) * cache->nb[1]);
    ggml_backend_tensor_get(cache, bytes.data(), 0, bytes.size());
    std::vector<float> row(static_cast<size_t>(shape_.n_embd_kv()));
    kv_side_dump out;
    out.rotation = rotation;
    out.kind.assign(static_cast<size_t>(n_tokens_), kv_kind::dense);
    out.stored.resize(row.size() * static_cast<size_t>(n_tokens_));
    for (int64_t t = 0; t < n_tokens_; ++t) {
        ggml_get_type_traits(type_)->to_float(bytes.data() + static_cast<size_t>(t) * cache->nb[1], row.data(),
                                              static_cast<int64_t>(row.size()));
        for (int64_t h = 0; h < shape_.n_head_kv; ++h) {
            std::copy_n(row.begin() + h * d, d, out.stored.begin() + (h * n_tokens_ + t) * d);
        }
    }
    out.reconstruction = out.stored;
    for (int64_t r = 0; r < shape_.n_head_kv * n_tokens_; ++r) {
        rotate_rows(out.reconstruction.data() + r * d, static_cast<int32_t>(d), rotation, 1);
    }
    return out;
}

kv_layer_dump dense_cache::dump(int64_t il) const {
    const size_t i = static_cast<size_t>(il);
    return {dump_rows(k_.at(i), rotated_ ? key_run(shape_.head_dim) : 0),
            dump_rows(v_.at(i), rotated_ ? value_run : 0)};
}

size_t dense_cache::bytes() const {
    size_t total = 0;
    for (const ggml_backend_buffer_ptr & buffer : buffers_) {
        total += ggml_backend_buffer_get_size(buffer.get());
    }
    return total;
}

void dense_cache::trim(int64_t n_tokens) {
    LIVEKV_ASSERT(n_tokens >= 0 && n_tokens <= n_tokens_);
    clear_rows(n_tokens, n_tokens_ + n_new_ - n_tokens);
    n_tokens_ = n_tokens;
    n_new_ = 0;
}

}  // namespace livekv
