#include "kv/dense_cache.h"

#include <map>

#include "error.h"

namespace livekv {

namespace {

// Views grow in steps of this many rows: ggml's CUDA attention wants multiples of it, and a graph stays valid within a
// step. The rows in excess are zero and masked.
constexpr int64_t row_padding = 256;

int64_t padded(int64_t n) { return (n + row_padding - 1) / row_padding * row_padding; }

}  // namespace

dense_cache::dense_cache(ggml_type type, const kv_shape & shape)
    : shape_(shape), n_rows_(padded(shape.n_ctx)), k_(shape.n_layer), v_(shape.n_layer) {
    if (shape.head_dim % ggml_blck_size(type) != 0) {
        fail("the ", ggml_type_name(type), " cache stores ", ggml_blck_size(type), " values a block, but head_dim is ",
             shape.head_dim, "; use --kv f16");
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
            fail("not enough memory for the ", ggml_type_name(type), " cache of ", shape.n_ctx, " tokens: ",
                 needed / (1 << 20), " MiB; use a shorter context (-c) or a smaller cache (--kv)");
        }
        buffers_.emplace_back(buffer);
        ggml_backend_buffer_clear(buffer, 0);  // masked rows are read too: no NaN may lie there
    }
}

int64_t dense_cache::begin(int64_t n_new) {
    if (n_tokens_ + n_new > shape_.n_ctx) {
        fail("the context of ", shape_.n_ctx, " tokens is full: ", n_tokens_, " are in it, ", n_new, " more do not fit");
    }
    return padded(n_tokens_ + n_new);
}

void dense_cache::append(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * k, ggml_tensor * v,
                         ggml_tensor * rows) {
    const int64_t n_new = k->ne[2];
    k = ggml_reshape_2d(ctx, k, shape_.n_embd_kv(), n_new);
    v = ggml_reshape_2d(ctx, v, shape_.n_embd_kv(), n_new);
    ggml_build_forward_expand(graph, ggml_set_rows(ctx, k_[il], k, rows));
    ggml_build_forward_expand(graph, ggml_set_rows(ctx, v_[il], v, rows));
}

ggml_tensor * dense_cache::heads_of(ggml_context * ctx, ggml_tensor * cache, int64_t n_kv) const {
    return ggml_view_3d(ctx, cache, shape_.head_dim, n_kv, shape_.n_head_kv, cache->nb[1],
                        ggml_row_size(cache->type, shape_.head_dim), 0);
}

kv_view dense_cache::view(ggml_context * ctx, int64_t il, int64_t n_kv) const {
    return {heads_of(ctx, k_[il], n_kv), heads_of(ctx, v_[il], n_kv)};
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
    n_tokens_ = n_tokens;
}

}  // namespace livekv
