#pragma once

#include <ggml.h>

#include "kernels/products.h"

namespace livekv {

// Types of weights that there are products for, as ggml names them.
struct type_pair {
    weight_type ours;
    ggml_type theirs;
};
constexpr type_pair type_pairs[] = {
    {weight_type::q4_0, GGML_TYPE_Q4_0}, {weight_type::q4_1, GGML_TYPE_Q4_1}, {weight_type::q5_0, GGML_TYPE_Q5_0},
    {weight_type::q5_1, GGML_TYPE_Q5_1}, {weight_type::q8_0, GGML_TYPE_Q8_0}, {weight_type::q4_k, GGML_TYPE_Q4_K},
    {weight_type::q5_k, GGML_TYPE_Q5_K}, {weight_type::q6_k, GGML_TYPE_Q6_K},
};

}  // namespace livekv
