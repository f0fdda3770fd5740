#include "engine/prefix_tree.h"

#include <algorithm>
#include <span>
#include <tuple>

#include "policy/kv_policies.h"
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

// Chunks of a beginning after which the keys of all are what they stay.
size_t settled_chunks(const kv_options & options) {
    return options.warmup_keep || find_kv_policy(options.policy).streams
               ? 1
               : static_cast<size_t>(std::max<int64_t>(1, options.warmup_chunks));
}

size_t chunk_tokens(const kv_options & options) {
    return static_cast<size_t>(options.chunk_size);
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
    for (const auto & chunks : layers) {
        for (const kv_chunk & c : chunks) {
            each_page(c, [&](const std::shared_ptr<page> & p) { used = used || p.use_count() > 1; });
        }
    }
    return used;
}

size_t prefix_tree::node::idle_bytes() const {
    size_t sum = 0;
    for (size_t il = 0; il < layers.size(); ++il) {
        for (const kv_chunk & c : layers[il]) {
            each_page(c, [&](const std::shared_ptr<page> & p) { sum += p.use_count() == 1 ? p->bytes() : 0; });
        }
        if (!sinks.empty() && layers[il].front().k.bytes.use_count() == 1) {
            sum += sinks[il].bytes();
        }
    }
    return sum;
}

void prefix_tree::add(const chunked_cache & cache, std::span<const int32_t> tokens) {
    const kv_options & options = cache.options();
    const std::vector<kv_chunk> & chunks = cache.layers().front().chunks;
    size_t n_here = settled_chunks(options);  // chunks of the next node
    if (budget_ == 0 || options.measure_error || chunks.size() < n_here) {
        return;
    }
    const auto serves_others = [&](const kv_chunk & c) { return c.from_one_pass && c.n_tokens == options.chunk_size; };
    const size_t n_shared = static_cast<size_t>(std::ranges::find_if_not(chunks, serves_others) - chunks.begin());
    node * at = &roots_[key_of(options, cache.shape())];
    ++clock_;
    for (size_t i = 0; i + n_here <= n_shared; i += n_here, n_here = 1) {
        const auto of_node = [&](const kv_layer & layer) { return std::span(layer.chunks).subspan(i, n_here); };
        const auto text = tokens.subspan(i * chunk_tokens(options), n_here * chunk_tokens(options));
        std::vector<int32_t> key(text.begin(), text.end());
        auto found = at->next.find(key);
        if (found == at->next.end()) {
            const auto lacks_some = [&](const kv_layer & layer) {
                return std::ranges::any_of(of_node(layer), &kv_chunk::given_back);
            };
            if (std::ranges::any_of(cache.layers(), lacks_some)) {
                break;
            }
            auto made = std::make_unique<node>();
            for (const kv_layer & layer : cache.layers()) {
                const auto mine = of_node(layer);
                made->layers.emplace_back(mine.begin(), mine.end());
                if (i == 0) {
                    made->sinks.push_back(layer.sinks);
                }
            }
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
    if (root == roots_.end() || options.measure_error) {
        return nullptr;
    }
    std::vector<node *> known;
    node * at = &root->second;
    size_t n = settled_chunks(options) * chunk_tokens(options);  // tokens of the next node
    for (size_t first = 0; first + n < tokens.size();
         first += n, n = chunk_tokens(options)) {  // a token is left, for its logits
        const auto text = tokens.subspan(first, n);
        const auto found = at->next.find({text.begin(), text.end()});
        if (found == at->next.end()) {
            break;
        }
        at = found->second.get();
        known.push_back(at);
    }
    if (known.empty()) {
        return nullptr;
    }
    ++clock_;
    auto cache = std::make_unique<chunked_cache>(options, shape);
    std::vector<kv_layer> layers = cache->layers();
    for (node * one : known) {
        one->last_used = clock_;
        for (size_t il = 0; il < layers.size(); ++il) {
            for (const kv_chunk & c : one->layers[il]) {
                layers[il].chunks.push_back(c);
                layers[il].n_chunked += c.n_tokens;
            }
        }
    }
    for (size_t il = 0; il < layers.size(); ++il) {
        layers[il].sinks = known.front()->sinks[il];
    }
    return std::make_unique<chunked_cache>(options, shape, std::move(layers));
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
