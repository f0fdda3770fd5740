#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cpu/kernels.h"

namespace livekv {

// Attention calls shared among threads: prepare by one, then run by each; the same memory serves every layer. The
// pieces and the order in which they are joined depend on shapes alone, so results do not depend on the threads.
class attention_job {
  public:
    attention_job(const cpu_kernels & kernels, int32_t n_threads, int32_t head_dim);

    // Cuts the call into items; q and out of args are not used. Not thread-safe; nothing may run.
    void prepare(const attention_args & args);

    // Works on this thread's items, then on others' until none is left; returns when this thread is done.
    // thread < n_threads, each called once with the same q and out, as in attention_args.
    void run(int32_t thread, const float * q, float * out);

    // Scratch and partial results, whatever the context.
    size_t bytes() const;

  private:
    struct free_aligned {
        void operator()(void * p) const;
    };
    using memory = std::unique_ptr<void, free_aligned>;
    static memory allocate(size_t bytes);

    void work(int64_t i, const attention_args & args, uint8_t * scratch);
    // Rows of one head that end in the same outputs; its spans are items next to each other.
    void finish(const attention_item & item, const softmax_state & state, float * out) const;
    void merge_spans(int64_t row_tile, float * out);

    const cpu_kernels & kernels_;
    int32_t head_dim_;
    size_t scratch_bytes_;
    size_t state_floats_;
    std::vector<memory> scratch_;  // [n_threads] scratch, then a state
    memory span_states_;           // [n_items] states, when rows are cut into spans
    size_t span_capacity_ = 0;     // states span_states_ has room for

    attention_args args_;
    std::vector<attention_item> items_;
    int64_t n_spans_ = 1;
    // A thread's items, next to each other: what one asks memory for last is what the next one starts with.
    struct alignas(64) share {
        std::atomic<int64_t> next{0};
        int64_t end = 0;
    };
    std::vector<share> shares_;  // [n_threads]
    std::vector<std::atomic<int64_t>> spans_left_;  // [row tiles]
};

}  // namespace livekv
