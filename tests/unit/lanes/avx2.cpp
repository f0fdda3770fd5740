#include "kernels/cpu/lanes_avx2.h"
#include "lanes/make_table.h"

namespace livekv {

const lanes_table avx2_lanes = table;

}  // namespace livekv
