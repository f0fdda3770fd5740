#include "cli/repeat_chunks.h"

#include <algorithm>
#include <new>

#include "livekv.h"
#include "run/chunked_cache.h"

namespace livekv {

namespace {

void repeat(kv_layer & layer, int64_t n_tokens) {
    if (layer.chunks.empty() || layer.n_tail > 0) {
        fail("only whole chunks can be repeated; the sequence has ", layer.n_tokens(), " tokens");
    }
    const auto sealed = [](const kv_chunk & c) { return c.k.sealed() && c.v.sealed(); };
    const bool seals = std::ranges::any_of(layer.chunks, [](const kv_chunk & c) { return c.v.sealed(); });
    std::vector<kv_chunk> sources;
    for (const kv_chunk & c : layer.chunks) {
        if (!c.given_back() && (!seals || sealed(c))) {
            sources.push_back(c);
        }
    }
    if (sources.empty()) {  // copies of raw chunks would be a longer warm-up than any context has
        fail("none of the ", layer.n_tokens(), " tokens to be repeated is sealed yet; more are needed");
    }
    if (sources.size() > 1 && sources.front().n_sinks > 0) {
        sources.erase(sources.begin());  // the sequence's own first chunk lacks its sinks
    }
    for (size_t from = 0; layer.n_chunked < n_tokens; from = (from + 1) % sources.size()) {
        kv_chunk c = sources[from];
        c.k.bytes = c.k.bytes->copy(*layer.where);
        c.v.bytes = c.v.bytes->copy(*layer.where);
        c.state = c.state ? c.state->copy(*layer.where) : nullptr;
        c.n_sinks = 0;
        layer.n_chunked += c.n_tokens;
        layer.chunks.push_back(std::move(c));
    }
}

}  // namespace

void repeat_chunks(session & s, int64_t n_tokens) {
    const auto * cache = dynamic_cast<const chunked_cache *>(&s.cache());
    if (!cache) {
        fail("only the livekv cache can be filled with copies of its chunks");
    }
    if (n_tokens > s.n_ctx()) {
        fail("the context holds ", s.n_ctx(), " tokens, ", n_tokens, " are wanted");
    }
    try {
        std::vector<kv_layer> layers = cache->layers();
        for (kv_layer & layer : layers) {
            repeat(layer, n_tokens);
        }
        std::vector<int32_t> tokens(s.tokens().begin(), s.tokens().end());
        const size_t n_before = tokens.size();
        for (size_t i = n_before; i < static_cast<size_t>(layers.front().n_tokens()); ++i) {
            tokens.push_back(tokens[i % n_before]);
        }
        s.adopt(std::make_unique<chunked_cache>(cache->options(), cache->shape(), std::move(layers)),
                std::move(tokens));
    } catch (const std::bad_alloc &) {
        fail("not enough memory for ", n_tokens, " tokens");
    }
}

}  // namespace livekv
