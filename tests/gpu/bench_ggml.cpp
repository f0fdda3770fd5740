// bench_ggml: ggml's flash attention over an f16 cache on the first GPU, 8B shapes (32 heads, 8 kv heads, head_dim
// 128): one token, and 512, over n tokens. Prints one JSON object a line, as bench_kernels does. Layers take turns.

#include <ggml-cpp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <vector>

namespace {

double median_seconds(ggml_backend_t backend, ggml_cgraph * graph, int n_runs) {
    std::vector<double> runs;
    for (int i = -3; i < n_runs; ++i) {
        ggml_backend_synchronize(backend);
        const auto start = std::chrono::steady_clock::now();
        ggml_backend_graph_compute(backend, graph);
        ggml_backend_synchronize(backend);
        if (i >= 0) {
            runs.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        }
    }
    std::sort(runs.begin(), runs.end());
    return runs[runs.size() / 2];
}

bool bench(ggml_backend_t backend, int64_t n_new, int64_t n, int n_layers, int n_runs) {
    constexpr int64_t n_head = 32;
    constexpr int64_t n_head_kv = 8;
    constexpr int64_t head_dim = 128;
    ggml_context_ptr ctx(ggml_init({1 << 20, nullptr, /*no_alloc=*/true}));
    ggml_cgraph * graph = ggml_new_graph(ctx.get());
    ggml_tensor * mask = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, n, n_new);
    for (int i = 0; i < n_layers; ++i) {
        ggml_tensor * q = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, head_dim, n_new, n_head);
        ggml_tensor * k = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F16, head_dim, n_head_kv, n);
        ggml_tensor * v = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F16, head_dim, n_head_kv, n);
        ggml_tensor * out = ggml_flash_attn_ext(ctx.get(), q, ggml_permute(ctx.get(), k, 0, 2, 1, 3),
                                                ggml_permute(ctx.get(), v, 0, 2, 1, 3), mask,
                                                1.0f / std::sqrt(static_cast<float>(head_dim)), 0.0f, 0.0f);
        ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
        ggml_build_forward_expand(graph, out);
    }
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(ctx.get(), backend));
    if (!buffer) {
        std::fprintf(stderr, "bench_ggml: not enough memory\n");
        return false;
    }
    ggml_backend_buffer_clear(buffer.get(), 0x2c);  // a small number, in f16 and f32
    const double seconds = median_seconds(backend, graph, n_runs) / n_layers;
    const double bytes = 2.0 * static_cast<double>(n * n_head_kv * head_dim) * 2.0;
    const double operations = 4.0 * n_head * head_dim * static_cast<double>(n_new) * static_cast<double>(n);
    std::printf(
        "{\"bench\": \"ggml %s\", \"shape\": \"f16\", \"tokens\": %lld, \"us\": %.2f, \"bytes\": %.0f, \"GB_s\": %.1f, "
        "\"TFLOPS\": %.1f}\n",
        n_new == 1 ? "decode" : "prefill", static_cast<long long>(n), 1e6 * seconds, bytes, 1e-9 * bytes / seconds,
        1e-12 * operations / seconds);
    std::fflush(stdout);
    return true;
}

}  // namespace

int main() {
    ggml_backend_dev_t gpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU);
    if (!gpu) {
        std::fprintf(stderr, "bench_ggml: no GPU\n");
        return 77;
    }
    ggml_backend_ptr backend(ggml_backend_dev_init(gpu, nullptr));
    bool ok = true;
    for (const int64_t n : {32768, 131072}) {
        ok = bench(backend.get(), 1, n, 8, 20) && ok;
    }
    for (const int64_t n : {4096, 32768, 131072}) {
        ok = bench(backend.get(), 512, n, 1, 5) && ok;
    }
    return ok ? 0 : 1;
}
