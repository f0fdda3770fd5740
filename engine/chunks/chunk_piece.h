#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "run/chunked_cache.h"

namespace livekv {

// What sequences that begin alike share: a chunk of all layers with the state after it, or, where a sequence begins,
// the chunks of the warm-up together: keys of the first of them are sealed with what all of them are.
struct chunk_piece {
    std::vector<std::vector<kv_chunk>> layers;  // [n_layer], each [n_chunks]
    std::vector<raw_rows> sinks;                // [n_layer], of a sequence's first piece; of others none
};

// Where pieces of sequences with some options begin and end.
class piece_cut {
  public:
    explicit piece_cut(const kv_options & options);

    size_t n_chunks(size_t piece) const { return piece == 0 ? settled_ : 1; }
    size_t first_chunk(size_t piece) const { return piece == 0 ? 0 : settled_ + piece - 1; }

    // The piece's tokens of a sequence's, which must reach that far.
    std::span<const int32_t> text(std::span<const int32_t> tokens, size_t piece) const {
        return tokens.subspan(first_chunk(piece) * chunk_tokens_, n_chunks(piece) * chunk_tokens_);
    }

    // Whole pieces of a sequence of so many chunks.
    size_t of_chunks(size_t n) const { return n < settled_ ? 0 : n - settled_ + 1; }
    // Those of so many tokens that leave at least one, for its logits.
    size_t before_last(size_t n_tokens) const { return n_tokens == 0 ? 0 : of_chunks((n_tokens - 1) / chunk_tokens_); }

  private:
    size_t settled_;  // chunks after which the keys of all are what they stay
    size_t chunk_tokens_;
};

// Whether sequences with these options share anything. Not with errors measured, which are of a sequence's own sealing.
bool shares_pieces(const kv_options & options);

// How many pieces of a sequence, from its beginning, are what another one that reads the same text would have: those
// that were read as a prompt, a pass each.
size_t n_shared_pieces(const chunked_cache & cache);

// A piece of a sequence, sharing its pages; none where a window has given some of them back.
std::optional<chunk_piece> piece_of(const chunked_cache & cache, size_t piece);

// How many of these pieces, which follow each other, a sequence may consist of: it may not end with one whose values
// were sealed when another chunk closed (kivi).
size_t n_with_an_end(const kv_options & options, std::span<const chunk_piece * const> pieces);

// A sequence that goes on behind another one's chunks, or an empty one's, with these pieces, the last of which is
// an end. Throws std::bad_alloc.
std::unique_ptr<chunked_cache> sequence_of(const chunked_cache & beginning, std::span<const chunk_piece * const> more);

}  // namespace livekv
