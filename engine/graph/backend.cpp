#include "graph/backend.h"

#include <ggml-cpu.h>

#include <string>
#include <vector>

#include "error.h"
#include "graph/kv_backend.h"
#include "graph/thread_team.h"
#include "model/ggml_log.h"
#include "model/ggml_memory.h"
#include "model/weights.h"

namespace livekv {

namespace {

constexpr size_t bytes_of_a_call = 64 << 10;  // ggml sets up its tables anew with each

std::string because(const std::string & reason) {
    return reason.empty() ? "" : ": " + reason;
}

}  // namespace

backend::backend(int32_t n_threads, bool with_gpu, size_t n_nodes) : n_threads_(n_threads) {
    set_up_ggml();
    const ggml_loan loan(bytes_of_a_call);
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
    const ggml_loan loan(copies_each_node * n * sizeof(ggml_tensor) + (1 << 20));
    ggml_backend_sched_ptr sched(ggml_backend_sched_new(all.data(), nullptr, static_cast<int>(all.size()), n,
                                                        /*parallel=*/false, /*op_offload=*/true));
    if (!sched || loan.taken()) {
        fail("not enough memory for ggml's scheduler");
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
    constexpr size_t bytes_each_node = 4096;  // tables of nodes and of what they read, and splits
    // Without memory for its buffer, ggml would go on with none.
    const ggml_loan loan(bytes_each_node * n_nodes_ + (1 << 20), /*addresses_suffice=*/true, LIVEKV_GGML_SPARES);
    ggml_backend_sched_reset(sched_.get());
    take_ggml_errors();
    if (!ggml_backend_sched_alloc_graph(sched_.get(), graph) || loan.taken()) {
        sched_.reset();  // it may lie in what was lent
        n_nodes_ = 0;
        fail("not enough memory to compute", because(take_ggml_errors()), "; a smaller chunk_size needs less");
    }
}

void backend::compute(ggml_cgraph * graph) {
    const thread_team threads(cpu_.get(), n_threads_);
    const ggml_loan loan(bytes_of_a_call);  // what a computation takes it gives back
    take_ggml_errors();
    const ggml_status status = ggml_backend_sched_graph_compute(sched_.get(), graph);
    if (status == GGML_STATUS_ALLOC_FAILED) {
        fail("not enough memory to compute", because(take_ggml_errors()), "; a smaller chunk_size needs less");
    }
    if (status != GGML_STATUS_SUCCESS) {
        fail("the computation failed", because(take_ggml_errors()));
    }
}

ggml_backend_buffer_type_t backend::buffer_type(bool on_gpu) const {
    return ggml_backend_get_default_buffer_type(on_gpu ? gpu_.get() : cpu_.get());
}

bool backend::caches_on_device(bool on_gpu) const {
    return kv_ && (on_gpu || !gpu_);
}

size_t backend::workspace_bytes() const {
    if (!sched_) {
        return 0;
    }
    size_t total = ggml_backend_sched_get_buffer_size(sched_.get(), cpu_.get());
    if (gpu_) {
        total += ggml_backend_sched_get_buffer_size(sched_.get(), gpu_.get());
    }
    return total;
}

}  // namespace livekv
