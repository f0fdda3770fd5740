#pragma once

// What every CPU level (generic, avx2, avx512) provides, and the choice among them.

#include "kernels/attention.h"
#include "kernels/guide_weights.h"
#include "kernels/products.h"

namespace livekv {

struct cpu_kernels {
    const char * name;
    int32_t row_tile;  // rows attend takes at once

    // Bytes of scratch attend needs for a head_dim; whatever the context.
    size_t (*scratch_bytes)(int32_t head_dim);

    // Fills state, [row_tile] rows of which item.n_rows mean something. scratch: 64-byte aligned.
    void (*attend)(const attention_args & args, const attention_item & item, void * scratch,
                   const softmax_state & state);

    void (*to_f32)(const uint16_t * from, float * to, size_t n);

    // n values of heads of head_dim to f16, rotated in runs of `rotation` channels (0: not); false when a result is not
    // finite.
    bool (*store_row)(const float * from, uint16_t * to, size_t n, int32_t head_dim, int32_t rotation);

    // 1 to rows_a_tile rows f32 [n_in], stride floats apart, as packed ones (kernels/products.h).
    void (*pack_rows)(const float * x, size_t stride, int64_t n_in, int64_t n_rows, uint8_t * to);

    // Some strips of w times packed rows: their columns of out f32 [n_rows, n_out], whose rows are ld floats apart.
    void (*multiply)(const packed_matrix & w, int64_t first_strip, int64_t n_strips, const uint8_t * rows,
                     int64_t n_rows, float * out, size_t ld);

    // As the reference of that name (kernels/guide_weights.h), in floats.
    float (*weight_on_guide)(const guide_view & view);
};

extern const cpu_kernels generic_kernels;
#if defined(LIVEKV_X86)
extern const cpu_kernels avx2_kernels;
extern const cpu_kernels avx512_kernels;
#endif

// The best level this machine runs, or the one LIVEKV_CPU names (generic, avx2, avx512). Throws livekv::error when that
// is unknown or cannot run here.
const cpu_kernels & best_cpu_kernels();

// The level of that name, or null when this machine cannot run it.
const cpu_kernels * find_cpu_kernels(const char * name);

}  // namespace livekv
