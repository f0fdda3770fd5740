#include "kernels/cpu/lanes_generic.h"
#include "lanes/make_table.h"

namespace livekv {

const lanes_table generic_lanes = table;

}  // namespace livekv
