#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "arrays.h"
#include "bind.h"
#include "kv/guided_layer.h"
#include "livekv.h"
#include "values.h"

namespace livekv {

namespace {

template <typename E>
E one_of(const py::dict & fields, const char * name, const std::vector<std::string> & names) {
    const auto found = std::ranges::find_if(
        names, [&](const std::string & one) { return py::object(fields[name]).equal(py::str(one)); });
    if (found == names.end()) {
        fail(name, ": there is no ", shown(fields[name]));
    }
    return static_cast<E>(found - names.begin());
}

std::array<int32_t, 3> three_widths(const py::object & given) {
    try {
        return py::cast<std::array<int32_t, 3>>(given);
    } catch (const py::cast_error &) {
        fail("level_bits: ", shown(given), " is not three whole numbers");
    }
}

guided_method method_from(const py::dict & fields) {
    using m = guided_method;
    m method;
    const auto real = [&](const char * name) {
        const std::optional<double> number = real_from(fields[name]);
        if (!number) {
            fail(name, ": ", shown(fields[name]), " is not a number");
        }
        return *number;
    };
    const auto whole = [&](const char * name) {
        const std::optional<int64_t> number = whole_from(fields[name]);
        if (!number || *number < 0) {
            fail(name, ": ", shown(fields[name]), " is not a whole number, 0 or more");
        }
        return *number;
    };
    method.alpha = real("alpha");
    method.beta = real("beta");
    method.gamma = real("gamma");
    method.theta_h = real("theta_h");
    method.theta_m = real("theta_m");
    method.bits = three_widths(fields["level_bits"]);
    method.shares = {real("early_ratio"), real("middle_ratio"), real("later_ratio")};
    method.normalized = one_of<m::norm>(fields, "guide_norm", {"minmax", "zscore"});
    method.guide = one_of<m::guide_at>(fields, "guide", {"first", "last"});
    method.guide_tokens = whole("guide_tokens");
    method.propagates = one_of<m::propagation>(fields, "propagate", {"off", "cache", "layers"});
    method.budget = one_of<m::budget_of>(fields, "budget", {"tokens", "bits"});
    if (!py::isinstance<py::bool_>(fields["protect"])) {
        fail("protect: ", shown(fields["protect"]), " is not True or False");
    }
    method.protects = py::cast<bool>(fields["protect"]);
    method.sink_tokens = whole("sink_tokens");
    method.keep_last = whole("keep_last");
    method.keys = one_of<m::key_axis>(fields, "key_axis", {"channel", "token"});
    method.min_class = whole("min_class");
    if (const auto fault = method.first_fault()) {
        fail(fault->option, ": ", fault->why);
    }
    return method;
}

py::dict of_side(const guided_side & side, const char * letter, const std::vector<py::ssize_t> & shape) {
    py::dict d;
    const std::string name = std::string(letter) + "_";
    const auto set = [&](const std::string & field, const py::object & value) { d[py::str(name + field)] = value; };
    set("codes", array_of(side.codes, shape));
    set("reconstruction", array_of(side.reconstruction, shape));
    if (!side.low.empty()) {
        set("low", array_of(side.low, {shape[0], shape[1]}));
        set("scale", array_of(side.scale, {shape[0], shape[1]}));
        return d;
    }
    py::dict lows;
    py::dict scales;
    for (const auto & [bits, low] : side.level_low) {
        lows[py::int_(bits)] = array_of(low, {shape[0], shape[2]});
        scales[py::int_(bits)] = array_of(side.level_scale.at(bits), {shape[0], shape[2]});
    }
    set("low", lows);
    set("scale", scales);
    return d;
}

class guided_binding {
  public:
    guided_binding(const py::dict & fields, int64_t layer, int64_t n_layer, int64_t n_prompt)
        : method_(method_from(fields)), place_(place_from(method_, layer, n_layer, n_prompt)) {}

