#include "model/packed_weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <thread>

#include "default_threads.h"
#include "error.h"
#include "kernels/cpu/kernels.h"

namespace livekv {

namespace {

constexpr size_t alignment = 64;

size_t aligned_bytes(const packed_matrix & m) {
    return (static_cast<size_t>(m.n_strips()) * m.strip_bytes() + alignment - 1) / alignment * alignment;
}

// work(first, n) over n_items in as many runs as there are threads to be had.
template <typename F>
void share(int64_t n_items, F work) {
    const int64_t n_threads = std::min<int64_t>(default_threads(), n_items);
    std::vector<std::thread> threads;
    int64_t first = 0;
    for (int64_t i = 1; i < n_threads; ++i) {
        const int64_t end = n_items * i / n_threads;
        try {
            threads.emplace_back(work, first, end - first);
            first = end;
        } catch (const std::exception &) {
            break;  // the rest is done here
        }
    }
    work(first, n_items - first);
    for (std::thread & t : threads) {
        t.join();
    }
}

}  // namespace

std::optional<weight_type> packed_weights::type_of(const ggml_tensor * source) {
    static constexpr std::pair<ggml_type, weight_type> types[] = {
        {GGML_TYPE_Q4_0, weight_type::q4_0}, {GGML_TYPE_Q4_1, weight_type::q4_1}, {GGML_TYPE_Q5_0, weight_type::q5_0},
        {GGML_TYPE_Q5_1, weight_type::q5_1}, {GGML_TYPE_Q8_0, weight_type::q8_0}, {GGML_TYPE_Q4_K, weight_type::q4_k},
        {GGML_TYPE_Q5_K, weight_type::q5_k}, {GGML_TYPE_Q6_K, weight_type::q6_k},
    };
    if (&best_cpu_kernels() == &generic_kernels || source->ne[2] != 1) {
        return std::nullopt;
    }
    for (const auto & [theirs, ours] : types) {
        if (theirs == source->type) {
            return ours;
        }
    }
    return std::nullopt;
}

void packed_weights::add(ggml_tensor * tensor, const ggml_tensor * source) {
    matrices_.push_back({*type_of(source), source->ne[0], source->ne[1], nullptr});
    sources_.push_back(source);
    tensor->extra = &matrices_.back();
}

void packed_weights::fill(const gguf_file & file) {
    for (const packed_matrix & m : matrices_) {
        bytes_ += aligned_bytes(m);
    }
    if (bytes_ == 0) {
        return;
    }
    memory_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) {
        memory_ = nullptr;
        fail("not enough memory for the weights: ", bytes_ / (1 << 20), " MiB");
    }
#ifdef MADV_HUGEPAGE
    ::madvise(memory_, bytes_, MADV_HUGEPAGE);  // where the kernel has none, small pages do as well
#endif
    auto * to = static_cast<uint8_t *>(memory_);
    for (size_t i = 0; i < matrices_.size(); ++i) {
        packed_matrix & m = matrices_[i];
        const uint8_t * from = file.tensor_data(sources_[i]);
        share(m.n_strips(), [&m, from, to](int64_t first, int64_t n) {
            pack_strips(m, from, first, n, to + static_cast<size_t>(first) * m.strip_bytes());
        });
        file.release(sources_[i]);
        m.strips = to;
        to += aligned_bytes(m);
    }
}

packed_weights::~packed_weights() {
    if (memory_) {
        ::munmap(memory_, bytes_);
    }
}

const packed_matrix * find_packed(const ggml_tensor * tensor) {
    // Of ggml's own layouts, which use the field too, tensors have a buffer.
    return tensor->buffer ? nullptr : static_cast<const packed_matrix *>(tensor->extra);
}

}  // namespace livekv
