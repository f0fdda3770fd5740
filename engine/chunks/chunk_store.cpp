#include "chunks/chunk_store.h"

#include <algorithm>

#include "chunks/piece_keys.h"
#include "error.h"
#include "fork_gate.h"
#include "policy/saved_options.h"
#include "store/kv_file.h"
#include "store/kv_file_names.h"

namespace livekv {

namespace {

constexpr int64_t pause = 16;    // calls of put, after one for which there was no room
constexpr int most_written = 2;  // pieces of a call

// Each piece counts as used a little before the one in front of it, so that ends of sequences are the oldest.
class use_times {
  public:
    int64_t of(size_t piece) const { return now_ns_ - static_cast<int64_t>(piece) * 1000; }

  private:
    int64_t now_ns_ = chunk_folder::now_ns();
};

// What a file holds, if that is such a piece: whole chunks with their states and, behind others, without sinks.
std::unique_ptr<chunk_piece> piece_from(std::vector<kv_layer> layers, const std::vector<kv_layer_format> & formats,
                                        size_t n_chunks, bool first) {
    auto piece = std::make_unique<chunk_piece>();
    for (size_t il = 0; il < layers.size(); ++il) {
        kv_layer & layer = layers[il];
        const auto whole = [&](const kv_chunk & c) {
            return !c.given_back() && c.from_one_pass && c.n_tokens == formats[il].chunk_size &&
                   (c.state || formats[il].state_floats == 0) && (first || c.n_sinks == 0);
        };
        if (layer.n_tail > 0 || layer.chunks.size() != n_chunks || !std::ranges::all_of(layer.chunks, whole)) {
            return nullptr;
        }
        piece->layers.push_back(std::move(layer.chunks));
        if (first) {
            piece->sinks.push_back(std::move(layer.sinks));
        }
    }
    return piece;
}

}  // namespace

chunk_store::chunk_store(const std::string & path, uint64_t limit, std::shared_ptr<chunk_remote> remote,
                         bool fetches_ahead)
    : folder_(path, limit), remote_(std::move(remote)), fetches_ahead_(fetches_ahead) {
    if (limit == 0) {
        fail("a limit of 0 bytes keeps no chunks");
    }
}

std::unique_ptr<chunk_piece> chunk_store::read(const model_facts & model, const chunked_cache & beginning, size_t index,
                                               uint64_t key, std::span<const int32_t> tokens) {
    const auto count = [&](int64_t & one) {
        const fork_gate::lock lock(mutex_);
        ++one;
    };
    if (folder_.look(key) == chunk_folder::found::unreadable) {
        const fork_gate::lock lock(mutex_);
        ++counts_.n_unreadable;
        problem_ = folder_.path_of(key);
        problem_ += " is no file, or not ours to read";
        return nullptr;
    }
    const piece_cut cut(beginning.options());
    const std::span<const int32_t> text = cut.text(tokens, index);
    try {
        const kv_file file(folder_.path_of(key), kv_file_kind::piece);
        const auto is_wanted = [&] {
            try {
                file.require_model(model);
            } catch (const error &) {
                return false;
            }
            const auto before = tokens.first(static_cast<size_t>(text.data() - tokens.data()));
            return file.options() == texts_of(beginning.options()) && std::ranges::equal(file.before(), before) &&
                   std::ranges::equal(file.tokens(), text);
        };
        if (!is_wanted()) {
            const fork_gate::lock lock(mutex_);
            ++counts_.n_foreign;
            foreign_.insert(key);
            return nullptr;
        }
        std::vector<kv_layer_format> formats;
        for (int64_t il = 0; il < beginning.shape().n_layer(); ++il) {
            formats.push_back(format_of(beginning.plan(il)));
        }
        auto piece = piece_from(file.layers(formats), formats, cut.n_chunks(index), index == 0);
        if (!piece) {
            file.refuse("its chunks are not those of a piece");
        }
        return piece;
    } catch (const error &) {
        if (folder_.look(key) == chunk_folder::found::file) {  // else another process has let go of it meanwhile
            folder_.remove(key);
            count(counts_.n_damaged);
        }
        return nullptr;
    }
}

std::unique_ptr<chunked_cache> chunk_store::longest(const model_facts & model, const chunked_cache & beginning,
                                                    std::span<const int32_t> tokens) {
    const kv_options & options = beginning.options();
    if (!shares_pieces(options)) {
        return nullptr;
    }
    const piece_cut cut(options);
    const size_t n_known = cut.of_chunks(beginning.layers().front().chunks.size());
    if (!fetches_ahead_) {
        fetch(model, options, tokens, n_known);
    }
    piece_keys keys(model, options);
    const use_times used;
    std::vector<std::unique_ptr<chunk_piece>> found;
    bool whole = true;  // so far
    for (size_t i = 0; i < cut.before_last(tokens.size()); ++i) {
        const uint64_t key = keys.next(cut.text(tokens, i));
        if (i >= n_known) {
            if (folder_.look(key) == chunk_folder::found::nothing) {
                break;
            }
            // Behind one that is damaged the others are read too, of no use now, so that one run writes all anew.
            std::unique_ptr<chunk_piece> piece = read(model, beginning, i, key, tokens);
            whole = whole && piece;
            if (!whole) {
                continue;
            }
            found.push_back(std::move(piece));
            offer(key, /*changed=*/false);
            const fork_gate::lock lock(mutex_);
            ++counts_.n_read;
            counts_.n_tokens_read += static_cast<int64_t>(cut.text(tokens, i).size());
        }
        folder_.touch(key, used.of(i));
    }
    std::vector<const chunk_piece *> more;
    for (const auto & piece : found) {
        more.push_back(piece.get());
    }
    more.resize(n_with_an_end(options, more));
    return more.empty() ? nullptr : sequence_of(beginning, more);
}

void chunk_store::put(const model_facts & model, const chunked_cache & cache,
                      std::span<const int32_t> tokens) noexcept {
    try {
        {
            const fork_gate::lock lock(mutex_);
            if (n_paused_ > 0) {
                --n_paused_;
                return;
            }
        }
        put_missing(model, cache, tokens);
    } catch (const error & problem) {
        note_failure(problem.what());
    } catch (const std::bad_alloc &) {
        note_failure("not enough memory");
    }
}

void chunk_store::put_missing(const model_facts & model, const chunked_cache & cache, std::span<const int32_t> tokens) {
    const piece_cut cut(cache.options());
    const size_t n_shared = n_shared_pieces(cache);
    piece_keys keys(model, cache.options());
    const use_times used;
    int n_written = 0;
    uint64_t bytes_before = 0;
    for (size_t i = 0; i < n_shared && n_written < most_written; ++i) {
        const uint64_t key = keys.next(cut.text(tokens, i));
        bool is_foreign = false;
        {
            const fork_gate::lock lock(mutex_);
            is_foreign = foreign_.contains(key);
        }
        if (!is_foreign && folder_.touch(key, used.of(i))) {
            bytes_before += folder_.bytes_of(key);
            offer(key, /*changed=*/false);
            continue;
        }
        const std::optional<chunk_piece> piece = piece_of(cache, i);
        if (!piece) {
            return;
        }
        write(model, cache, *piece, i, key, tokens, bytes_before);
        ++n_written;
        folder_.touch(key, used.of(i));
        const uint64_t bytes = folder_.wrote(key);
        bytes_before += bytes;
        offer(key, /*changed=*/true);
        const fork_gate::lock lock(mutex_);
        ++counts_.n_written;
        counts_.bytes_written += static_cast<int64_t>(bytes);
        foreign_.erase(key);
        problem_.clear();
        if (folder_.look(key) == chunk_folder::found::nothing) {  // texts that are used more fill the limit
            n_paused_ = pause;
            return;
        }
    }
}

void chunk_store::write(const model_facts & model, const chunked_cache & cache, const chunk_piece & piece, size_t index,
                        uint64_t key, std::span<const int32_t> tokens, uint64_t bytes_before) const {
    std::vector<kv_layer> layers;
    uint64_t bytes = tokens.size_bytes();
    for (size_t il = 0; il < piece.layers.size(); ++il) {
        const kv_layer & from = cache.layers()[il];
        kv_layer layer;
        layer.n_head_kv = from.n_head_kv;
        layer.head_dim = from.head_dim;
        layer.state_is_f16 = from.state_is_f16;
        layer.where = from.where;
        layer.chunks = piece.layers[il];
        for (const kv_chunk & c : layer.chunks) {
            layer.n_chunked += c.n_tokens;
            bytes += c.k.bytes->bytes() + c.v.bytes->bytes() + (c.state ? c.state->bytes() : 0);
        }
        if (!piece.sinks.empty()) {
            layer.sinks = piece.sinks[il];
            bytes += layer.sinks.bytes();
        }
        layers.push_back(layer.where->on_device() ? layer.copy(host_memory()) : std::move(layer));
    }
    const std::span<const int32_t> text = piece_cut(cache.options()).text(tokens, index);
    const auto before = tokens.first(static_cast<size_t>(text.data() - tokens.data()));
    if (bytes_before + bytes > folder_.most_of_a_text()) {
        fail("the limit of ", folder_.limit(), " bytes has room for the first ", before.size(), " tokens of the text");
    }
    write_kv_piece(folder_.path_of(key), model, texts_of(cache.options()), layers, before, text);
}

void chunk_store::note_failure(const std::string & why) {
    const fork_gate::lock lock(mutex_);
    ++counts_.n_failed;
    n_paused_ = pause;
    problem_ = why;
}

chunk_store_counts chunk_store::counts() const {
    const fork_gate::lock lock(mutex_);
    chunk_store_counts all = counts_;
    all.n_evicted = folder_.n_evicted();
    return all;
}

std::string chunk_store::problem() const {
    const fork_gate::lock lock(mutex_);
    return problem_;
}

}  // namespace livekv
