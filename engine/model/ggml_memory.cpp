#include "model/ggml_memory.h"

#include <cstdlib>
#include <iterator>
#include <new>

#include "error.h"

namespace livekv {

namespace {

constexpr size_t alignment = 64;
constexpr size_t bookkeeping = 64 << 10;  // of a context, and of the buffers of one

}  // namespace

ggml_loan::ggml_loan(size_t bytes, bool addresses_suffice, size_t n_buffers)
    : bytes_(static_cast<uint8_t *>(std::malloc(bytes + alignment)), std::free) {
    if (!bytes_) {
        fail("not enough memory for ggml's bookkeeping, ", bytes / 1024, " KiB");
    }
    const size_t past = reinterpret_cast<size_t>(bytes_.get()) % alignment;
    loan_.bytes = bytes_.get() + (alignment - past) % alignment;
    loan_.size = bytes;
    loan_.addresses_suffice = addresses_suffice;
    LIVEKV_ASSERT(n_buffers <= std::size(loan_.spares));
    for (size_t i = 0; i < n_buffers; ++i) {
        loan_.spares[i] = ::operator new(LIVEKV_GGML_SPARE_BYTES, std::nothrow);
        if (!loan_.spares[i]) {
            free_spares();
            fail("not enough memory for ggml's bookkeeping");
        }
    }
    before_ = livekv_ggml_lend(&loan_);
}

ggml_loan::~ggml_loan() {
    livekv_ggml_lend(before_);
    free_spares();
}

void ggml_loan::free_spares() {
    for (void * spare : loan_.spares) {
        ::operator delete(spare);
    }
}

ggml_context_ptr make_ggml_context(size_t bytes) {
    const ggml_loan loan(bytes + bookkeeping);
    ggml_context_ptr ctx(ggml_init({bytes, nullptr, /*no_alloc=*/true}));
    if (loan.taken()) {
        ctx.reset();
        fail("not enough memory for ggml's tensors, ", bytes / 1024, " KiB");
    }
    return ctx;
}

ggml_backend_buffer_ptr allocate_tensors(ggml_context * ctx, ggml_backend_buffer_type_t type) {
    const ggml_loan loan(bookkeeping, /*addresses_suffice=*/false, /*n_buffers=*/1);
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors_from_buft(ctx, type));
    if (loan.taken()) {
        buffer.reset();
    }
    return buffer;
}

}  // namespace livekv
