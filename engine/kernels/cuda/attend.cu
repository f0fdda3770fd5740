#include <algorithm>

#include "kernels/cuda/attend_plain.cuh"
#include "kernels/cuda/attend_rows.cuh"
#include "kernels/cuda/attend_step.cuh"
#include "kernels/cuda/launch.h"

namespace livekv::device {

namespace {

using kernel_function = void (*)(const device_attention);

// The fast kernels that exist: what the presets need. Another shape or width takes the plain one.
struct fast_row {
    int32_t head_dim;
    int32_t k_bits;
    int32_t v_bits;
    kernel_function step;
    kernel_function step_outliers;
    kernel_function rows;
    int32_t step_blocks;  // that a multiprocessor holds at once
    size_t step_bytes;
    size_t outlier_bytes;
    size_t rows_bytes;
};

template <int32_t head_dim, int32_t k_bits, int32_t v_bits>
constexpr fast_row fast() {
    return {head_dim,
            k_bits,
            v_bits,
            attend_step_kernel<head_dim, k_bits, v_bits, false>,
            attend_step_kernel<head_dim, k_bits, v_bits, true>,
            attend_rows_kernel<head_dim, k_bits, v_bits>,
            step_blocks<head_dim, k_bits, v_bits>,
            sizeof(step_shared<head_dim, k_bits>),
            step_outlier_floats<head_dim> * sizeof(float),
            sizeof(rows_memory<head_dim, k_bits, v_bits>)};
}

const fast_row fast_rows[] = {
    fast<64, 4, 4>(),
    fast<64, 5, 4>(),
    fast<64, 4, 3>(),
    fast<64, 8, 8>(),
    fast<64, bits_by_class, 4>(),
    fast<64, bits_by_class, 3>(),
    fast<64, bits_by_class, 2>(),
    fast<128, 4, 4>(),
    fast<128, 5, 4>(),
    fast<128, 4, 3>(),
    fast<128, 8, 8>(),
    fast<128, bits_by_class, 4>(),
    fast<128, bits_by_class, 3>(),
    fast<128, bits_by_class, 2>(),
};

const fast_row * find_fast(int32_t head_dim, int32_t k_bits, int32_t v_bits) {
    for (const fast_row & row : fast_rows) {
        // Where nothing is sealed yet, or one side is exact for ever, any width will do.
        if (row.head_dim == head_dim && (k_bits == 0 || row.k_bits == k_bits) &&
            (v_bits == 0 || row.v_bits == v_bits)) {
            return &row;
        }
    }
    return nullptr;
}

constexpr int32_t most_step_rows = 2 * step_rows;
constexpr int32_t rows_blocks_each = 2;  // blocks of threads a multiprocessor holds at once
constexpr int32_t plain_blocks_each = 8;

// Spans that give every multiprocessor work, of at least min_tiles each, within the workspace.
int32_t spans_of(const device_attention & a, int32_t blocks_each, int32_t n_blocks, int32_t min_tiles,
                 size_t n_states) {
    const int64_t wanted = static_cast<int64_t>(blocks_each) * n_multiprocessors() / n_blocks;
    const int64_t possible = (a.n_tiles() + min_tiles - 1) / min_tiles;
    const int64_t room = static_cast<int64_t>(n_states) / (static_cast<int64_t>(a.n_head_kv) * a.n_rows());
    return static_cast<int32_t>(std::max<int64_t>(1, std::min({wanted, possible, room})));
}

size_t most_states(int32_t n_tokens, int32_t n_head, int32_t) {
    return std::max<size_t>(static_cast<size_t>(n_tokens) * static_cast<size_t>(n_head),
                            static_cast<size_t>(rows_blocks_each * n_multiprocessors()) * rows_of_block);
}

}  // namespace

bool has_fast_attention(int32_t head_dim, int32_t k_bits, int32_t v_bits) {
    return find_fast(head_dim, k_bits, v_bits) != nullptr;
}

size_t attention_floats(int32_t n_tokens, int32_t n_head, int32_t n_head_kv, int32_t head_dim) {
    return most_states(n_tokens, n_head, n_head_kv) * static_cast<size_t>(head_dim + 2);
}

void attend(device_attention a, int32_t k_bits, int32_t v_bits, float * workspace, float * q_rotated, stream s,
            attention_kernel kernel) {
    if (a.k_rotation > 1) {
        launch(rotate_rows_kernel, {a.n_tokens * a.n_head, 1, 1}, row_threads,
               static_cast<size_t>(a.head_dim) * sizeof(float), s, a.q, q_rotated, a.head_dim, a.k_rotation);
        a.q = q_rotated;
    }
    const size_t n_states = most_states(a.n_tokens, a.n_head, a.n_head_kv);
    a.partial_m = workspace;
    a.partial_l = workspace + n_states;
    a.partial_o = workspace + 2 * n_states;
    const fast_row * const fast = find_fast(a.head_dim, k_bits, v_bits);
    if (kernel == attention_kernel::best) {
        kernel = !fast                          ? attention_kernel::plain
                 : a.n_rows() <= most_step_rows ? attention_kernel::step
                                                : attention_kernel::rows;
    }
    LIVEKV_ASSERT(fast || kernel == attention_kernel::plain);
    if (kernel == attention_kernel::plain) {
        a.n_spans = spans_of(a, plain_blocks_each, a.n_rows() * a.n_head_kv, 4, n_states);
        launch(attend_plain_kernel, {a.n_rows(), a.n_head_kv, a.n_spans}, row_threads,
               static_cast<size_t>(2 * a.head_dim + kv_tile_tokens) * sizeof(float), s, a);
    } else if (kernel == attention_kernel::step) {
        const bool outliers = a.n_chunks > 0 && a.v_outliers > 0;
        const int32_t n_blocks = kv_ceil_div(a.n_rows(), step_rows) * a.n_head_kv;
        a.n_spans = spans_of(a, fast->step_blocks, n_blocks, step_warps, n_states);
        launch(outliers ? fast->step_outliers : fast->step, {a.n_spans, n_blocks, 1}, step_threads,
               fast->step_bytes + (outliers ? fast->outlier_bytes : 0), s, a);
    } else {
        const int32_t n_blocks = kv_ceil_div(a.n_rows(), rows_of_block);
        a.n_spans = spans_of(a, rows_blocks_each, n_blocks * a.n_head_kv, 8, n_states);
        launch(fast->rows, {n_blocks, a.n_head_kv, a.n_spans}, rows_threads, fast->rows_bytes, s, a);
    }
    launch(join_spans_kernel, {a.n_tokens * a.n_head, 1, 1}, join_threads,
           static_cast<size_t>(join_floats(a.n_spans, a.head_dim)) * sizeof(float), s, a);
}

void put_chunk(const device_chunk & c, device_chunk * to, stream s) {
    launch(put_chunk_kernel, {1, 1, 1}, simt::warp_size, 0, s, c, to);
}

void store_rows(const device_store & args, stream s) {
    launch(store_rows_kernel, {args.n_tokens, args.n_head_kv, 2}, row_threads,
           static_cast<size_t>(args.head_dim) * sizeof(float), s, args);
}

void check_rows(const device_rows & rows, stream s) {
    launch(check_rows_kernel, {rows.n_rows, 1, 1}, row_threads, 0, s, rows);
}

}  // namespace livekv::device
