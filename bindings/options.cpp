#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind.h"
#include "policy/kv_option_table.h"
#include "policy/kv_policies.h"
#include "options_from.h"

namespace livekv {

namespace {

constexpr int64_t max_threads = 512;  // the command line's bound

}  // namespace

kv_options kv_options_from(const std::vector<std::string> & arguments) {
    kv_options options;
    option_table table;
    declare_kv_options(table, options, /*policy_is_list=*/false);
    std::vector<const char *> argv = {""};
    for (const std::string & argument : arguments) {
        argv.push_back(argument.c_str());
    }
    table.parse(static_cast<int>(argv.size()), argv.data());
    options.check();
    return options;
}

session_params session_params_from(int64_t n_ctx, int64_t n_threads, const std::vector<std::string> & kv) {
    if (n_ctx < 1 || n_ctx > INT32_MAX) {
        fail("n_ctx is ", n_ctx, "; it must be in 1..", INT32_MAX);
    }
    if (n_threads < 1 || n_threads > max_threads) {
        fail("n_threads is ", n_threads, "; it must be in 1..", max_threads);
    }
    session_params p;
    p.n_ctx = n_ctx;
    p.n_threads = static_cast<int32_t>(n_threads);
    p.kv = kv_options_from(kv);
    return p;
}

py::list kv_option_rows(kv_options options) {
    option_table table;
    declare_kv_options(table, options, /*policy_is_list=*/false);
    py::list rows;
    for (const option & o : table.all()) {
        rows.append(py::dict(py::arg("flag") = o.name, py::arg("value") = o.value, py::arg("default") = o.initial,
                             py::arg("range") = o.range, py::arg("help") = o.help, py::arg("is_preset") = o.first));
    }
    return rows;
}

void bind_options(py::module_ & module) {
    module.def(
        "kv_option_rows",
        [](const std::vector<std::string> & arguments) { return kv_option_rows(kv_options_from(arguments)); },
        py::arg("arguments") = std::vector<std::string>());
    module.def("kv_policy_names", &kv_policy_names);
    module.def("kv_preset_names", &kv_preset_names);
}

}  // namespace livekv
