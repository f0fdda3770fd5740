#include "kernels/cpu/kernels.h"
// clang-format off: the lanes first, what is written in terms of them after
#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/attention_step.h"
#include "kernels/cpu/guide_row.h"
#include "kernels/cpu/products.h"
#include "kernels/cpu/store_row.h"
// clang-format on

namespace livekv {

const cpu_kernels avx2_kernels = {
    "avx2",    n_rows_tile, attend_scratch_bytes,  attend, lanes::to_f32, store_row,
    pack_rows, multiply,    weight_on_guide_lanes,
};

}  // namespace livekv
