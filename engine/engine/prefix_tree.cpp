#include "engine/prefix_tree.h"

#include <algorithm>

#include "policy/saved_options.h"

namespace livekv {

namespace {

std::string key_of(const kv_options & options) {
    std::string key;
    for (const auto & [name, value] : texts_of(options)) {
        key += name + "=" + value + ";";
    }
    return key;
}

// Chunks after which the keys of all are what they stay.
size_t settled_chunks(const kv_options & options) {
    return options.warmup_keep ? 1 : static_cast<size_t>(std::max<int64_t>(1, options.warmup_chunks));
}

size_t bytes_of(const kv_chunk & c) {
    return c.k.bytes->bytes() + c.v.bytes->bytes() + (c.state ? c.state->bytes() : 0);
}

}  // namespace

bool prefix_tree::node::idle() const {
    return std::all_of(layers.begin(), layers.end(), [](const kv_chunk & c) { return c.k.bytes.use_count() == 1; });
}

void prefix_tree::add(const chunked_cache & cache, std::span<const int32_t> tokens) {
    const kv_options & options = cache.options();
    const std::vector<kv_chunk> & chunks = cache.layers().front().chunks;
    if (budget_ == 0 || options.measure_error || chunks.size() < settled_chunks(options)) {
        return;
    }
    node * at = &roots_[key_of(options)];
    ++clock_;
    const size_t n = static_cast<size_t>(options.chunk_size);
    for (size_t i = 0; i < chunks.size() && chunks[i].from_one_pass; ++i) {
        const auto first = tokens.begin() + static_cast<int64_t>(i * n);
        std::vector<int32_t> key(first, first + static_cast<int64_t>(n));
        auto found = at->next.find(key);
        if (found == at->next.end()) {
            const auto lacks_it = [&](const kv_layer & layer) { return layer.chunks[i].given_back(); };
            if (std::ranges::any_of(cache.layers(), lacks_it)) {
                break;
            }
            auto made = std::make_unique<node>();
            for (const kv_layer & layer : cache.layers()) {
                made->layers.push_back(layer.chunks[i]);
                made->bytes += bytes_of(layer.chunks[i]);
                if (i == 0) {
                    made->sinks.push_back(layer.sinks);
                    made->bytes += layer.sinks.bytes();
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
    const auto root = roots_.find(key_of(options));
    if (root == roots_.end() || options.measure_error) {
        return nullptr;
    }
    std::vector<node *> known;
    const size_t n = static_cast<size_t>(options.chunk_size);
    node * at = &root->second;
    for (size_t end = n; end < tokens.size(); end += n) {  // one token is left, for its logits
        const auto found =
            at->next.find({tokens.begin() + static_cast<int64_t>(end - n), tokens.begin() + static_cast<int64_t>(end)});
        if (found == at->next.end()) {
            break;
        }
        at = found->second.get();
        known.push_back(at);
    }
    if (known.size() < settled_chunks(options)) {
        return nullptr;
    }
    ++clock_;
    auto cache = std::make_unique<chunked_cache>(options, shape);
    std::vector<kv_layer> layers = cache->layers();
    for (node * one : known) {
        one->last_used = clock_;
        for (size_t il = 0; il < layers.size(); ++il) {
            layers[il].chunks.push_back(one->layers[il]);
            layers[il].n_chunked += one->layers[il].n_tokens;
        }
    }
    for (size_t il = 0; il < layers.size(); ++il) {
        layers[il].sinks = known.front()->sinks[il];
    }
    return std::make_unique<chunked_cache>(options, shape, std::move(layers));
}

void prefix_tree::find_oldest(node & parent, leaf & oldest) {
    for (auto & [tokens, child] : parent.next) {
        if (!child->next.empty()) {
            find_oldest(*child, oldest);
        } else if (child->last_used < oldest.last_used && child->idle()) {
            oldest = {&parent, &tokens, child->last_used};
        }
    }
}

void prefix_tree::shrink() noexcept {
    for (size_t idle = idle_bytes(); idle > budget_;) {
        leaf oldest;
        for (auto & [options, root] : roots_) {
            find_oldest(root, oldest);
        }
        if (!oldest.parent) {  // what is idle lies on the way to what is used
            return;
        }
        const auto found = oldest.parent->next.find(*oldest.tokens);
        idle -= found->second->bytes;
        oldest.parent->next.erase(found);
    }
}

size_t prefix_tree::count(const node & n) {
    size_t sum = n.next.size();
    for (const auto & [tokens, child] : n.next) {
        sum += count(*child);
    }
    return sum;
}

size_t prefix_tree::idle_bytes(const node & n) {
    size_t sum = 0;
    for (const auto & [tokens, child] : n.next) {
        sum += (child->idle() ? child->bytes : 0) + idle_bytes(*child);
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
        sum += idle_bytes(root);
    }
    return sum;
}

}  // namespace livekv
