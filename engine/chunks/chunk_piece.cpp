#include "chunks/chunk_piece.h"

#include <algorithm>

#include "policy/kivi_seal.h"
#include "policy/kv_policies.h"

namespace livekv {

namespace {

std::shared_ptr<page> placed(const std::shared_ptr<page> & bytes, place & where) {
    return !bytes || &bytes->where() == &where ? bytes : bytes->copy(where);
}

}  // namespace

piece_cut::piece_cut(const kv_options & options)
    : settled_(options.warmup_keep || !find_kv_policy(options.policy).reads("warmup_chunks")
                   ? 1
                   : static_cast<size_t>(std::max<int64_t>(1, options.warmup_chunks))),
      chunk_tokens_(static_cast<size_t>(options.chunk_tokens())) {}

bool shares_pieces(const kv_options & options) {
    return find_kv_policy(options.policy).compresses && !options.measure_error;
}

size_t n_shared_pieces(const chunked_cache & cache) {
    const kv_options & options = cache.options();
    const std::vector<kv_chunk> & chunks = cache.layers().front().chunks;
    const auto serves_others = [&](const kv_chunk & c) {
        return c.from_one_pass && c.n_tokens == options.chunk_tokens();
    };
    const auto end = std::ranges::find_if_not(chunks, serves_others);
    return shares_pieces(options) ? piece_cut(options).of_chunks(static_cast<size_t>(end - chunks.begin())) : 0;
}

std::optional<chunk_piece> piece_of(const chunked_cache & cache, size_t piece) {
    const piece_cut cut(cache.options());
    chunk_piece made;
    for (const kv_layer & layer : cache.layers()) {
        const auto mine = std::span(layer.chunks).subspan(cut.first_chunk(piece), cut.n_chunks(piece));
        if (std::ranges::any_of(mine, &kv_chunk::given_back)) {
            return std::nullopt;
        }
        made.layers.emplace_back(mine.begin(), mine.end());
        if (piece == 0) {
            made.sinks.push_back(layer.sinks);
        }
    }
    return made;
}

size_t n_with_an_end(const kv_options & options, std::span<const chunk_piece * const> pieces) {
    const auto sealed = [](const std::vector<kv_chunk> & chunks) { return chunks.back().v.sealed(); };
    size_t n = pieces.size();
    while (find_kv_policy(options.policy).is_kivi && n > 0 && std::ranges::any_of(pieces[n - 1]->layers, sealed)) {
        --n;
    }
    return n;
}

std::unique_ptr<chunked_cache> sequence_of(const chunked_cache & beginning, std::span<const chunk_piece * const> more) {
    std::vector<kv_layer> layers = beginning.layers();
    for (size_t il = 0; il < layers.size(); ++il) {
        kv_layer & layer = layers[il];
        for (const chunk_piece * one : more) {
            for (kv_chunk c : one->layers[il]) {
                c.k.bytes = placed(c.k.bytes, *layer.where);
                c.v.bytes = placed(c.v.bytes, *layer.where);
                c.state = placed(c.state, *layer.where);
                layer.n_chunked += c.n_tokens;
                layer.chunks.push_back(std::move(c));
            }
            if (!one->sinks.empty()) {
                const size_t n_values = static_cast<size_t>(layer.chunks.front().n_sinks) * layer.row();
                layer.sinks = one->sinks[il].copy(*layer.where, n_values);
            }
        }
        if (beginning.plan(static_cast<int64_t>(il)).kivi) {
            seal_older_values(beginning.plan(static_cast<int64_t>(il)), best_cpu_kernels(), layer);
        }
    }
    return std::make_unique<chunked_cache>(beginning.options(), beginning.shape(), std::move(layers));
}

}  // namespace livekv
