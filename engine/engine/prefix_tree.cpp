#include "engine/prefix_tree.h"

#include <algorithm>
#include <span>
#include <tuple>

#include "policy/saved_options.h"

namespace livekv {

namespace {

std::string key_of(const kv_options & options, const kv_shape & shape) {
    std::string key = shape.is_long ? "long;" : "";
    for (const auto & [name, value] : texts_of(options)) {
        key += name + "=" + value + ";";
    }
    return key;
}

template <typename F>
void each_page(const kv_chunk & c, F && f) {
    f(c.k.bytes);
    f(c.v.bytes);
    if (c.state) {
        f(c.state);
    }
}

}  // namespace

bool prefix_tree::node::in_use() const {
    bool used = false;
    for (const auto & chunks : piece.layers) {
        for (const kv_chunk & c : chunks) {
            each_page(c, [&](const std::shared_ptr<page> & p) { used = used || p.use_count() > 1; });
        }
    }
    return used;
}

size_t prefix_tree::node::idle_bytes() const {
    size_t sum = 0;
    for (size_t il = 0; il < piece.layers.size(); ++il) {
        for (const kv_chunk & c : piece.layers[il]) {
            each_page(c, [&](const std::shared_ptr<page> & p) { sum += p.use_count() == 1 ? p->bytes() : 0; });
        }
        if (!piece.sinks.empty() && piece.layers[il].front().k.bytes.use_count() == 1) {
            sum += piece.sinks[il].bytes();
        }
    }
    return sum;
}

size_t prefix_tree::node::bytes() const {
    size_t sum = 0;
    for (const auto & chunks : piece.layers) {
        for (const kv_chunk & c : chunks) {
            each_page(c, [&](const std::shared_ptr<page> & p) { sum += p->bytes(); });
        }
    }
    for (const raw_rows & sinks : piece.sinks) {
        sum += sinks.bytes();
    }
    return sum;
}

void prefix_tree::add(const chunked_cache & cache, std::span<const int32_t> tokens) {
    const size_t n_shared = budget_ == 0 ? 0 : n_shared_pieces(cache);
    if (n_shared == 0) {
        return;
    }
    const piece_cut cut(cache.options());
    node * at = &roots_[key_of(cache.options(), cache.shape())];
    ++clock_;
    for (size_t i = 0; i < n_shared; ++i) {
        const auto text = cut.text(tokens, i);
        std::vector<int32_t> key(text.begin(), text.end());
        auto found = at->next.find(key);
        if (found == at->next.end()) {
            std::optional<chunk_piece> piece = piece_of(cache, i);
            if (!piece) {
                break;
            }
            auto made = std::make_unique<node>();
            made->piece = std::move(*piece);
            found = at->next.emplace(std::move(key), std::move(made)).first;
        }
        found->second->last_used = clock_;
        at = found->second.get();
    }
    shrink();
}

std::unique_ptr<chunked_cache> prefix_tree::longest(const kv_options & options, const kv_shape & shape,
                                                    std::span<const int32_t> tokens) {
    const auto root = roots_.find(key_of(options, shape));
    if (root == roots_.end() || !shares_pieces(options)) {
        return nullptr;
    }
    const piece_cut cut(options);
    std::vector<const chunk_piece *> known;
    node * at = &root->second;
    ++clock_;
    for (size_t i = 0; i < cut.before_last(tokens.size()); ++i) {
        const auto text = cut.text(tokens, i);
        const auto found = at->next.find({text.begin(), text.end()});
        if (found == at->next.end()) {
            break;
        }
        at = found->second.get();
        at->last_used = clock_;
        known.push_back(&at->piece);
    }
    known.resize(n_with_an_end(options, known));
    return known.empty() ? nullptr : sequence_of(chunked_cache(options, shape), known);
}

void prefix_tree::find_oldest(node & parent, bool behind_idle, leaf & oldest) {
    for (auto & [tokens, child] : parent.next) {
        const bool frees = behind_idle || child->idle_bytes() > 0;
        if (!child->next.empty()) {
            find_oldest(*child, frees, oldest);
        } else if (frees) {
            const bool used = child->in_use();
            if (std::tie(used, child->last_used) < std::tie(oldest.in_use, oldest.last_used)) {
                oldest = {&parent, &tokens, used, child->last_used};
            }
        }
    }
}

void prefix_tree::shrink() noexcept {
    for (size_t idle = idle_bytes(); idle > budget_;) {
        leaf oldest;
        for (auto & [options, root] : roots_) {
            find_oldest(root, /*behind_idle=*/false, oldest);
        }
        const auto found = oldest.parent->next.find(*oldest.tokens);
        idle -= std::min(idle, found->second->idle_bytes());  // of more than was counted, if a session ended meanwhile
        oldest.parent->next.erase(found);
    }
    std::erase_if(roots_, [](const auto & root) { return root.second.next.empty(); });
}

size_t prefix_tree::count(const node & n) {
    size_t sum = n.next.size();
    for (const auto & [tokens, child] : n.next) {
        sum += count(*child);
    }
    return sum;
}

void prefix_tree::list(const node & parent, size_t depth, std::vector<prefix_node> & all) {
    for (const auto & [tokens, child] : parent.next) {
        all.push_back({depth, static_cast<int64_t>(tokens.size()), child->bytes(), child->in_use()});
        list(*child, depth + 1, all);
    }
}

std::vector<prefix_node> prefix_tree::nodes() const {
    std::vector<prefix_node> all;
    for (const auto & [options, root] : roots_) {
        list(root, 0, all);
    }
    return all;
}

size_t prefix_tree::idle_below(const node & n) {
    size_t sum = 0;
    for (const auto & [tokens, child] : n.next) {
        sum += child->idle_bytes() + idle_below(*child);
    }
    return sum;
}

size_t prefix_tree::n_chunks() const {
    size_t sum = 0;
    for (const auto & [options, root] : roots_) {
        sum += count(root);
    }
    return sum;
}

size_t prefix_tree::idle_bytes() const {
    size_t sum = 0;
    for (const auto & [options, root] : roots_) {
        sum += idle_below(root);
    }
    return sum;
}

}  // namespace livekv
