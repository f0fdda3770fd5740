#include "kernels/cpu/lanes_avx512.h"
#include "lanes/make_table.h"

namespace livekv {

const lanes_table avx512_lanes = table;

}  // namespace livekv
