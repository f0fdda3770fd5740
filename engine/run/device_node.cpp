#include "run/device_node.h"

#include <cstring>

namespace livekv {

void device_node_marker(ggml_tensor *, int, int, void *) {
    GGML_ABORT("a node of the GPU was given to the CPU");  // on a thread of ggml's: nothing may be thrown
}

ggml_tensor * make_device_node(ggml_context * ctx, int64_t ne0, int64_t ne1, ggml_tensor ** args, int n_args,
                               device_node & node) {
    return ggml_custom_4d(ctx, GGML_TYPE_F32, ne0, ne1, 1, 1, args, n_args, device_node_marker, 1, &node);
}

const device_node * find_device_node(const ggml_tensor * tensor) {
    if (tensor->op != GGML_OP_CUSTOM) {
        return nullptr;
    }
    // As ggml lays out a custom node's parameters.
    struct {
        ggml_custom_op_t fun;
        int n_tasks;
        void * userdata;
    } parameters;
    static_assert(sizeof(parameters) <= sizeof(tensor->op_params));
    std::memcpy(&parameters, tensor->op_params, sizeof(parameters));
    return parameters.fun == device_node_marker ? static_cast<const device_node *>(parameters.userdata) : nullptr;
}

}  // namespace livekv
