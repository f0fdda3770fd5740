#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "bind.h"
#include "option_values.h"
#include "options_from.h"
#include "policy/kv_option_fields.h"
#include "policy/kv_option_table.h"

namespace livekv {

namespace {

constexpr int64_t max_threads = 512;  // the command line's bound

// Every cache option, one dict each: its flag, its field and the field's default, and range and help as the command
// line has them.
py::list kv_option_rows() {
    kv_options shipped;
    option_table table;
    declare_kv_options(table, shipped, /*dashes=*/"--", /*with_policy=*/true);
    const py::dict defaults = values_of(shipped);
    py::list rows;
    const auto add = [&](const char * field) {
        const std::string flag = "--" + kv_option_name(field);
        const auto o = std::ranges::find(table.all(), flag, &option::name);
        rows.append(py::dict(py::arg("flag") = flag, py::arg("field") = field, py::arg("default") = defaults[field],
                             py::arg("range") = o->range, py::arg("help") = o->help));
    };
    add("policy");
    for_each_kv_option([&](const char * field, auto, const auto &, const char *) { add(field); });
    return rows;
}

}  // namespace

session_params session_params_from(int64_t n_ctx, int64_t n_threads, const kv_options & kv) {
    if (n_ctx < 1 || n_ctx > INT32_MAX) {
        fail("n_ctx is ", n_ctx, "; it must be in 1..", INT32_MAX);
    }
    if (n_threads < 1 || n_threads > max_threads) {
        fail("n_threads is ", n_threads, "; it must be in 1..", max_threads);
    }
    session_params p;
    p.n_ctx = n_ctx;
    p.n_threads = static_cast<int32_t>(n_threads);
    p.kv = kv;
    return p;
}

void bind_options(py::module_ & module) {
    py::class_<kv_options>(module, "CacheOptions")
        .def(py::init(&kv_options_from), py::arg("values"), py::arg("preset") = py::none())
        .def_static("parse", &parse_kv_spec, py::arg("spec"))
        .def("values", &values_of)
        .def("compresses", [](const kv_options & kv) { return find_kv_policy(kv.policy).compresses; })
        .def("can_be_stored", &shares_pieces)
        .def("chunk_tokens", &kv_options::chunk_tokens);
    module.attr("max_threads") = max_threads;
    module.def("kv_option_rows", &kv_option_rows);
}

}  // namespace livekv
