#include "run/passing_rows.h"

#include <algorithm>

namespace livekv {

namespace {

size_t values_of(const layer_step & step) {
    return step.passes_through() ? static_cast<size_t>(step.n_open_rows()) * step.plan->row() : 0;
}

}  // namespace

void passing_rows::place(std::span<chunked_cache * const> caches, layer_run layers) {
    size_t n_values = 0;
    for (int64_t il = layers.first; il < layers.end; ++il) {
        size_t here = 0;
        for (chunked_cache * cache : caches) {
            here += values_of(cache->step(il));
        }
        n_values = std::max(n_values, here);
    }
    for (int64_t il = layers.first; il < layers.end; ++il) {
        size_t at = 0;
        for (chunked_cache * cache : caches) {
            layer_step & step = cache->step(il);
            if (step.passes_through()) {
                raw_rows & rows = step.layer->where->on_device() ? on_device_ : on_host_;
                rows.reserve(n_values, *step.layer->where);
                step.use_rows(rows.k.data() + at, rows.v.data() + at);
                at += values_of(step);
            }
        }
    }
}

}  // namespace livekv
