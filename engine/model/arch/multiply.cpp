#include "model/arch/multiply.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>

#include <algorithm>
#include <limits>

#include "finite.h"
#include "kernels/cpu/kernels.h"
#include "model/packed_weights.h"

namespace livekv {

namespace {

// Thread ith of nth packs its share of the rows of dst->src[0].
void pack_node(ggml_tensor * dst, int ith, int nth, void * /* unused */) {
    const ggml_tensor * x = dst->src[0];
    const int64_t n_tiles = (x->ne[1] + rows_a_tile - 1) / rows_a_tile;
    for (int64_t t = n_tiles * ith / nth; t < n_tiles * (ith + 1) / nth; ++t) {
        const int64_t row = t * rows_a_tile;
        best_cpu_kernels().pack_rows(
            reinterpret_cast<const float *>(static_cast<const char *>(x->data) + static_cast<size_t>(row) * x->nb[1]),
            x->nb[1] / sizeof(float), x->ne[0], std::min(rows_a_tile, x->ne[1] - row),
            static_cast<uint8_t *>(dst->data) + packed_row_bytes(x->ne[0], row));
    }
}

// Thread ith of nth computes its strips: so many rows at a time that they stay in its cache.
void multiply_node(ggml_tensor * dst, int ith, int nth, void * matrix) {
    constexpr size_t cached = 512 << 10;
    const auto & w = *static_cast<const packed_matrix *>(matrix);
    const auto * rows = static_cast<const uint8_t *>(dst->src[0]->data);
    const int64_t n_rows = dst->ne[1];
    const int64_t at_once =
        std::max<int64_t>(1, static_cast<int64_t>(cached / packed_row_bytes(w.n_in, rows_a_tile))) * rows_a_tile;
    const int64_t first = w.n_strips() * ith / nth;
    const int64_t n = w.n_strips() * (ith + 1) / nth - first;
    for (int64_t row = 0; row < n_rows; row += at_once) {
        best_cpu_kernels().multiply(w, first, n, rows + packed_row_bytes(w.n_in, row), std::min(at_once, n_rows - row),
                                    static_cast<float *>(dst->data) + row * w.n_out, static_cast<size_t>(w.n_out));
    }
}

// Whether ggml rounds x to integers for the product, and makes numbers of what is none.
bool rounds_rows(const ggml_tensor * weight) {
    const ggml_backend_dev_t device =
        weight->buffer ? ggml_backend_buft_get_device(ggml_backend_buffer_get_type(weight->buffer)) : nullptr;
    const bool on_gpu = device && ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU;
    return !on_gpu && ggml_is_quantized(ggml_get_type_traits_cpu(weight->type)->vec_dot_type);
}

// Rows of dst [n_out, n_rows] become NaN where x [n_in, n_rows] has a value that is not a number.
void spread_node(ggml_tensor * dst, const ggml_tensor *, const ggml_tensor * x, int ith, int nth, void * /* unused */) {
    for (int64_t row = ith; row < x->ne[1]; row += nth) {
        const auto * values =
            reinterpret_cast<const float *>(static_cast<const char *>(x->data) + static_cast<size_t>(row) * x->nb[1]);
        if (first_not_finite({values, static_cast<size_t>(x->ne[0])})) {
            std::fill_n(static_cast<float *>(dst->data) + row * dst->ne[0], dst->ne[0],
                        std::numeric_limits<float>::quiet_NaN());
        }
    }
}

}  // namespace

ggml_tensor * multiply(ggml_context * ctx, ggml_tensor * weight, ggml_tensor * x, packed_rows & packed) {
    const packed_matrix * w = find_packed(weight);
    if (!w) {
        ggml_tensor * y = ggml_mul_mat(ctx, weight, x);
        return rounds_rows(weight) ? ggml_map_custom2_inplace(ctx, y, x, spread_node, GGML_N_TASKS_MAX, nullptr) : y;
    }
    ggml_tensor *& rows = packed[x];
    if (!rows) {
        const size_t bytes = packed_row_bytes(x->ne[0], x->ne[1]);
        rows = ggml_custom_4d(ctx, GGML_TYPE_I8, static_cast<int64_t>(bytes), 1, 1, 1, &x, 1, pack_node,
                              GGML_N_TASKS_MAX, nullptr);
    }
    return ggml_custom_4d(ctx, GGML_TYPE_F32, w->n_out, x->ne[1], 1, 1, &rows, 1, multiply_node, GGML_N_TASKS_MAX,
                          const_cast<packed_matrix *>(w));
}

}  // namespace livekv
