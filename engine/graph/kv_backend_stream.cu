// The only place that knows ggml's CUDA backend from inside: our kernels go into its stream, which it does not give
// out.
#include <ggml-backend-impl.h>

#include "common.cuh"
#include "graph/kv_backend.h"

namespace livekv {

device::stream stream_of(ggml_backend_t cuda) {
    return static_cast<ggml_backend_cuda_context *>(cuda->context)->stream();
}

}  // namespace livekv
