#pragma once

// Sealing of a chunk of a layer: the bytes of pack_block(seal_keys, seal_values), by one launch that reads the raw
// chunk once. Blocks of threads take a slab of channels of keys, or a tile of values, of a kv head.

#include "kernels/cuda/seal_keys.cuh"
#include "kernels/cuda/seal_values.cuh"

namespace livekv::device {

// Grid: x: the slabs of keys, then the tiles of values; y: kv heads.
SIMT_KERNEL void seal_kernel(const SIMT_PARAM device_seal s) {
    const int32_t n_slabs = s.k_blocks || s.new_state ? kv_ceil_div(s.head_dim, s.slab) : 0;
    if (simt::block_x() < n_slabs) {
        seal_key_slab(s, simt::block_x(), simt::block_y());
    } else {
        seal_value_tile(s, simt::block_x() - n_slabs, simt::block_y());
    }
}

}  // namespace livekv::device
