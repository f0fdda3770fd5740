#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cpu/kernels.h"

namespace livekv {

// Rows of a kv head, which are a call's tokens times the query heads that share it, from which on a row has the bits
// that it has in any longer call over the same context: more than the kernels take another way as a few, and so many
// that none is cut into spans. Of a context of up to n_tokens in n_segments.
int64_t least_rows_alike(const cpu_kernels & kernels, int64_t n_head_kv, int64_t n_tokens, int64_t n_segments);

// Attention calls, one a sequence, shared among threads: prepare by one, then run by each; the same memory serves every
// layer. The pieces and the order in which they are joined depend on shapes alone, so results do not depend on the
// threads.
class attention_job {
  public:
    attention_job(const cpu_kernels & kernels, int32_t n_threads, int32_t head_dim);

    // Cuts calls into items; q and out of them, but not log_sums, are where theirs begin, behind those of the one
    // before. How a call is cut, and so its result, does not depend on the others. Not thread-safe; nothing may run.
    void prepare(std::span<const attention_args> calls);

    // Works on this thread's items, then on others' until none is left; returns when this thread is done.
    // thread < n_threads, each called once with the same q and out, f32 [n_tokens of all calls, n_head, head_dim].
    void run(int32_t thread, const float * q, float * out);

    // Scratch and partial results, whatever the context.
    size_t bytes() const;

  private:
    struct free_aligned {
        void operator()(void * p) const;
    };
    using memory = std::unique_ptr<void, free_aligned>;
    static memory allocate(size_t bytes);

    // One call: where its tokens are among all of them, and how many spans each row tile is cut into.
    struct call {
        attention_args args;
        int64_t first_token;
        int64_t n_spans;
    };
    // A piece of a call. Rows of one head that end in the same outputs are a tile; its spans are pieces next to each
    // other.
    struct piece {
        attention_item item;
        size_t call;
        size_t tile;
        int64_t span;
    };

    // at: where the call's first tile is.
    void cut(const call & c, size_t index, attention_item at, int64_t context_tiles, size_t first_tile);
    void work(size_t i, const float * q, float * out, uint8_t * scratch);
    void finish(const piece & p, const softmax_state & state, float * out) const;
    void merge_spans(size_t first, float * out);

    const cpu_kernels & kernels_;
    int32_t head_dim_;
    size_t scratch_bytes_;
    size_t state_floats_;
    std::vector<memory> scratch_;  // [n_threads] scratch, then a state
    memory span_states_;           // [n_pieces] states, when rows of some call are cut into spans
    size_t span_capacity_ = 0;     // states span_states_ has room for

    std::vector<call> calls_;
    std::vector<piece> pieces_;
    // A thread's items, next to each other: what one asks memory for last is what the next one starts with.
    struct alignas(64) share {
        std::atomic<int64_t> next{0};
        int64_t end = 0;
    };
    std::vector<share> shares_;                     // [n_threads]
    std::vector<std::atomic<int64_t>> spans_left_;  // [tiles of all calls]
};

}  // namespace livekv
