#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>

#include "arrays.h"
#include "bind.h"
#include "kv/finch_layer.h"
#include "livekv.h"

namespace livekv {

namespace {

// A layer whose heads are known from its first chunk.
class finch_binding {
  public:
    finch_binding(int64_t n_context, int64_t n_question, int64_t target_tokens, bool normalize, double rope_base,
                  const std::string & rope_order)
        : method_{target_tokens, normalize}, n_context_(n_context), n_question_(n_question) {
        if (n_context < 1 || n_question < 1) {
            fail("a context of ", n_context, " tokens and a question of ", n_question, ": each has one at least");
        }
        if (target_tokens <= n_question) {
            fail("target_tokens: ", target_tokens, " leave no room beside a question of ", n_question, " tokens");
        }
        if (!(rope_base > 1.0)) {
            fail("rope_base: ", rope_base, " is not above 1");
        }
        if (rope_order != "normal" && rope_order != "neox") {
            fail("rope_order: there is no '", rope_order, "'");
        }
        rope_.base = static_cast<float>(rope_base);
        rope_.order = rope_order == "neox" ? rope_order::neox : rope_order::normal;
    }

    py::dict add(const py::object & q_object, const py::object & k_question_object, const py::object & k_object,
                 const py::object & v_object) {
        const py::array_t<float> q = chunk_from(q_object);
        const py::array_t<float> k_question = chunk_from(k_question_object);
        const py::array_t<float> k = chunk_from(k_object);
        const py::array_t<float> v = chunk_from(v_object);
        check(q, k_question, k, v);
        const auto all = [](const py::array_t<float> & x) {
            return std::span(x.data(), static_cast<size_t>(x.size()));
        };
        if (!layer_) {
            shape_ = {q.shape(0), k.shape(0), k.shape(2)};
            rope_.n_rot = k.shape(2);
            layer_.emplace(method_, finch_layer::shape{q.shape(0), k.shape(0), k.shape(2)}, rope_, n_context_,
                           n_question_);
        }
        const finch_choice made = layer_->add({all(q), all(k_question), all(k), all(v)});
        n_read_ += k.shape(1);
        const auto as_array = [](const auto & x) { return array_of(x, {static_cast<py::ssize_t>(x.size())}); };
        return py::dict(py::arg("columns") = as_array(made.columns), py::arg("score") = as_array(made.score),
                        py::arg("kept_columns") = as_array(made.kept_columns),
                        py::arg("kept_tokens") = as_array(made.kept_tokens));
    }

    py::array_t<float> keys() const { return kept(layer_ ? layer_->keys() : std::vector<float>()); }
    py::array_t<float> values() const { return kept(layer_ ? layer_->values() : std::vector<float>()); }
    int64_t factor() const { return method_.factor(n_context_, n_question_); }

  private:
    void check(const py::array_t<float> & q, const py::array_t<float> & k_question, const py::array_t<float> & k,
               const py::array_t<float> & v) const {
        const auto same = [](const py::array_t<float> & a, const py::array_t<float> & b, int axis) {
            return a.shape(axis) == b.shape(axis);
        };
        const bool alike = same(q, k, 2) && same(k_question, k, 2) && same(k_question, k, 0) && same(v, k, 0) &&
                           same(v, k, 1) && same(v, k, 2) && q.shape(0) % k.shape(0) == 0 && k.shape(2) % 2 == 0;
        const std::array now = {q.shape(0), k.shape(0), k.shape(2)};
        if (!alike || (layer_ && now != shape_)) {
            fail("q, k and v are not of heads that share one even number of channels, as before");
        }
        if (q.shape(1) != n_question_ || k_question.shape(1) != n_question_) {
            fail("q and k_question are of ", q.shape(1), " and ", k_question.shape(1), " tokens, the question has ",
                 n_question_);
        }
        if (n_read_ + k.shape(1) > n_context_) {
            fail("the context has ", n_context_, " tokens, ", n_read_ + k.shape(1), " are too many");
        }
    }

    py::array_t<float> kept(const std::vector<float> & rows) const {
        return array_of(rows, {shape_[1], layer_ ? layer_->n_kept() : 0, shape_[2]});
    }

    finch_method method_;
    int64_t n_context_;
    int64_t n_question_;
    rope_params rope_;
    std::optional<finch_layer> layer_;
    std::array<py::ssize_t, 3> shape_ = {};  // query heads, kv heads, channels
    int64_t n_read_ = 0;
};

}  // namespace

void bind_finch(py::module_ & module) {
    py::class_<finch_binding>(module, "FinchLayer")
        .def(py::init<int64_t, int64_t, int64_t, bool, double, const std::string &>(), py::arg("n_context"),
             py::arg("n_question"), py::kw_only(), py::arg("target_tokens"), py::arg("normalize"), py::arg("rope_base"),
             py::arg("rope_order"))
        .def("add", &finch_binding::add, py::arg("q"), py::arg("k_question"), py::arg("k"), py::arg("v"))
        .def("keys", &finch_binding::keys)
        .def("values", &finch_binding::values)
        .def("factor", &finch_binding::factor);
}

}  // namespace livekv
