#pragma once

#include "kernels/products.h"
#include "kernels/weights/of_32.h"
#include "kernels/weights/q4_k.h"
#include "kernels/weights/q6_k.h"

namespace livekv {
namespace {

// work(W()) for the type's description W.
template <typename F>
auto with_weights(weight_type type, F work) {
    switch (type) {
        case weight_type::q4_0:
            return work(q4_0_weights());
        case weight_type::q4_1:
            return work(q4_1_weights());
        case weight_type::q5_0:
            return work(q5_0_weights());
        case weight_type::q5_1:
            return work(q5_1_weights());
        case weight_type::q8_0:
            return work(q8_0_weights());
        case weight_type::q4_k:
            return work(q4_k_weights());
        case weight_type::q5_k:
            return work(q5_k_weights());
        case weight_type::q6_k:
            break;
    }
    return work(q6_k_weights());
}

}  // namespace
}  // namespace livekv
