#include "run/dense_runner.h"

#include <ggml-backend.h>

#include <algorithm>
#include <limits>
#include <numeric>

namespace livekv {

namespace {

// Columns first ... first + n - 1 of x [ne0, ne1, rows], which is contiguous.
ggml_tensor * columns(ggml_context * ctx, ggml_tensor * x, int64_t first, int64_t n) {
    if (first == 0 && n == x->ne[2]) {
        return x;
    }
    return ggml_view_3d(ctx, x, x->ne[0], x->ne[1], n, x->nb[1], x->nb[2], static_cast<size_t>(first) * x->nb[2]);
}

}  // namespace

void dense_runner::begin(std::span<const pass_part> parts) {
    parts_.clear();
    int64_t first_row = 0;
    check_.begin();
    for (const pass_part & p : parts) {
        auto & cache = static_cast<dense_cache &>(*p.cache);
        cache.begin(p.n_new);
        parts_.push_back({&cache, first_row, p.n_new, cache.n_rows_read(p.n_new)});
        first_row += p.n_new;
    }
}

std::string dense_runner::graph_key() const {
    std::string key;
    for (const part & p : parts_) {
        key += " dense " + std::to_string(p.cache->id()) + ": " + std::to_string(p.n_new) + " of " +
               std::to_string(p.n_kv);
    }
    return key;
}

void dense_runner::add_inputs(ggml_context * ctx, ggml_cgraph * graph) {
    inputs_.clear();
    check_.clear_nodes();
    for (const part & p : parts_) {
        const auto input = [&](ggml_tensor * t, const char * name) {
            ggml_set_name(t, name);
            ggml_set_input(t);
            return t;
        };
        inputs in = {input(ggml_new_tensor_1d(ctx, GGML_TYPE_I64, p.n_new), "inp_rows"), {}};
        for (int64_t il = 0; il < p.cache->n_layer(); ++il) {
            ggml_tensor *& mask = in.masks[p.cache->layer(il).window];
            mask = mask ? mask : input(ggml_new_tensor_2d(ctx, GGML_TYPE_F16, p.n_kv, p.n_new), "inp_mask");
        }
        // Not the mask: where the only layer only stores, nothing reads it, and ggml would give it the place of a
        // shorter one of the pass before.
        ggml_build_forward_expand(graph, in.rows);
        inputs_.push_back(in);
    }
}

// Token t sees every row up to its own, the last `window` of them where there is one.
void dense_runner::set_mask(const part & p, int64_t window, ggml_tensor * mask) {
    const ggml_fp16_t visible = ggml_fp32_to_fp16(0.0f);
    const ggml_fp16_t hidden = ggml_fp32_to_fp16(-std::numeric_limits<float>::infinity());
    mask_values_.assign(static_cast<size_t>(p.n_new * p.n_kv), hidden);
    for (int64_t t = 0; t < p.n_new; ++t) {
        const int64_t end = p.cache->n_tokens() + t + 1;
        const int64_t first = window > 0 ? std::max<int64_t>(0, end - window) : 0;
        std::fill_n(mask_values_.begin() + t * p.n_kv + first, end - first, visible);
    }
    ggml_backend_tensor_set(mask, mask_values_.data(), 0, ggml_nbytes(mask));
}

void dense_runner::set_inputs() {
    for (size_t i = 0; i < parts_.size(); ++i) {
        const part & p = parts_[i];
        row_values_.resize(static_cast<size_t>(p.n_new));
        std::iota(row_values_.begin(), row_values_.end(), p.cache->n_tokens());
        ggml_backend_tensor_set(inputs_[i].rows, row_values_.data(), 0, ggml_nbytes(inputs_[i].rows));
        for (const auto & [window, mask] : inputs_[i].masks) {
            if (mask->buffer) {
                set_mask(p, window, mask);
            }
        }
    }
}

void dense_runner::attend(ggml_context * ctx, ggml_cgraph * graph, int64_t il, int64_t first_row, ggml_tensor * q,
                          ggml_tensor * k, ggml_tensor * v, float scale, std::vector<ggml_tensor *> & results) {
    for (size_t i = 0; i < parts_.size(); ++i) {
        const part & p = parts_[i];
        const dense_cache & cache = *p.cache;
        const kv_layer_shape & shape = cache.layer(il);
        ggml_tensor * new_k = columns(ctx, k, first_row + p.first_row, p.n_new);
        ggml_tensor * new_v = columns(ctx, v, first_row + p.first_row, p.n_new);
        if (cache.rotated()) {
            new_k = dense_cache::rotate_keys(ctx, new_k);
            new_v = dense_cache::rotate_values(ctx, ggml_cont(ctx, new_v));
        }
        ggml_tensor * own_q = q ? columns(ctx, q, first_row + p.first_row, p.n_new) : nullptr;
        if (own_q && cache.rotated()) {
            own_q = dense_cache::rotate_keys(ctx, own_q);
        }
        check_.add(ctx, graph,
                   {il, p.first_row, new_k, new_v, own_q, cache.largest(), cache.largest_query(), shape.on_device});
        new_k = ggml_reshape_2d(ctx, new_k, shape.n_embd_kv(), p.n_new);
        new_v = ggml_reshape_2d(ctx, new_v, shape.n_embd_kv(), p.n_new);
        ggml_build_forward_expand(graph, ggml_set_rows(ctx, cache.k(il), new_k, inputs_[i].rows));
        ggml_build_forward_expand(graph, ggml_set_rows(ctx, cache.v(il), new_v, inputs_[i].rows));
        if (!q) {
            continue;
        }
        own_q = ggml_permute(ctx, own_q, 0, 2, 1, 3);  // [head_dim, n_new, n_head]
        const auto heads_of = [&](ggml_tensor * rows) {
            return ggml_view_3d(ctx, rows, shape.head_dim, p.n_kv, shape.n_head_kv, rows->nb[1],
                                ggml_row_size(rows->type, shape.head_dim), 0);
        };
        ggml_tensor * out = ggml_flash_attn_ext(ctx, own_q, heads_of(cache.k(il)), heads_of(cache.v(il)),
                                                inputs_[i].masks.at(shape.window), scale, 0.0f, 0.0f);
        ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
        if (cache.rotated()) {
            out = dense_cache::rotate_values(ctx, out);
        }
        results.push_back(ggml_reshape_2d(ctx, out, shape.head_dim * shape.n_head, p.n_new));
    }
}

void dense_runner::check() {
    if (const auto first = check_.first()) {
        const auto after = std::ranges::find_if(parts_, [&](const part & p) { return p.first_row > first->row; });
        const part & p = *std::prev(after);
        bad_rows::refuse(first->il, p.cache->n_tokens() + first->row - p.first_row);
    }
}

void dense_runner::commit() noexcept {
    for (const part & p : parts_) {
        p.cache->commit();
    }
}

}  // namespace livekv
