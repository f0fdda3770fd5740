#include "graph/backend.h"

#include <ggml-cpu.h>

#include <vector>

#include "error.h"
#include "graph/kv_backend.h"
#include "graph/require_memory.h"
#include "graph/thread_team.h"
#include "model/ggml_log.h"
#include "model/weights.h"

namespace livekv {

backend::backend(int32_t n_threads, bool with_gpu, size_t n_nodes) : n_threads_(n_threads) {
    silence_ggml();
    cpu_.reset(ggml_backend_cpu_init());
    if (!cpu_) {
        fail("cannot start ggml's CPU backend: ", take_ggml_errors());
    }
    ggml_backend_cpu_set_n_threads(cpu_.get(), n_threads);
    if (with_gpu) {
        gpu_.reset(ggml_backend_dev_init(find_gpu(), nullptr));
        if (!gpu_) {
            fail("cannot start the GPU: ", take_ggml_errors());
        }
        kv_ = make_kv_backend(find_gpu(), stream_of(gpu_.get()));
    } else if (device::stands_in()) {
        kv_ = make_kv_backend(ggml_backend_get_device(cpu_.get()), nullptr);
    }
    reserve_nodes(n_nodes);
}

void backend::reserve_nodes(size_t n) {
    if (n <= n_nodes_) {
        return;
    }
    std::vector<ggml_backend_t> all;
    for (const ggml_backend_ptr * one : {&gpu_, &kv_, &cpu_}) {
        if (*one) {
            all.push_back(one->get());
        }
    }
    constexpr size_t copies_each_node = 64;  // tensors the scheduler has room for
    require_memory(copies_each_node * n * sizeof(ggml_tensor) + (1 << 20));
    ggml_backend_sched_ptr sched(ggml_backend_sched_new(all.data(), nullptr, static_cast<int>(all.size()), n,
                                                        /*parallel=*/false, /*op_offload=*/true));
    if (!sched) {
        fail("cannot start ggml's scheduler");
    }
    sched_ = std::move(sched);
    n_nodes_ = n;
}

backend::~backend() {
    if (cpu_) {
        thread_team::forget(cpu_.get());
    }
}

void backend::allocate(ggml_cgraph * graph) {
    ggml_backend_sched_reset(sched_.get());
    take_ggml_errors();
    if (!ggml_backend_sched_alloc_graph(sched_.get(), graph)) {
        fail("not enough memory to compute: ", take_ggml_errors(), "; a smaller chunk_size needs less");
    }
}

void backend::compute(ggml_cgraph * graph) {
    const thread_team threads(cpu_.get(), n_threads_);
    take_ggml_errors();
    if (ggml_backend_sched_graph_compute(sched_.get(), graph) != GGML_STATUS_SUCCESS) {
        fail("the computation failed: ", take_ggml_errors());
    }
}

ggml_backend_buffer_type_t backend::buffer_type(bool on_gpu) const {
    return ggml_backend_get_default_buffer_type(on_gpu ? gpu_.get() : cpu_.get());
}

bool backend::caches_on_device(bool on_gpu) const {
    return kv_ && (on_gpu || !gpu_);
}

size_t backend::workspace_bytes() const {
    size_t total = ggml_backend_sched_get_buffer_size(sched_.get(), cpu_.get());
    if (gpu_) {
        total += ggml_backend_sched_get_buffer_size(sched_.get(), gpu_.get());
    }
    return total;
}

}  // namespace livekv
