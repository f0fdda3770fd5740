#pragma once

// The sealed block that attention of a few rows reads, and what it asks of memory beforehand: a tile's work takes about
// as long as memory takes to answer once, so nothing should be asked for only when it is needed. Internal linkage.

#include "kernels/attention.h"
#include "kernels/cpu/block_reader.h"

namespace livekv {
namespace {

class step_block {
  public:
    step_block(const attention_args & args, int32_t head, kv_side side) : args_(args), head_(head), side_(side) {}

    // Turns to a segment, which is sealed. True if it was another before.
    bool enter(int64_t i_segment) {
        if (i_segment == segment_) {
            return false;
        }
        segment_ = i_segment;
        block_ = block_reader(block_of(i_segment));
        next_ = i_segment + 1 < args_.n_segments ? block_of(i_segment + 1) : nullptr;
        n_tiles_ = block_.n_tiles();
        tile_bytes_ = n_tiles_ > 1 ? static_cast<size_t>(block_.bricks(1) - block_.bricks(0)) : 0;
        bricks_ = block_.bricks(0);
        next_bricks_ = next_ ? next_ + block_.head_bytes() : bricks_;
        head_lines_ = static_cast<uint32_t>(block_.head_bytes() / kv_block_align);
        return true;
    }

    const block_reader * operator->() const { return &block_; }
    const block_reader & operator*() const { return block_; }

    // Where the bricks lie that are to be fetched while a tile's are multiplied. The next block is taken to be laid
    // out as this one; where it is not, the wrong bytes are fetched.
    const uint8_t * bricks_ahead(int32_t tile) const {
        const int32_t to = tile + tiles_ahead;
        const int32_t beyond = to - n_tiles_;
        if (beyond < 0) {
            return bricks_ + static_cast<size_t>(to) * tile_bytes_;
        }
        return next_bricks_ + static_cast<size_t>(beyond < n_tiles_ ? beyond : 0) * tile_bytes_;
    }

    // Asks for a tile's share of what the next block has before its bricks.
    void fetch_next_head(int32_t tile) const {
        if (next_) {
            const uint32_t n_tiles = static_cast<uint32_t>(n_tiles_);
            const uint32_t t = static_cast<uint32_t>(tile);
            for (uint32_t i = head_lines_ * t / n_tiles; i < head_lines_ * (t + 1) / n_tiles; ++i) {
                __builtin_prefetch(next_ + static_cast<size_t>(i) * kv_block_align);
            }
        }
    }

  private:
    static constexpr int32_t tiles_ahead = 4;

    const uint8_t * block_of(int64_t i_segment) const {
        const kv_segment & segment = args_.segments[i_segment];
        const bool key = side_ == kv_side::key;
        const uint8_t * const blocks = key ? segment.k_blocks : segment.v_blocks;
        const size_t bytes = key ? segment.k_block_bytes : segment.v_block_bytes;
        return blocks ? blocks + static_cast<size_t>(head_) * bytes : nullptr;
    }

    const attention_args & args_;
    int32_t head_;
    kv_side side_;
    int64_t segment_ = -1;
    block_reader block_;
    const uint8_t * next_ = nullptr;  // the same head's block of the next segment; null: none, or not sealed
    const uint8_t * bricks_ = nullptr;
    const uint8_t * next_bricks_ = nullptr;
    size_t tile_bytes_ = 0;
    int32_t n_tiles_ = 0;
    uint32_t head_lines_ = 0;
};

}  // namespace
}  // namespace livekv
