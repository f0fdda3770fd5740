#include "graph/kv_backend.h"

#include <ggml-backend-impl.h>

#include "run/device_node.h"

namespace livekv {

namespace {

// The backend's device answers what ggml's scheduler asks: which nodes, which memory.
struct companion {
    ggml_backend_device device{};
    ggml_backend_reg reg{};
    ggml_backend backend{};
    ggml_backend_buffer_type_t memory = nullptr;
    device::stream stream = nullptr;
};

companion & of(ggml_backend_t backend) {
    return *static_cast<companion *>(backend->context);
}
companion & of(ggml_backend_dev_t device) {
    return *static_cast<companion *>(device->context);
}

const char * name_of_device(ggml_backend_dev_t) {
    return "livekv";
}
const char * describe_device(ggml_backend_dev_t) {
    return "attention over compressed keys and values";
}
void no_memory(ggml_backend_dev_t, size_t * free, size_t * total) {
    *free = *total = 0;
}
enum ggml_backend_dev_type accelerator(ggml_backend_dev_t) {
    return GGML_BACKEND_DEVICE_TYPE_ACCEL;
}
void properties(ggml_backend_dev_t device, ggml_backend_dev_props * props) {
    *props = {};
    props->name = name_of_device(device);
    props->description = describe_device(device);
    props->type = accelerator(device);
}
ggml_backend_t no_backend(ggml_backend_dev_t, const char *) {
    return nullptr;
}
ggml_backend_buffer_type_t memory_of(ggml_backend_dev_t device) {
    return of(device).memory;
}
bool supports_node(ggml_backend_dev_t, const ggml_tensor * op) {
    return find_device_node(op) != nullptr;
}
bool supports_memory(ggml_backend_dev_t device, ggml_backend_buffer_type_t type) {
    return type == of(device).memory;
}

const char * name_of_reg(ggml_backend_reg_t) {
    return "livekv";
}
size_t no_devices(ggml_backend_reg_t) {
    return 0;
}
ggml_backend_dev_t no_device(ggml_backend_reg_t, size_t) {
    return nullptr;
}

const char * name_of_backend(ggml_backend_t) {
    return "livekv";
}
void free_backend(ggml_backend_t backend) {
    delete &of(backend);
}
void synchronize(ggml_backend_t backend) {
    device::wait(of(backend).stream);
}
ggml_status compute(ggml_backend_t backend, ggml_cgraph * graph) {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * const tensor = ggml_graph_node(graph, i);
        if (const device_node * node = find_device_node(tensor)) {
            node->run(*node, tensor, of(backend).stream);
        }
    }
    return GGML_STATUS_SUCCESS;
}

ggml_guid_t identity() {
    static ggml_guid guid = {0x4c, 0x69, 0x76, 0x65, 0x4b, 0x56, 0x2d, 0x61,
                             0x74, 0x74, 0x65, 0x6e, 0x64, 0x2d, 0x30, 0x31};
    return &guid;
}

}  // namespace

ggml_backend_ptr make_kv_backend(ggml_backend_dev_t device, device::stream s) {
    auto * c = new companion;
    c->memory = ggml_backend_dev_buffer_type(device);
    c->stream = s;
    c->device.iface.get_name = name_of_device;
    c->device.iface.get_description = describe_device;
    c->device.iface.get_memory = no_memory;
    c->device.iface.get_type = accelerator;
    c->device.iface.get_props = properties;
    c->device.iface.init_backend = no_backend;
    c->device.iface.get_buffer_type = memory_of;
    c->device.iface.supports_op = supports_node;
    c->device.iface.supports_buft = supports_memory;
    c->device.reg = &c->reg;
    c->device.context = c;
    c->reg.api_version = GGML_BACKEND_API_VERSION;
    c->reg.iface.get_name = name_of_reg;
    c->reg.iface.get_device_count = no_devices;
    c->reg.iface.get_device = no_device;
    c->backend.guid = identity();
    c->backend.iface.get_name = name_of_backend;
    c->backend.iface.free = free_backend;
    c->backend.iface.synchronize = synchronize;
    c->backend.iface.graph_compute = compute;
    c->backend.device = &c->device;
    c->backend.context = c;
    return ggml_backend_ptr(&c->backend);
}

#if !defined(LIVEKV_CUDA)
device::stream stream_of(ggml_backend_t) {
    return nullptr;  // what stands in for a GPU does everything at once
}
#endif

}  // namespace livekv
