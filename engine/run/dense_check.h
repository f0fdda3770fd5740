#pragma once

#include <ggml.h>

#include <deque>
#include <memory>

#include "run/bad_rows.h"
#include "run/device_node.h"

namespace livekv {

// Nodes that look at what ggml's types and ggml's attention are given: both make numbers of what is none.
class dense_check {
  public:
    dense_check() = default;
    dense_check(dense_check &&) = delete;  // nodes refer to it

    // What a node looks at: rows first_row and on of a pass in layer il, as they go into the cache or to attention.
    struct subject {
        int64_t il;
        int64_t first_row;
        ggml_tensor * k;  // f32 [head_dim, n_head_kv, n], rows of heads that lie one behind the other; so are v and q
        ggml_tensor * v;
        ggml_tensor * q;      // f32 [head_dim, n_head, n], or null
        float largest;        // key or value that the cache stores
        float largest_query;  // that attention over it takes
        bool on_device;
    };

    // Another graph is built; the nodes of the one before are gone.
    void clear_nodes() { nodes_.clear(); }
    // Adds a node that is computed before what is added later.
    void add(ggml_context * ctx, ggml_cgraph * graph, const subject & what);

    // A pass begins.
    void begin();
    // It was computed: where something was wrong first.
    std::optional<bad_rows::place> first();

  private:
    struct node {
        dense_check * check;
        int64_t il;
        int64_t first_row;
        float largest[3];  // of k, v, q
        device_node device;
    };
    static void look(ggml_tensor * dst, int ith, int nth, void * node);
    static void look_on_device(const device_node & device, ggml_tensor * dst, device::stream s);

    struct release_on_host {
        void operator()(uint32_t * p) const { device::release_on_host(p); }
    };

    std::deque<node> nodes_;
    bad_rows bad_;
    std::unique_ptr<uint32_t, release_on_host>
        on_device_;  // layer << row_bits | row on the host, written by the device
};

}  // namespace livekv
