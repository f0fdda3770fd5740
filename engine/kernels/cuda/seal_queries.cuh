#pragma once

// What is kept of queries, where widths of key channels are chosen by them: the bytes and numbers of query_squares
// (policy), summed up in the same order.

#include "kernels/cuda/device_kv.h"
#include "kernels/cuda/seal_line.cuh"
#include "kv/query_square.h"

namespace livekv::device {

// sum + the mean over a kv head's group of the square of channel c of a token's queries, f32 [n_head, head_dim].
SIMT_FN double with_mean_square(double sum, const float * q, int32_t head, int32_t group, int32_t d, int32_t c) {
    const double each = 1.0 / static_cast<double>(group);
    for (int32_t h = 0; h < group; ++h) {
        sum += each * bounded_square(q[(head * group + h) * d + c]);
    }
    return sum;
}

// Grid: x: tokens, y: kv heads. to: [n_tokens, n_head_kv, head_dim].
SIMT_KERNEL void pack_queries_kernel(const float * q, int32_t n_head, int32_t n_head_kv, int32_t d, uint8_t * to) {
    const size_t token = static_cast<size_t>(simt::block_x());
    const int32_t head = simt::block_y();
    const size_t row = static_cast<size_t>(d);
    for (int32_t c = simt::thread(); c < d; c += simt::n_threads()) {
        const double mean =
            with_mean_square(0.0, q + token * static_cast<size_t>(n_head) * row, head, n_head / n_head_kv, d, c);
        to[(token * static_cast<size_t>(n_head_kv) + static_cast<size_t>(head)) * row + static_cast<size_t>(c)] =
            packed_root(mean);
    }
}

// The mean of a head's queries up to the end of the chunk that closes, into the workspace, and its root into the state.
SIMT_FN void sum_queries(const device_seal & s, int32_t head) {
    const int32_t d = s.head_dim;
    const int32_t n_waiting = s.n_tokens - s.n_new;
    const size_t token_row = static_cast<size_t>(s.n_head_kv) * static_cast<size_t>(d);
    const size_t query_row = static_cast<size_t>(s.n_head) * static_cast<size_t>(d);
    const size_t line = static_cast<size_t>(head) * static_cast<size_t>(d);
    const size_t state =
        static_cast<size_t>(head) * static_cast<size_t>(s.state_floats) + static_cast<size_t>(s.state_floats - d);
    for (int32_t c = simt::thread(); c < d; c += seal_threads) {
        double sum = 0.0;
        int64_t n = s.n_tokens;
        if (s.old_state) {
            const float root = s.old_state[state + static_cast<size_t>(c)];
            sum = static_cast<double>(root) * root * static_cast<double>(s.n_before);
            n += s.n_before;
        }
        for (int32_t i = 0; i < n_waiting; ++i) {
            sum += square_of_packed(s.tail_queries[static_cast<size_t>(i) * token_row + line + static_cast<size_t>(c)]);
        }
        const float * q = s.q;
        for (int32_t i = 0; i < s.n_new; ++i, q += query_row) {
            sum = with_mean_square(sum, q, head, s.n_head / s.n_head_kv, d, c);
        }
        const float mean = static_cast<float>(sum / static_cast<double>(n));
        s.q2[head * d + c] = mean;
        s.new_state[state + static_cast<size_t>(c)] = bounded_root(mean);
    }
}

}  // namespace livekv::device