    py::list add(const py::object & q_object, const py::object & k_object, const py::object & v_object,
                 const std::vector<int64_t> & positions, int64_t n_chunk) {
        const py::array_t<float> q = chunk_from(q_object);
        const py::array_t<float> k = chunk_from(k_object);
        const py::array_t<float> v = chunk_from(v_object);
        check(q, k, v, positions);
        if (n_chunk < k.shape(1)) {
            fail("a chunk of ", n_chunk, " tokens does not let ", k.shape(1), " through");
        }
        const auto all = [](const py::array_t<float> & x) {
            return std::span(x.data(), static_cast<size_t>(x.size()));
        };
        if (!layer_) {
            layer_.emplace(method_, place_, guided_layer::shape{q.shape(0), k.shape(0), k.shape(2)});
            shape_ = {q.shape(0), k.shape(0), k.shape(2)};
        }
        py::list chunks;
        for (const guided_chunk & chunk : layer_->add({all(q), all(k), all(v), positions}, n_chunk)) {
            chunks.append(as_dict(chunk));
        }
        next_ = positions.back() + 1;
        return chunks;
    }

  private:
    static guided_place place_from(const guided_method & method, int64_t layer, int64_t n_layer, int64_t n_prompt) {
        if (layer < 0 || layer >= n_layer || n_prompt < 1) {
            fail("there is no layer ", layer, " of ", n_layer, ", or the prompt's length, ", n_prompt, ", is none");
        }
        return guided_place_of(method, layer, n_layer, n_prompt);
    }

    void check(const py::array_t<float> & q, const py::array_t<float> & k, const py::array_t<float> & v,
               const std::vector<int64_t> & positions) const {
        const bool alike = q.shape(1) == k.shape(1) && q.shape(2) == k.shape(2) && v.shape(0) == k.shape(0) &&
                           v.shape(1) == k.shape(1) && v.shape(2) == k.shape(2) && q.shape(0) % k.shape(0) == 0;
        const std::array now = {q.shape(0), k.shape(0), k.shape(2)};
        if (!alike || (layer_ && now != shape_)) {
            fail("q, k and v are not of as many tokens, of heads that share one number of channels, as before");
        }
        if (static_cast<py::ssize_t>(positions.size()) != k.shape(1)) {
            fail("there are ", positions.size(), " positions of ", k.shape(1), " tokens");
        }
        int64_t next = next_;
        for (const int64_t position : positions) {
            if (position < next || position >= place_.n_prompt) {
                fail("positions do not rise, or are beyond the prompt's ", place_.n_prompt, " tokens");
            }
            next = position + 1;
        }
    }

    py::dict as_dict(const guided_chunk & c) const {
        const py::ssize_t n = static_cast<py::ssize_t>(c.positions.size());
        const std::vector<py::ssize_t> shape = {shape_[1], n, shape_[2]};
        py::dict d;
        d["positions"] = array_of(c.positions, {n});
        d["attention"] = array_of(c.attention, {n});
        d["attention_low"] = c.range.low;
        d["attention_high"] = c.range.high;
        d["attention_hat"] = array_of(c.scores.attention_hat, {n});
        d["layer_weight"] = place_.layer_weight();
        d["position_bias"] = array_of(c.scores.position_bias, {n});
        d["relevance"] = c.scores.relevance;
        d["score"] = array_of(c.scores.score, {n});
        d["label"] = array_of(c.scores.label, {n});
        d["protected"] = array_of(c.scores.is_protected, {n}).attr("astype")("bool");
        d["kept"] = array_of(c.kept, {static_cast<py::ssize_t>(c.kept.size())});
        d["bits_assigned"] = array_of(c.bits_assigned, {n});
        d["bits"] = array_of(c.bits, {n});
        d.attr("update")(of_side(c.k, "k", shape));
        d.attr("update")(of_side(c.v, "v", shape));
        return d;
    }

    guided_method method_;
    guided_place place_;
    std::optional<guided_layer> layer_;
    std::array<py::ssize_t, 3> shape_ = {};  // query heads, kv heads, channels
    int64_t next_ = 0;                       // the least position there may be
};

}  // namespace

void bind_guided(py::module_ & module) {
    py::class_<guided_binding>(module, "GuidedLayer")
        .def(py::init<const py::dict &, int64_t, int64_t, int64_t>(), py::arg("method"), py::arg("layer"),
             py::arg("n_layer"), py::arg("n_prompt"))
        .def("add", &guided_binding::add, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("positions"),
             py::arg("n_chunk"));
}

}  // namespace livekv
