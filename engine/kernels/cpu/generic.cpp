#include "kernels/cpu/kernels.h"
#include "kernels/cpu/lanes_generic.h"

#include "kernels/cpu/attention_step.h"

namespace livekv {

const cpu_kernels generic_kernels = {
    "generic", n_rows_tile, attend_scratch_bytes, attend, lanes::to_f32, store_row,
};

}  // namespace livekv
