#include "arrays.h"

#include <limits>

#include "error.h"

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
    } else if (py::isinstance<py::str>(tokens) || py::isinstance<py::bytes>(tokens) || !PySequence_Check(tokens.ptr())) {
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

}  // namespace livekv
