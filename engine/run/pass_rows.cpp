#include "run/pass_rows.h"

namespace livekv {

void pass_rows::clear() {
    caches_.clear();
    layouts_.assign(1, {});
    of_layer_.assign(1, 0);
}

void pass_rows::place(std::span<chunked_cache * const> caches, layer_run layers) {
    caches_.assign(caches.begin(), caches.end());
    layouts_.clear();
    of_layer_.assign(static_cast<size_t>(layers.first), 0);  // no layers of the pass
    for (int64_t il = layers.first; il < layers.end; ++il) {
        bool same = il > layers.first;
        for (chunked_cache * cache : caches) {
            same = same && cache->step(il).n_rows() == cache->step(il - 1).n_rows();
        }
        if (!same) {
            layout & here = layouts_.emplace_back();
            for (chunked_cache * cache : caches) {
                const int64_t n_rows = cache->step(il).n_rows();
                here.part_of.insert(here.part_of.end(), static_cast<size_t>(n_rows), here.first.size() - 1);
                here.first.push_back(here.first.back() + n_rows);
            }
        }
        of_layer_.push_back(layouts_.size() - 1);
    }
}

bool pass_rows::change_after(int64_t il) const {
    const size_t next = static_cast<size_t>(il) + 1;
    return next < of_layer_.size() && of_layer_[next] != of_layer_[next - 1];
}

void pass_rows::write_going_on(int64_t il, std::span<int32_t> to) const {
    size_t at = 0;
    for (size_t i = 0; i < caches_.size(); ++i) {
        const layer_step & here = caches_[i]->step(il);
        const layer_step & next = caches_[i]->step(il + 1);
        int64_t row = 0;
        for (int64_t j = 0; j < next.n_rows(); ++j) {
            while (row + 1 < here.n_rows() && here.token_of_row(row) < next.token_of_row(j)) {
                ++row;
            }
            to[at++] = static_cast<int32_t>(first(il, i) + row);
        }
    }
    for (int64_t row = n(il); at < to.size(); ++row) {
        to[at++] = static_cast<int32_t>(row);
    }
}

std::string pass_rows::key() const {
    std::string key = std::to_string(n(0));
    for (size_t i = 1; i < of_layer_.size(); ++i) {
        if (change_after(static_cast<int64_t>(i) - 1)) {
            key += ", from layer " + std::to_string(i) + " " + std::to_string(n(static_cast<int64_t>(i)));
        }
    }
    return key;
}

}  // namespace livekv
