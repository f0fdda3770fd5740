#include "memory/memory_pool.h"

#include <iterator>

#include "kv/kv_block.h"

namespace livekv {

uint8_t * memory_pool::stretch_of(uint8_t * at) const {
    return std::prev(stretches_.upper_bound(at))->first;
}

uint8_t * memory_pool::stretch_with_room(size_t bytes) {
    size_t held = 0;
    for (const auto & [base, s] : stretches_) {
        if (s.bytes - s.used >= bytes) {
            return base;
        }
        held += s.bytes;
    }
    stretch fresh;
    fresh.bytes = bytes;
    uint8_t * const base = source_.allocate(fresh.bytes, held);
    try {
        stretches_.emplace(base, fresh);
    } catch (...) {
        source_.release(base, fresh.bytes);
        throw;
    }
    return base;
}

void * memory_pool::take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    bytes = kv_align(bytes > 0 ? bytes : 1, alignment_);
    uint8_t *& first_free = first_free_[bytes];
    uint8_t * at = first_free;
    if (at) {
        piece & p = pieces_.find(at)->second;
        first_free = p.next_free;
        p.next_free = nullptr;
        ++stretches_.find(stretch_of(at))->second.n_pieces;
    } else {
        uint8_t * const base = stretch_with_room(bytes);
        stretch & s = stretches_.find(base)->second;
        at = base + s.used;
        pieces_.emplace(at, piece{bytes});  // the last that can fail
        if (s.used > s.reported) {
            source_.on_used(base, s.reported, s.used);
            s.reported = s.used;
        }
        s.used += bytes;
        ++s.n_pieces;
    }
    bytes_taken_ += bytes;
    return at;
}

void memory_pool::give_back(void * data) noexcept {
    if (!data) {
        return;
    }
    const std::lock_guard lock(mutex_);
    auto * const at = static_cast<uint8_t *>(data);
    piece & p = pieces_.find(at)->second;
    uint8_t *& first_free = first_free_.find(p.bytes)->second;
    p.next_free = first_free;
    first_free = at;
    bytes_taken_ -= p.bytes;
    const auto found = stretches_.find(stretch_of(at));
    if (--found->second.n_pieces > 0) {
        source_.on_free(at, p.bytes);
        return;
    }
    const stretch s = found->second;
    uint8_t * const base = found->first;
    forget_pieces(base, base + s.bytes);
    stretches_.erase(found);
    source_.release(base, s.bytes);
}

// All of them are free.
void memory_pool::forget_pieces(uint8_t * from, uint8_t * to) noexcept {
    for (auto & [bytes, first_free] : first_free_) {
        for (uint8_t ** link = &first_free; *link;) {
            piece & p = pieces_.find(*link)->second;
            if (*link >= from && *link < to) {
                *link = p.next_free;
            } else {
                link = &p.next_free;
            }
        }
    }
    pieces_.erase(pieces_.lower_bound(from), pieces_.lower_bound(to));
}

size_t memory_pool::bytes_taken() {
    const std::lock_guard lock(mutex_);
    return bytes_taken_;
}

}  // namespace livekv
