#include "arrays.h"

#include <cmath>
#include <limits>

#include "livekv.h"

namespace livekv {

namespace {

int32_t token_from(const py::handle & item, size_t i) {
    PyObject * const number = PyNumber_Index(item.ptr());  // whole numbers only: 1.0 is none
    if (!number) {
        PyErr_Clear();
        fail("token ", i, " is ", std::string(py::repr(item)), ", not a whole number");
    }
    const py::object owned = py::reinterpret_steal<py::object>(number);
    int overflow = 0;
    const long long id = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow != 0 || id < 0 || id > std::numeric_limits<int32_t>::max()) {
        fail("token ", i, " is ", std::string(py::repr(item)), ", which is no token id");
    }
    return static_cast<int32_t>(id);
}

void require_integer_row(const py::array & array) {
    const char kind = array.dtype().kind();
    if (kind != 'i' && kind != 'u') {
        fail("tokens must be whole numbers, not an array of ", std::string(py::str(array.dtype())));
    }
    if (array.ndim() != 1) {
        fail("tokens must be one-dimensional, not an array of ", array.ndim(), " dimensions");
    }
}

}  // namespace

std::vector<int32_t> tokens_from(const py::object & tokens) {
    if (py::isinstance<py::array>(tokens)) {
        require_integer_row(py::reinterpret_borrow<py::array>(tokens));
    } else if (py::isinstance<py::str>(tokens) || py::isinstance<py::bytes>(tokens) ||
               !PySequence_Check(tokens.ptr())) {
        fail("tokens must be a list of whole numbers or a numpy array of them, not ",
             std::string(py::str(py::type::of(tokens).attr("__name__"))));
    }
    std::vector<int32_t> ids;
    const size_t n = py::len(tokens);
    ids.reserve(n);
    for (const py::handle item : tokens) {
        ids.push_back(token_from(item, ids.size()));
    }
    return ids;
}

py::array_t<float> chunk_from(const py::object & chunk) {
    if (!py::isinstance<py::array>(chunk)) {
        fail("a chunk must be a numpy array, not ", std::string(py::str(py::type::of(chunk).attr("__name__"))));
    }
    const py::array array = py::reinterpret_borrow<py::array>(chunk);
    if (!py::isinstance<py::array_t<float>>(chunk)) {
        fail("a chunk must be float32, not ", std::string(py::str(array.dtype())));
    }
    if (array.ndim() != 3 || array.size() == 0) {
        fail("a chunk must be [n_head_kv, n, head_dim] with none of them 0, not of shape ",
             std::string(py::repr(array.attr("shape"))));
    }
    if (!(array.flags() & py::array::c_style)) {
        fail("a chunk must be contiguous in C order; numpy.ascontiguousarray makes it so");
    }
    const py::array_t<float> values = py::reinterpret_borrow<py::array_t<float>>(array);
    for (py::ssize_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values.data()[i])) {
            const py::ssize_t d = values.shape(2);
            fail("the chunk's value at [", i / d / values.shape(1), ", ", i / d % values.shape(1), ", ", i % d,
                 "] is not a finite number");
        }
    }
    return values;
}

}  // namespace livekv
