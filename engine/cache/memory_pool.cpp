#include "cache/memory_pool.h"

#include <iterator>

#include "kv/kv_block.h"

namespace livekv {

uint8_t * memory_pool::stretch_of(uint8_t * at) const {
    return std::prev(stretches_.upper_bound(at))->first;
}

uint8_t * memory_pool::find_room(size_t bytes) {
    if (auto & same = free_pieces_[bytes]; !same.empty()) {
        uint8_t * const at = same.back();
        same.pop_back();
        return at;
    }
    size_t held = 0;
    for (auto & [base, s] : stretches_) {
        if (s.bytes - s.used >= bytes) {
            source_.on_used(base, s.reported, s.used);
            s.reported = s.used;
            s.used += bytes;
            return base + s.used - bytes;
        }
        held += s.bytes;
    }
    stretch fresh;
    fresh.bytes = fresh.used = bytes;
    uint8_t * const base = source_.allocate(fresh.bytes, held);
    stretches_[base] = fresh;
    return base;
}

void * memory_pool::take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    bytes = kv_align(bytes > 0 ? bytes : 1, alignment_);
    uint8_t * const at = find_room(bytes);
    taken_[at] = bytes;
    bytes_taken_ += bytes;
    ++stretches_[stretch_of(at)].n_pieces;
    return at;
}

void memory_pool::give_back(void * piece) noexcept {
    if (!piece) {
        return;
    }
    const std::lock_guard lock(mutex_);
    const auto found = taken_.find(piece);
    auto * const at = static_cast<uint8_t *>(piece);
    const size_t bytes = found->second;
    uint8_t * const base = stretch_of(at);
    stretch & s = stretches_[base];
    free_pieces_[bytes].push_back(at);
    taken_.erase(found);
    bytes_taken_ -= bytes;
    if (--s.n_pieces > 0) {
        source_.on_free(at, bytes);
        return;
    }
    for (auto & [size, pieces] : free_pieces_) {
        std::erase_if(pieces, [&](const uint8_t * x) { return x >= base && x < base + s.bytes; });
    }
    const size_t stretch_bytes = s.bytes;
    stretches_.erase(base);
    source_.release(base, stretch_bytes);
}

size_t memory_pool::bytes_taken() {
    const std::lock_guard lock(mutex_);
    return bytes_taken_;
}

}  // namespace livekv
