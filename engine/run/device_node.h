#pragma once

#include <ggml.h>

#include "kernels/cuda/kernels.h"

namespace livekv {

// A custom node of a graph whose work is put into the GPU's stream. ggml's CUDA backend has no custom nodes: the
// scheduler hands these to a backend of ours (graph/kv_backend.h), which calls run.
struct device_node {
    void (*run)(const device_node & node, ggml_tensor * dst, device::stream s) = nullptr;
    void * runner = nullptr;
    int64_t il = 0;
};

// The node's function as ggml sees it: says which nodes are ours, and is never called.
void device_node_marker(ggml_tensor * dst, int ith, int nth, void * node);

// f32 [ne0, ne1] computed from args by node, which outlives the graph.
ggml_tensor * make_device_node(ggml_context * ctx, int64_t ne0, int64_t ne1, ggml_tensor ** args, int n_args,
                               device_node & node);

// The node behind a tensor, or null when it is none of ours.
const device_node * find_device_node(const ggml_tensor * tensor);

}  // namespace livekv
