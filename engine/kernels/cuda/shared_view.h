#pragma once

// Shared memory as a thread may see it at worst: what another has written since their last barrier is not there yet.
// Shuffles and matrix products make threads wait for each other, but order no memory; where a kernel relies on one of
// them, it reads what was there before.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "error.h"

namespace livekv::simt::emulated {

class shared_view {
  public:
    // memory: what threads read and write, of n bytes; nothing is hidden in it.
    void start(uint8_t * memory, size_t n, size_t n_threads) {
        memory_ = memory;
        public_.assign(memory, memory + n);
        mine_.assign(n_threads, {});
    }

    // A thread goes on: it sees its own writes.
    void enter(int32_t thread) {
        for (const write & w : mine_[static_cast<size_t>(thread)]) {
            memory_[w.at] = w.value;
        }
    }

    // A thread stops: what it has written is kept for it alone.
    void leave(int32_t thread) {
        constexpr size_t step = 64;
        std::vector<write> & mine = mine_[static_cast<size_t>(thread)];
        mine.clear();
        for (size_t first = 0; first < public_.size(); first += step) {
            const size_t n = std::min(step, public_.size() - first);
            if (std::memcmp(memory_ + first, public_.data() + first, n) == 0) {
                continue;
            }
            for (size_t i = first; i < first + n; ++i) {
                if (memory_[i] != public_[i]) {
                    mine.push_back({static_cast<uint32_t>(i), memory_[i]});
                    memory_[i] = public_[i];
                }
            }
        }
    }

    // A barrier of these threads: all see what each has written.
    void publish(const std::vector<int32_t> & threads) {
        std::vector<write> before;
        for (const int32_t thread : threads) {
            std::vector<write> & mine = mine_[static_cast<size_t>(thread)];
            for (const write & w : mine) {
                if (public_[w.at] != memory_[w.at] && public_[w.at] != w.value) {
                    fail("internal error: two threads of a kernel write byte ", w.at,
                         " of its shared memory between two barriers");
                }
                public_[w.at] = w.value;
            }
            before.insert(before.end(), mine.begin(), mine.end());
            mine.clear();
        }
        for (const write & w : before) {
            memory_[w.at] = w.value;
        }
    }

  private:
    struct write {
        uint32_t at;
        uint8_t value;
    };
    uint8_t * memory_ = nullptr;
    std::vector<uint8_t> public_;           // what all threads see
    std::vector<std::vector<write>> mine_;  // [n_threads], what only they see
};

}  // namespace livekv::simt::emulated
