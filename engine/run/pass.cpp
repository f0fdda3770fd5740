#include "run/pass.h"

#include <algorithm>
#include <vector>

#include "error.h"

namespace livekv {

pass_runner::pass_runner(const kv_shape & shape, int32_t n_threads) : chunked_(shape, n_threads) {}

bool pass_runner::comes_first(const kv_cache & cache) {
    return dynamic_cast<const chunked_cache *>(&cache) != nullptr;
}

void pass_runner::begin(std::span<const pass_part> parts) {
    for (const pass_part & p : parts) {
        const kv_cache & cache = *p.cache;
        if (p.layers.first == 0 && cache.n_tokens() + p.n_new > cache.n_ctx()) {
            fail("the context of ", cache.n_ctx(), " tokens is full: ", cache.n_tokens(), " are in it, ", p.n_new,
                 " more do not fit");
        }
    }
    const auto first_dense =
        std::find_if(parts.begin(), parts.end(), [](const pass_part & p) { return !comes_first(*p.cache); });
    n_chunked_ = static_cast<size_t>(first_dense - parts.begin());
    if (parts.size() - n_chunked_ > most_dense_parts) {
        fail("a pass takes up to ", most_dense_parts, " sequences whose cache is not livekv's, not ",
             parts.size() - n_chunked_);
    }
    dense_.begin(parts.subspan(n_chunked_));
    chunked_.begin(parts.first(n_chunked_), dense_.n_rows());
    key_ = "chunked " + chunked_.rows_key() + (chunked_.chooses() ? " choosing" : "") +
           (chunked_.reads_queries() ? " with queries" : "") + (chunked_.keeps_unturned() ? " unturned" : "") +
           (chunked_.weighs_guide() ? " guided" : "") + (chunked_.waits_for_guide() ? " waiting" : "") +
           (chunked_.judges() ? " judged" : "") + (chunked_.condenses() ? " condensed" : "") + " layers " +
           std::to_string(layers().first) + " to " + std::to_string(layers().end) + dense_.graph_key();
}

int64_t pass_runner::end_of_part(int64_t il, size_t i) const {
    return i < n_chunked_ ? chunked_.end_of_part(il, i) : chunked_.n_rows(il) + dense_.end_of_part(i - n_chunked_);
}

void pass_runner::add_inputs(ggml_context * ctx, ggml_cgraph * graph) {
    dense_.add_inputs(ctx, graph);
}

ggml_tensor * pass_runner::attend(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * q, ggml_tensor * k,
                                  ggml_tensor * k_unturned, ggml_tensor * v, float scale, bool attends) {
    std::vector<ggml_tensor *> results;  // of consecutive rows
    const int64_t n_chunked = chunked_.n_rows(il);
    if (n_chunked > 0) {
        const auto first_rows = [&](ggml_tensor * x) {
            return n_chunked == x->ne[2] ? x
                                         : ggml_view_3d(ctx, x, x->ne[0], x->ne[1], n_chunked, x->nb[1], x->nb[2], 0);
        };
        results.push_back(chunked_.attend(ctx, graph, il, first_rows(q), first_rows(k), first_rows(k_unturned),
                                          first_rows(v), scale, attends));
    }
    dense_.attend(ctx, graph, il, n_chunked, attends ? q : nullptr, k, v, scale, results);
    if (!attends) {
        return nullptr;
    }
    ggml_tensor * all = results.front();
    for (size_t i = 1; i < results.size(); ++i) {
        all = ggml_concat(ctx, all, results[i], 1);
    }
    return all;
}

void pass_runner::set_inputs() {
    dense_.set_inputs();
}

void pass_runner::check() {
    chunked_.check();
    dense_.check();
}

void pass_runner::commit() noexcept {
    chunked_.commit();
    dense_.commit();
}

size_t pass_runner::workspace_bytes() const {
    return chunked_.workspace_bytes();
}

}  // namespace livekv
