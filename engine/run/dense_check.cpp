#include "run/dense_check.h"

#include "error.h"
#include "finite.h"

namespace livekv {

namespace {

constexpr uint32_t none_bad = UINT32_MAX;
constexpr int32_t row_bits = 20;  // of a place as the device writes it

// Values of a row: heads lie one behind the other.
int64_t row_values(const ggml_tensor * rows) {
    return rows->ne[0] * rows->ne[1];
}

const float * row_of(const ggml_tensor * rows, int64_t i) {
    return reinterpret_cast<const float *>(static_cast<const char *>(rows->data) +
                                           static_cast<size_t>(i) * rows->nb[2]);
}

}  // namespace

void dense_check::add(ggml_context * ctx, ggml_cgraph * graph, const subject & what) {
    nodes_.push_back({this,
                      what.il,
                      what.first_row,
                      {what.largest, what.largest, what.largest_query},
                      {look_on_device, nullptr, 0}});
    node & n = nodes_.back();
    n.device.runner = &n;
    ggml_tensor * rows[] = {what.k, what.v, what.q};
    const int n_sides = what.q ? 3 : 2;
    ggml_tensor * looked = nullptr;
    if (what.on_device) {
        if (!on_device_) {
            on_device_.reset(static_cast<uint32_t *>(device::allocate_on_host(sizeof(uint32_t))));
            *on_device_ = none_bad;
        }
        looked = make_device_node(ctx, 1, 1, rows, n_sides, n.device);
    } else {
        looked = ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, rows, n_sides, look, GGML_N_TASKS_MAX, &n);
    }
    ggml_build_forward_expand(graph, looked);
}

void dense_check::look(ggml_tensor * dst, int ith, int nth, void * data) {
    const node & n = *static_cast<node *>(data);
    for (int side = 0; side < 3 && dst->src[side]; ++side) {
        const ggml_tensor * const rows = dst->src[side];
        for (int64_t i = ith; i < rows->ne[2]; i += nth) {
            const std::span<const float> row(row_of(rows, i), static_cast<size_t>(row_values(rows)));
            if (!all_within(row, n.largest[side])) {
                n.check->bad_.note(n.il, n.first_row + i);
            }
        }
    }
}

void dense_check::look_on_device(const device_node & device, ggml_tensor * dst, device::stream s) {
    const node & n = *static_cast<node *>(device.runner);
    for (int side = 0; side < 3 && dst->src[side]; ++side) {
        const ggml_tensor * const rows = dst->src[side];
        LIVEKV_ASSERT(n.first_row + rows->ne[2] <= 1 << row_bits && n.il < none_bad >> row_bits);
        device_rows args;
        args.from = row_of(rows, 0);
        args.stride = rows->nb[2] / sizeof(float);
        args.n_rows = static_cast<int32_t>(rows->ne[2]);
        args.n_values = static_cast<int32_t>(row_values(rows));
        args.largest = n.largest[side];
        args.bad = n.check->on_device_.get();
        args.first = static_cast<uint32_t>(n.il << row_bits | n.first_row);
        device::check_rows(args, s);
    }
}

void dense_check::begin() {
    bad_.clear();
    if (on_device_) {
        *on_device_ = none_bad;
    }
}

std::optional<bad_rows::place> dense_check::first() {
    if (on_device_ && *on_device_ != none_bad) {
        bad_.note(*on_device_ >> row_bits, *on_device_ & ((1u << row_bits) - 1));
    }
    return bad_.first();
}

}  // namespace livekv
