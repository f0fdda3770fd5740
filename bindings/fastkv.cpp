#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>

#include "arrays.h"
#include "bind.h"
#include "kv/kv_fastkv.h"
#include "livekv.h"

namespace livekv {

namespace {

double rate_from(const char * name, double rate) {
    if (!(rate > 0.0 && rate <= 1.0)) {
        fail(name, ": ", rate, " is not in (0, 1]");
    }
    return rate;
}

fastkv_method::pooling pooling_from(const std::string & name) {
    if (name != "max" && name != "avg") {
        fail("pooling: there is no '", name, "'");
    }
    return name == "max" ? fastkv_method::pooling::max : fastkv_method::pooling::avg;
}

py::dict choose(const py::object & q_object, const py::object & k_object, double retain_rate, double tsp_rate,
                const std::string & pooling, bool is_later) {
    const fastkv_method method = {rate_from("retain_rate", retain_rate), rate_from("tsp_rate", tsp_rate),
                                  pooling_from(pooling)};
    const py::array_t<float> q = chunk_from(q_object);
    const py::array_t<float> k = chunk_from(k_object);
    const py::ssize_t n = k.shape(1);
    const py::ssize_t n_window = std::min<py::ssize_t>(n, fastkv_window);
    if (q.shape(1) != n_window || q.shape(2) != k.shape(2) || q.shape(0) % k.shape(0) != 0) {
        fail("of ", n, " keys q has the last ", n_window, " tokens, in a multiple of their heads and as many channels");
    }
    const auto all = [](const py::array_t<float> & x) { return std::span(x.data(), static_cast<size_t>(x.size())); };
    const float scale = 1.0f / std::sqrt(static_cast<float>(k.shape(2)));
    const fastkv_choice made =
        fastkv_choose(method, all(q), all(k), q.shape(0), k.shape(0), k.shape(2), scale, is_later);
    std::vector<int32_t> kept;
    for (const std::vector<int32_t> & of_head : made.kept) {
        kept.insert(kept.end(), of_head.begin(), of_head.end());
    }
    py::dict d;
    d["score"] = array_of(made.score, {k.shape(0), n - n_window});
    d["tsp_score"] = array_of(made.tsp_score, {n - n_window});
    d["kept"] = array_of(kept, {k.shape(0), static_cast<py::ssize_t>(made.kept.front().size())});
    d["going_on"] = array_of(made.going_on, {static_cast<py::ssize_t>(made.going_on.size())});
    return d;
}

}  // namespace

void bind_fastkv(py::module_ & module) {
    module.def("fastkv_choose", &choose, py::arg("q"), py::arg("k"), py::kw_only(), py::arg("retain_rate"),
               py::arg("tsp_rate"), py::arg("pooling"), py::arg("is_later"));
}

}  // namespace livekv
