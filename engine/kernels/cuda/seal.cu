#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/seal.cuh"
#include "kernels/cuda/seal_classes.cuh"
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

size_t seal_words(const kv_method & method, int32_t n_tokens, int32_t n_head, int32_t n_head_kv, int32_t head_dim) {
    const size_t heads = static_cast<size_t>(n_head_kv);
    const size_t d = static_cast<size_t>(head_dim);
    size_t each = 0;  // of a head, of any chunk that is not longer
    if (method.key_classes) {
        const size_t n_groups = static_cast<size_t>(n_tokens / method.group_of(n_tokens)) + 1;
        each = d * (1 + n_groups * sizeof(device_moments) / sizeof(uint32_t));
        if (method.key_feedback) {
            const size_t r = static_cast<size_t>(n_head / n_head_kv);
            each += 3 * r * d + 2 * (r + 1) * r + 1;  // one more so that the doubles can be aligned
        }
    } else {
        const size_t n_slabs = static_cast<size_t>(kv_ceil_div(head_dim, narrowest_slab));
        each = static_cast<size_t>(n_tokens) * n_slabs + d * static_cast<size_t>(method.k_outliers(n_tokens));
    }
    return heads * (1 + d + each);
}

namespace {

// s with headers and maps, and with its workspace up to this.
void seal_by_class(device_seal s, uint32_t * workspace, stream on) {
    const size_t line = static_cast<size_t>(s.n_head_kv) * static_cast<size_t>(s.head_dim);
    s.q2 = reinterpret_cast<float *>(workspace);
    workspace += line;
    if (s.method.key_feedback) {  // in front of what is as long as the chunk: means are for the next call too
        const size_t r = static_cast<size_t>(s.group());
        workspace += reinterpret_cast<uintptr_t>(workspace) % sizeof(double) / sizeof(uint32_t);
        s.spread = reinterpret_cast<double *>(workspace);
        s.means = reinterpret_cast<float *>(s.spread + static_cast<size_t>(s.n_head_kv) * (r + 1) * r);
        s.gain = s.means + line * r;
        s.weight = s.gain + line * r;
        workspace = reinterpret_cast<uint32_t *>(s.weight + line * r);
    }
    s.moments = reinterpret_cast<device_moments *>(workspace);
    const int32_t n_groups = s.k_map.n_scales / s.head_dim;
    const int32_t n_tiles = s.v_blocks ? s.v_map.n_tiles : 0;
    launch(measure_classes_kernel, {n_groups + (s.new_state ? 1 : 0) + n_tiles, s.n_head_kv, 1}, seal_threads,
           n_tiles > 0 ? value_tile_memory::bytes(s.head_dim) : 0, on, s);
    launch(choose_classes_kernel, {1, s.n_head_kv, 1}, seal_threads, choice_memory::bytes(s.head_dim), on, s);
    if (s.k_blocks) {
        const size_t sums_bytes =
            s.method.key_feedback ? sizeof(float) * static_cast<size_t>(s.group() * kv_tile_tokens) : 0;
        launch(write_classes_kernel, {s.k_map.n_tiles, s.n_head_kv, 1}, seal_threads,
               class_codes_memory::bytes(s.head_dim) + sums_bytes, on, s);
    }
}

}  // namespace

void seal(device_seal s, uint32_t * workspace, stream on) {
    LIVEKV_ASSERT(s.head_dim % 8 == 0 && s.head_dim <= 512 && s.n_tokens <= longest_chunk());
    s.k_header = block_header(s.method, kv_side::key, s.n_tokens, s.head_dim);
    s.v_header = block_header(s.method, kv_side::value, s.n_tokens, s.head_dim);
    s.k_map = kv_map(s.k_header);
    s.v_map = kv_map(s.v_header);
    const size_t heads = static_cast<size_t>(s.n_head_kv);
    s.tickets = workspace;
    s.bounds = reinterpret_cast<float *>(workspace + heads);
    workspace += heads * (1 + static_cast<size_t>(s.head_dim));
    if (s.method.key_classes && (s.k_blocks || s.new_state)) {
        return seal_by_class(s, workspace, on);
    }
    s.slab = slab_of(s.n_tokens);
    const int32_t n_slabs = s.k_blocks || s.new_state ? kv_ceil_div(s.head_dim, s.slab) : 0;
    s.found = workspace;
    s.apart = s.found + heads * static_cast<size_t>(s.k_map.n_outlying);
    const size_t k_bytes = n_slabs > 0 ? key_slab_memory::bytes(s.n_tokens, s.slab) : 0;
    const size_t v_bytes = s.v_blocks ? value_tile_memory::bytes(s.head_dim) : 0;
    const int32_t n_tiles = s.v_blocks ? s.v_map.n_tiles : 0;
    if (n_slabs + n_tiles > 0) {
        launch(seal_kernel, {n_slabs + n_tiles, s.n_head_kv, 1}, seal_threads, std::max(k_bytes, v_bytes), on, s);
    }
}

void pack_queries(const kv_method & method, const float * q, int32_t first, int32_t n_tokens, int32_t n_head,
                  int32_t n_head_kv, int32_t head_dim, uint8_t * to, stream on) {
    const simt::dim grid = {n_tokens, n_head_kv, 1};
    if (method.key_feedback) {
        launch(pack_query_signs_kernel, grid, seal_threads, 0, on, q, first, n_head, n_head_kv, head_dim, to);
    } else {
        launch(pack_queries_kernel, grid, seal_threads, 0, on, q, n_head, n_head_kv, head_dim, to);
    }
}

}  // namespace livekv::device
