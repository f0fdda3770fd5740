#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/seal.cuh"
#include "kv/kv_pack.h"

namespace livekv::device {

namespace {

constexpr int32_t narrowest_slab = 8;

// The widest slab of channels, 32, 16 or 8, with whose values two blocks of threads share a multiprocessor.
int32_t slab_of(int32_t n_tokens) {
    const size_t wanted = std::min<size_t>(100 << 10, shared_memory_limit());
    int32_t slab = 32;
    while (slab > narrowest_slab && key_slab_memory::bytes(n_tokens, slab) > wanted) {
        slab /= 2;
    }
    return slab;
}

}  // namespace

int32_t longest_chunk() {
    int32_t n = kv_max_block_tokens;
    while (key_slab_memory::bytes(n, narrowest_slab) > shared_memory_limit()) {
        n -= kv_tile_tokens;
    }
    return n;
}

size_t seal_words(int32_t n_tokens, int32_t n_head_kv, int32_t head_dim, int32_t k_outliers) {
    const size_t heads = static_cast<size_t>(n_head_kv);
    const size_t n_slabs =
        static_cast<size_t>(kv_ceil_div(head_dim, narrowest_slab));  // of any chunk that is not longer
    return heads * (1 + static_cast<size_t>(head_dim) + static_cast<size_t>(n_tokens) * n_slabs +
                    static_cast<size_t>(head_dim * k_outliers));
}

void seal(device_seal s, uint32_t * workspace, stream on) {
    LIVEKV_ASSERT(s.head_dim % 8 == 0 && s.head_dim <= 512 && s.n_tokens <= longest_chunk());
    s.k_header = block_header(s.method, kv_side::key, s.n_tokens, s.head_dim);
    s.v_header = block_header(s.method, kv_side::value, s.n_tokens, s.head_dim);
    s.k_map = kv_map(s.k_header);
    s.v_map = kv_map(s.v_header);
    s.slab = slab_of(s.n_tokens);
    const size_t heads = static_cast<size_t>(s.n_head_kv);
    const int32_t n_slabs = s.k_blocks || s.new_state ? kv_ceil_div(s.head_dim, s.slab) : 0;
    s.tickets = workspace;
    s.bounds = reinterpret_cast<float *>(workspace + heads);
    s.found = workspace + heads * (1 + static_cast<size_t>(s.head_dim));
    s.apart = s.found + heads * static_cast<size_t>(s.k_map.n_outlying);
    const size_t k_bytes = n_slabs > 0 ? key_slab_memory::bytes(s.n_tokens, s.slab) : 0;
    const size_t v_bytes = s.v_blocks ? value_tile_memory::bytes(s.head_dim) : 0;
    const int32_t n_tiles = s.v_blocks ? s.v_map.n_tiles : 0;
    if (n_slabs + n_tiles > 0) {
        launch(seal_kernel, {n_slabs + n_tiles, s.n_head_kv, 1}, seal_threads, std::max(k_bytes, v_bytes), on, s);
    }
}

}  // namespace livekv::device
