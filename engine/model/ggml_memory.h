#pragma once

#include <ggml-cpp.h>
#include <ggml-loan.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace livekv {

// Memory for what ggml keeps for itself, lent for the length of its calls on this thread. It is taken from where the
// system refuses some: what those calls made then lies in it, and must be given up before this ends. Throws
// livekv::error.
class ggml_loan {
  public:
    // addresses_suffice: buffers that are made meanwhile are not written before this ends, and may be anywhere.
    // n_buffers: as many can be described, up to LIVEKV_GGML_SPARES.
    explicit ggml_loan(size_t bytes, bool addresses_suffice = false, size_t n_buffers = 0);
    ~ggml_loan();
    ggml_loan(ggml_loan &&) = delete;

    // The system refused memory meanwhile.
    bool taken() const { return loan_.used > 0; }

  private:
    void free_spares();

    std::unique_ptr<uint8_t, void (*)(void *)> bytes_;  // touched where they are needed alone
    livekv_ggml_loan loan_{};
    livekv_ggml_loan * before_;
};

// A context for so many bytes of tensors and graphs, without their data. Throws livekv::error on too little memory.
ggml_context_ptr make_ggml_context(size_t bytes);

// Memory of a type for all tensors of a context; null when there is too little.
ggml_backend_buffer_ptr allocate_tensors(ggml_context * ctx, ggml_backend_buffer_type_t type);

}  // namespace livekv
