#pragma once

#include <ggml-cpp.h>

#include "kernels/cuda/kernels.h"

namespace livekv {

// A ggml backend beside ggml's own on the same GPU that computes the nodes of run/device_node.h and nothing else. It
// has no memory of its own: its tensors lie in the other's buffers, and its work goes into the other's stream, so that
// neither waits for the other.
//
// device: where the buffers are. s: the stream all work on the device goes into.
ggml_backend_ptr make_kv_backend(ggml_backend_dev_t device, device::stream s);

// The stream of ggml's CUDA backend.
device::stream stream_of(ggml_backend_t cuda);

}  // namespace livekv
