#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>

#include "arrays.h"
#include "bind.h"
#include "gil.h"
#include "kv/kv_kvquant.h"
#include "livekv.h"
#include "shared_model.h"
#include "store/kv_calibration.h"

namespace livekv {

namespace {

std::span<const float> all_of(const py::array_t<float> & x) {
    return {x.data(), static_cast<size_t>(x.size())};
}

// f32 of this shape, every value finite. what: in messages.
py::array_t<float> numbers_from(const char * what, const py::object & object, const std::vector<py::ssize_t> & shape) {
    const auto x = py::array_t<float, py::array::c_style | py::array::forcecast>::ensure(object);
    bool fits = x && x.ndim() == static_cast<py::ssize_t>(shape.size());
    for (size_t i = 0; fits && i < shape.size(); ++i) {
        fits = x.shape(static_cast<py::ssize_t>(i)) == shape[i];
    }
    if (!fits) {
        std::string wanted;
        for (const py::ssize_t n : shape) {
            wanted += (wanted.empty() ? "[" : ", ") + std::to_string(n);
        }
        fail(what, " must be numbers of shape ", wanted, "]");
    }
    for (py::ssize_t i = 0; i < x.size(); ++i) {
        if (!std::isfinite(x.data()[i])) {
            fail(what, ": number ", i, " is not finite");
        }
    }
    return x;
}

int32_t bits_from(int64_t bits) {
    if (bits < kvquant_min_bits || bits > kvquant_max_bits) {
        fail("bits is ", bits, "; it must be 2, 3 or 4");
    }
    return static_cast<int32_t>(bits);
}

py::tuple ends_of(const std::vector<kvquant_range> & ranges, const std::vector<py::ssize_t> & shape) {
    std::vector<float> lower;
    std::vector<float> upper;
    for (const kvquant_range & range : ranges) {
        lower.push_back(range.lower);
        upper.push_back(range.upper);
    }
    return py::make_tuple(array_of(lower, shape), array_of(upper, shape));
}

py::tuple key_ranges(const py::object & object) {
    const py::array_t<float> k = chunk_from(object);
    std::vector<kvquant_range> ranges;
    {
        const gil_released released;
        const auto head_size = static_cast<size_t>(k.shape(1) * k.shape(2));
        for (size_t h = 0; h < static_cast<size_t>(k.shape(0)); ++h) {
            const auto head = kvquant_channel_ranges(all_of(k).subspan(h * head_size, head_size), k.shape(2));
            ranges.insert(ranges.end(), head.begin(), head.end());
        }
    }
    return ends_of(ranges, {k.shape(0), k.shape(2)});
}

py::tuple value_ranges(const py::object & object) {
    const py::array_t<float> v = chunk_from(object);
    return ends_of(kvquant_token_ranges(all_of(v), v.shape(0), v.shape(2)), {v.shape(1)});
}

py::array_t<float> codebook(const py::object & object, int64_t bits) {
    const int32_t n_bits = bits_from(bits);
    const auto given = py::array_t<float, py::array::c_style | py::array::forcecast>::ensure(object);
    if (!given || given.ndim() != 1 || given.size() == 0) {
        fail("a codebook is made of numbers in one dimension, at least one");
    }
    const py::array_t<float> x = numbers_from("x", given, {given.shape(0)});
    std::vector<float> made;
    {
        const gil_released released;
        made = kvquant_codebook(all_of(x), n_bits);
    }
    return array_of(made, {static_cast<py::ssize_t>(made.size())});
}

// by_channel: lower and upper are [n_head_kv, head_dim], else [n].
py::dict quantize(const py::object & object, const py::object & lower, const py::object & upper,
                  const py::object & book, bool by_channel, int64_t n_exact) {
    const py::array_t<float> x = chunk_from(object);
    const py::ssize_t n = x.shape(1);
    const py::ssize_t d = x.shape(2);
    const std::vector<py::ssize_t> each =
        by_channel ? std::vector<py::ssize_t>{x.shape(0), d} : std::vector<py::ssize_t>{n};
    const py::array_t<float> low = numbers_from("lower", lower, each);
    const py::array_t<float> high = numbers_from("upper", upper, each);
    const auto given = py::array_t<float, py::array::c_style | py::array::forcecast>::ensure(book);
    const py::ssize_t n_levels = given && given.ndim() == 1 ? given.shape(0) : 0;
    if (n_levels != 4 && n_levels != 8 && n_levels != 16) {
        fail("a codebook has 4, 8 or 16 numbers in one dimension");
    }
    const py::array_t<float> levels = numbers_from("codebook", given, {n_levels});
    if (n_exact < 0) {
        fail("n_exact is ", n_exact, "; it must be 0 or more");
    }
    std::vector<kvquant_range> ranges;
    std::vector<float> middle;
    std::vector<float> half;
    for (py::ssize_t i = 0; i < low.size(); ++i) {
        ranges.push_back({low.data()[i], high.data()[i]});
        if (ranges.back().lower > ranges.back().upper) {
            fail("lower is above upper at number ", i);
        }
        middle.push_back(ranges.back().middle());
        half.push_back(ranges.back().half());
    }
    kvquant_tokens all;
    const auto append = [](auto & to, const auto & from) { to.insert(to.end(), from.begin(), from.end()); };
    for (py::ssize_t h = 0; h < x.shape(0); ++h) {
        const std::span<const float> head =
            all_of(x).subspan(static_cast<size_t>(h * n * d), static_cast<size_t>(n * d));
        const auto of_head = std::span(ranges).subspan(static_cast<size_t>(by_channel ? h * d : 0),
                                                       static_cast<size_t>(by_channel ? d : n));
        const kvquant_tokens one = kvquant_quantize(head, d, of_head, by_channel, all_of(levels), n_exact);
        append(all.outlier, one.outlier);
        append(all.codes, one.codes);
        append(all.reconstruction, one.reconstruction);
    }
    const std::vector<py::ssize_t> shape = {x.shape(0), n, d};
    py::dict made;
    made["outlier"] = array_of(all.outlier, shape).attr("astype")("bool");
    made["codes"] = array_of(all.codes, shape);
    made["reconstruction"] = array_of(all.reconstruction, shape);
    made["middle"] = array_of(middle, each);
    made["half_range"] = array_of(half, each);
    return made;
}

std::vector<kvquant_range> ranges_from(const py::array_t<float> & lower, const py::array_t<float> & upper) {
    std::vector<kvquant_range> ranges;
    for (py::ssize_t i = 0; i < lower.size(); ++i) {
        ranges.push_back({lower.data()[i], upper.data()[i]});
    }
    return ranges;
}

std::vector<float> values_of_book(const py::array_t<float> & book) {
    return {book.data(), book.data() + book.size()};
}

// layers: of the model, (lower, upper, codebook of keys, of values) each.
void write_calibration(const std::string & path, const shared_model & shared, int64_t bits, const py::list & layers) {
    const model & m = *shared.get();
    kv_calibration calibration;
    calibration.bits = bits_from(bits);
    calibration.model = m.fingerprint(/*is_long=*/false);
    if (static_cast<int64_t>(layers.size()) != m.hp.n_layer) {
        fail("a calibration of ", layers.size(), " layers is none of a model of ", m.hp.n_layer);
    }
    for (int64_t il = 0; il < m.hp.n_layer; ++il) {
        const py::tuple given = layers[static_cast<size_t>(il)];
        const std::vector<py::ssize_t> each = {m.hp.n_head_kv(il), m.hp.head_dim(il)};
        const std::vector<py::ssize_t> book = {py::ssize_t{1} << calibration.bits};
        const py::array_t<float> lower = numbers_from("lower", given[0], each);
        const py::array_t<float> upper = numbers_from("upper", given[1], each);
        const py::array_t<float> of_keys = numbers_from("k_codebook", given[2], book);
        const py::array_t<float> of_values = numbers_from("v_codebook", given[3], book);
        calibration.layers.push_back({m.hp.n_head_kv(il), m.hp.head_dim(il), ranges_from(lower, upper),
                                      values_of_book(of_keys), values_of_book(of_values)});
    }
    write_kv_calibration(path, calibration);
}

py::dict read_calibration(const std::string & path) {
    const kv_calibration calibration = read_kv_calibration(path);
    py::list layers;
    for (const kv_calibration::layer & layer : calibration.layers) {
        const py::tuple ends = ends_of(layer.keys, {layer.n_head_kv, layer.head_dim});
        const py::ssize_t n_levels = py::ssize_t{1} << calibration.bits;
        layers.append(py::make_tuple(ends[0], ends[1], array_of(layer.k_codebook, {n_levels}),
                                     array_of(layer.v_codebook, {n_levels})));
    }
    py::dict facts;
    for (const auto & [name, value] : calibration.model) {
        facts[py::str(name)] = value;
    }
    return py::dict(py::arg("bits") = calibration.bits, py::arg("model") = facts, py::arg("layers") = layers);
}

}  // namespace

void bind_kvquant(py::module_ & module) {
    module.def("kvquant_key_ranges", &key_ranges, py::arg("k"));
    module.def("kvquant_value_ranges", &value_ranges, py::arg("v"));
    module.def("kvquant_codebook", &codebook, py::arg("x"), py::arg("bits"));
    module.def("kvquant_quantize", &quantize, py::arg("x"), py::kw_only(), py::arg("lower"), py::arg("upper"),
               py::arg("codebook"), py::arg("by_channel"), py::arg("n_exact"));
    module.def("write_kvquant_calibration", &write_calibration, py::arg("path"), py::arg("model"), py::arg("bits"),
               py::arg("layers"));
    module.def("read_kvquant_calibration", &read_calibration, py::arg("path"));
}

}  // namespace livekv
