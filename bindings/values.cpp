#include "values.h"

namespace livekv {

std::optional<int64_t> whole_from(py::handle value) {
    if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) {
        return std::nullopt;
    }
    const auto whole = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!whole) {  // an array of several, which is an index by its type alone
        PyErr_Clear();
        return std::nullopt;
    }
    int beyond = 0;
    const long long number = PyLong_AsLongLongAndOverflow(whole.ptr(), &beyond);
    return beyond != 0 ? std::nullopt : std::optional<int64_t>(number);
}

std::optional<double> real_from(py::handle value) {
    if (PyBool_Check(value.ptr())) {
        return std::nullopt;
    }
    const double number = PyFloat_AsDouble(value.ptr());  // takes what has __float__ or __index__
    if (number == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        return std::nullopt;
    }
    return number;
}

std::string shown(py::handle value) {
    constexpr size_t longest = 80;
    const std::string text = py::repr(value);
    if (text.size() > longest || text.find('\n') != std::string::npos) {
        return "a value of type " + py::type::of(value).attr("__name__").cast<std::string>();
    }
    return text;
}

}  // namespace livekv
