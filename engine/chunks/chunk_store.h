#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "chunks/chunk_folder.h"
#include "chunks/chunk_piece.h"
#include "chunks/chunk_remote.h"
#include "model/fingerprint.h"

namespace livekv {

// What a store did since it was opened.
struct chunk_store_counts {
    int64_t n_read = 0;  // pieces
    int64_t n_tokens_read = 0;
    int64_t n_written = 0;
    int64_t bytes_written = 0;
    int64_t n_damaged = 0;     // removed
    int64_t n_foreign = 0;     // under a name that is not theirs: of another model, other options or another text
    int64_t n_unreadable = 0;  // no files, or not ours to read
    int64_t n_failed = 0;      // could not be written
    int64_t n_evicted = 0;     // for the limit, by this process
};

template <typename Visit>
void visit_numbers(const chunk_store_counts & c, const Visit & visit) {
    visit("pieces_read", c.n_read);
    visit("tokens_read", c.n_tokens_read);
    visit("pieces_written", c.n_written);
    visit("bytes_written", c.bytes_written);
    visit("damaged", c.n_damaged);
    visit("foreign", c.n_foreign);
    visit("unreadable", c.n_unreadable);
    visit("failed", c.n_failed);
    visit("evicted", c.n_evicted);
}

// A file of the folder, as it says of itself: nothing of it is checked but that it is a GGUF file of the kind.
struct stored_piece {
    std::string name;
    uint64_t bytes = 0;
    int64_t used_s = 0;  // since 1970
    bool readable = false;
    int64_t first_token = 0;
    int64_t n_tokens = 0;
    std::string policy;
    std::string weights;  // the model's hash of them
};

// What a store's folder holds, most recently used first. Throws livekv::error when it cannot be read.
std::vector<stored_piece> stored_pieces(const std::string & path);

// Sealed chunks of prompts in a folder, so that a prompt is read once: a sequence starts from the longest beginning
// that any process has stored, and goes on to the bit as if it had read that itself. A piece's name is a hash of the
// model, the cache options, the name of the piece before it and its tokens. Its file says all of these, the tokens
// before it too, and is taken only where they are the same: names that collide cost time, never a wrong answer.
// Thread-safe.
class chunk_store {
  public:
    static constexpr uint64_t default_limit = uint64_t(10) << 30;

    // limit: bytes, 1 or more. remote: where files are kept beyond the folder, or null. fetches_ahead: only fetch asks
    // it; without, longest does too. Throws livekv::error when the folder cannot be used.
    explicit chunk_store(const std::string & path, uint64_t limit = default_limit,
                         std::shared_ptr<chunk_remote> remote = nullptr, bool fetches_ahead = false);

    const std::string & path() const { return folder_.path(); }
    uint64_t limit() const { return folder_.limit(); }

    // A sequence that begins as tokens do and as this one, which may be empty, with at most all but the last of them;
    // null when no more of them is stored. Throws std::bad_alloc.
    std::unique_ptr<chunked_cache> longest(const model_facts & model, const chunked_cache & beginning,
                                           std::span<const int32_t> tokens);

    // Brings into the folder what the remote has of a text's pieces from this one on, up to the first that is nowhere.
    // Says nothing of what fails: then they are not there.
    void fetch(const model_facts & model, const kv_options & options, std::span<const int32_t> tokens,
               size_t first_piece = 0) noexcept;

    // Stores of a sequence, whose tokens these are, what is not there yet: two pieces at most, so that a call never
    // takes long. What fails is counted and said by problem(), and some calls later tried again.
    void put(const model_facts & model, const chunked_cache & cache, std::span<const int32_t> tokens) noexcept;

    chunk_store_counts counts() const;
    std::string problem() const;  // why something could not be read or stored, the last time; or nothing

  private:
    // Null for what is no such piece, which is counted.
    std::unique_ptr<chunk_piece> read(const model_facts & model, const chunked_cache & beginning, size_t piece,
                                      uint64_t key, std::span<const int32_t> tokens);
    bool fetch_piece(uint64_t key, uint64_t most_bytes);
    void offer(uint64_t key, bool changed) const noexcept;
    void put_missing(const model_facts & model, const chunked_cache & cache, std::span<const int32_t> tokens);
    // bytes_before: of the text's pieces in front.
    void write(const model_facts & model, const chunked_cache & cache, const chunk_piece & piece, size_t index,
               uint64_t key, std::span<const int32_t> tokens, uint64_t bytes_before) const;
    void note_failure(const std::string & why);

    chunk_folder folder_;
    std::shared_ptr<chunk_remote> remote_;
    bool fetches_ahead_;
    mutable std::mutex mutex_;
    chunk_store_counts counts_;
    std::string problem_;
    int64_t n_paused_ = 0;        // calls of put that will not try
    std::set<uint64_t> foreign_;  // names whose files are to be written anew
};

}  // namespace livekv
