#include <algorithm>

#include "atomic_file.h"
#include "chunks/chunk_store.h"
#include "chunks/piece_keys.h"
#include "error.h"

namespace livekv {

void chunk_store::fetch(const model_facts & model, const kv_options & options, std::span<const int32_t> tokens,
                        size_t first_piece) noexcept {
    if (!remote_ || !shares_pieces(options)) {
        return;
    }
    const piece_cut cut(options);
    piece_keys keys(model, options);
    uint64_t bytes_before = 0;
    for (size_t i = 0; i < cut.before_last(tokens.size()); ++i) {
        const uint64_t key = keys.next(cut.text(tokens, i));
        if (i >= first_piece && folder_.look(key) == chunk_folder::found::nothing &&
            !fetch_piece(key, folder_.most_of_a_text() - bytes_before)) {
            return;
        }
        bytes_before = std::min(folder_.most_of_a_text(), bytes_before + folder_.bytes_of(key));
    }
}

// Whether the remote had it.
bool chunk_store::fetch_piece(uint64_t key, uint64_t most_bytes) {
    const std::optional<std::string> bytes = remote_->get(chunk_folder::name_of(key));
    if (!bytes || bytes->size() > most_bytes) {
        return false;
    }
    try {
        atomic_file file(folder_.path_of(key));
        file.append({reinterpret_cast<const uint8_t *>(bytes->data()), bytes->size()});
        file.commit(/*sync=*/false);
        folder_.wrote(key);
        return true;
    } catch (const error & problem) {
        note_failure(problem.what());
    } catch (const std::bad_alloc &) {
        note_failure("not enough memory");
    }
    return false;
}

void chunk_store::offer(uint64_t key, bool changed) const noexcept {
    if (remote_) {
        remote_->offer(chunk_folder::name_of(key), changed);
    }
}

}  // namespace livekv
