#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "livekv.h"

// Between numpy and the engine's buffers.
namespace livekv {

namespace py = pybind11;

// Token ids from a list of whole numbers or a one-dimensional numpy array of integers. Throws livekv::error naming what
// is wrong; that an id is in the vocabulary is the engine's to check.
std::vector<int32_t> tokens_from(const py::object & tokens);

// float32 [n_head_kv, n, head_dim], C order, every value finite. Throws livekv::error naming what is wrong.
py::array_t<float> chunk_from(const py::object & chunk);

// A new array with a copy of values, of the given shape, C order.
template <typename T>
py::array_t<T> array_of(std::span<const T> values, const std::vector<py::ssize_t> & shape) {
    py::array_t<T> array(shape);
    LIVEKV_ASSERT(static_cast<size_t>(array.size()) == values.size());
    std::copy(values.begin(), values.end(), array.mutable_data());
    return array;
}

template <typename T>
py::array_t<T> array_of(const std::vector<T> & values, const std::vector<py::ssize_t> & shape) {
    return array_of(std::span<const T>(values), shape);
}

}  // namespace livekv
