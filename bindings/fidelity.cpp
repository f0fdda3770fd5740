#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arrays.h"
#include "bind.h"
#include "calls.h"
#include "livekv.h"
#include "options_from.h"
#include "shared_model.h"

namespace livekv {

namespace {

py::array_t<double> by_window(const std::vector<double> & values, int64_t n_windows) {
    const int64_t n = static_cast<int64_t>(values.size()) / n_windows;
    return array_of(values, {static_cast<py::ssize_t>(n_windows), static_cast<py::ssize_t>(n)});
}

py::dict measure(const std::shared_ptr<const model> & m, const py::object & tokens, const session_params & test,
                 const std::optional<kv_options> & base, int64_t n_windows, const py::object & progress) {
    fidelity_params params;
    params.test = test;
    params.kl_base = base;
    params.max_windows = n_windows;
    fidelity_callbacks callbacks;
    callbacks.on_chunk = check_signals;
    if (!progress.is_none()) {
        callbacks.on_window = [&](int64_t done, int64_t total) {
            const gil_held gil;
            staying([&] { progress(done, total); });
        };
    }
    const std::vector<int32_t> ids = tokens_from(tokens);
    fidelity f;
    {
        const gil_released released;
        f = measure_fidelity(m, ids, params, callbacks);
    }
    py::dict result(py::arg("nll") = by_window(f.nll, f.n_windows));
    const auto add = [&](const char *, const char * name, auto value) { result[name] = value; };
    visit_numbers(f, add);
    if (f.kl) {
        result["kl"] = by_window(f.kl->tokens, f.n_windows);
        result["base_nll"] = by_window(f.kl->base_nll, f.n_windows);
        visit_numbers(*f.kl, add);
    }
    return result;
}

}  // namespace

void bind_fidelity(py::module_ & module) {
    module.def(
        "fidelity",
        [](const shared_model & m, const py::object & tokens, int64_t n_ctx, int64_t n_windows, int64_t n_threads,
           const kv_options & kv, const std::optional<kv_options> & base, const py::object & progress) {
            if (n_windows < 0) {
                fail("windows is ", n_windows, "; it must be 1 or more");
            }
            return measure(m.get(), tokens, session_params_from(n_ctx, n_threads, kv), base, n_windows, progress);
        },
        py::arg("model"), py::arg("tokens"), py::kw_only(), py::arg("n_ctx"), py::arg("windows"), py::arg("n_threads"),
        py::arg("kv"), py::arg("base"), py::arg("progress"));
}

}  // namespace livekv
