#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "arrays.h"
#include "bind.h"
#include "default_threads.h"
#include "gil.h"
#include "graph/cpu_features.h"
#include "kernels/cpu/kernels.h"
#include "livekv.h"
#include "rope/rope_option_fields.h"
#include "shared_model.h"
#include "utf8.h"
#include "values.h"

namespace livekv {

namespace {

void read(const char * field, py::handle value, std::optional<int64_t> & target) {
    if (!(target = whole_from(value))) {
        throw rope_option_error(field, shown(value) + " is not a whole number");
    }
}
void read(const char * field, py::handle value, std::optional<double> & target) {
    if (!(target = real_from(value))) {
        throw rope_option_error(field, shown(value) + " is not a number");
    }
}
void read(const char * field, py::handle value, std::optional<std::string> & target) {
    if (!py::isinstance<py::str>(value)) {
        throw rope_option_error(field, shown(value) + " is not a name");
    }
    target = value.cast<std::string>();
}

// values: by the fields' names; None: the file's.
rope_override rope_from(const py::dict & values) {
    rope_override rope;
    for_each_rope_option([&](const char * field, auto member, const auto &, const char *, const char *) {
        if (values.contains(field) && !values[field].is_none()) {
            read(field, values[field], rope.*member);
        }
    });
    return rope;
}

std::shared_ptr<shared_model> load(const std::string & path, int64_t n_gpu_layers, int64_t prefix_cache_bytes,
                                   std::shared_ptr<chunk_store> store, const py::dict & rope_values, bool repack,
                                   bool dequantize) {
    if (prefix_cache_bytes < 0) {
        fail("prefix_cache_bytes is ", prefix_cache_bytes, "; it must be 0 or more");
    }
    if (n_gpu_layers < 0) {
        fail("n_gpu_layers is ", n_gpu_layers, "; it must be 0 or more");
    }
    const rope_override rope = rope_from(rope_values);
    const weight_form form = dequantize ? weight_form::f32 : repack ? weight_form::packed : weight_form::stored;
    const gil_released released;
    return std::make_shared<shared_model>(model::load(path, n_gpu_layers, rope, form),
                                          static_cast<size_t>(prefix_cache_bytes), std::move(store));
}

std::vector<int32_t> tokenize(const model & m, const std::string & text, bool add_bos, bool add_eos, bool parse_special,
                              int32_t behind) {
    const gil_released released;
    const text_part whole{text, parse_special};
    return m.vocab.encode({&whole, 1}, {.add_bos = add_bos, .add_eos = add_eos, .behind = behind});
}

std::string detokenize(const model & m, const py::object & tokens, bool skip_special) {
    return replace_invalid_utf8(m.vocab.decode(tokens_from(tokens), !skip_special));
}

// turns: role, content and what else a message has, as JSON.
std::vector<chat_message> messages_from(const std::vector<std::array<std::string, 3>> & turns) {
    std::vector<chat_message> messages;
    for (const auto & [role, content, more] : turns) {
        messages.push_back({role, content, more});
    }
    return messages;
}

// variables: a JSON object, or "".
std::string chat_as_text(const model & m, const std::vector<std::array<std::string, 3>> & turns,
                         bool add_generation_prompt, const std::string & variables, bool for_tools) {
    const chat_template format(m.vocab, for_tools);
    return format.without_bos(format.render(messages_from(turns), add_generation_prompt, variables));
}

std::vector<int32_t> chat_as_tokens(const model & m, const std::vector<std::array<std::string, 3>> & turns,
                                    bool add_generation_prompt, const std::string & variables, bool for_tools) {
    const chat_template format(m.vocab, for_tools);
    return format.encode(format.render(messages_from(turns), add_generation_prompt, variables));
}

// Of these names those that the template does not say.
std::vector<std::string> chat_ignores(const model & m, const std::vector<std::string> & names, bool for_tools) {
    const chat_template format(m.vocab, for_tools);
    std::vector<std::string> ignored;
    std::ranges::copy_if(names, std::back_inserter(ignored),
                         [&](const std::string & name) { return !format.says(name); });
    return ignored;
}

py::dict facts_of(const model & m) {
    const hparams & hp = m.hp;
    return py::dict(py::arg("name") = replace_invalid_utf8(hp.name), py::arg("n_params") = m.tensors.n_params,
                    py::arg("weight_bytes") = m.tensors.bytes, py::arg("n_layer") = hp.n_layer,
                    py::arg("n_embd") = hp.n_embd, py::arg("n_ff") = hp.n_ff(0), py::arg("n_head") = hp.n_head(0),
                    py::arg("n_head_kv") = hp.n_head_kv(0), py::arg("head_dim") = hp.head_dim(0),
                    py::arg("n_vocab") = hp.n_vocab, py::arg("n_ctx_train") = hp.n_ctx_train,
                    py::arg("architecture") = hp.architecture_name(), py::arg("n_gpu_layers") = m.tensors.n_gpu_layers,
                    py::arg("bos_token") = m.vocab.bos(), py::arg("eos_token") = m.vocab.eos(),
                    py::arg("adds_bos") = m.vocab.adds_bos(), py::arg("adds_eos") = m.vocab.adds_eos(),
                    py::arg("has_chat_template") = has_chat_template(m.vocab),
                    py::arg("passed_over") = passed_over_template(m.vocab),
                    py::arg("passed_over_for_tools") = passed_over_template(m.vocab, /*for_tools=*/true),
                    py::arg("chat_family") = chat_family_name(detect_chat_family(m.vocab.chat_template(), m.vocab)));
}

// Of layer il: the angle of each pair of channels for one token on, f64 [n_rot/2], what cos and sin are multiplied
// with, and whether the pairs are neighbours.
py::tuple rope_of(const model & m, int64_t il) {
    if (il < 0 || il >= m.hp.n_layer) {
        fail("there is no layer ", il, "; the model has ", m.hp.n_layer);
    }
    const rope_params & rope = m.hp.rope(il);
    return py::make_tuple(array_of(rope_frequencies(rope), {rope.n_rot / 2}), rope_magnitude(rope),
                          rope.order == rope_order::normal);
}

// f(the model, ...) as a method.
template <typename R, typename... A>
auto of_model(R (*f)(const model &, A...)) {
    return [f](const shared_model & m, A... arguments) { return f(*m.get(), std::forward<A>(arguments)...); };
}

}  // namespace

void bind_model(py::module_ & module) {
    py::class_<shared_model, std::shared_ptr<shared_model>>(module, "Model")
        .def(py::init(&load), py::arg("path"), py::arg("n_gpu_layers"), py::arg("prefix_cache_bytes"),
             py::arg("store").none(true), py::arg("rope"), py::arg("repack"), py::arg("dequantize"))
        .def("facts", of_model(&facts_of))
        .def("rope", of_model(&rope_of), py::arg("layer"))
        .def("tokenize", of_model(&tokenize), py::arg("text"), py::kw_only(), py::arg("add_bos"), py::arg("add_eos"),
             py::arg("parse_special"), py::arg("behind"))
        .def("begins_with_two_bos", of_model(+[](const model & m, const py::object & tokens) {
                 return m.vocab.begins_with_two_bos(tokens_from(tokens));
             }),
             py::arg("tokens"))
        .def("detokenize", of_model(&detokenize), py::arg("tokens"), py::arg("skip_special"))
        .def("token_piece",
             of_model(+[](const model & m, int32_t id) { return py::bytes(m.vocab.token_bytes(id, false)); }),
             py::arg("token"))
        .def("is_end_of_generation",
             of_model(+[](const model & m, int32_t id) { return m.vocab.is_end_of_generation(id); }), py::arg("token"))
        .def("chat_as_text", of_model(&chat_as_text), py::arg("turns"), py::arg("add_generation_prompt"),
             py::arg("variables"), py::arg("for_tools"))
        .def("chat_as_tokens", of_model(&chat_as_tokens), py::arg("turns"), py::arg("add_generation_prompt"),
             py::arg("variables"), py::arg("for_tools"))
        .def("chat_ignores", of_model(&chat_ignores), py::arg("names"), py::arg("for_tools"));
    module.def("default_threads", &default_threads);
    module.def("build_info", [] {
        return py::dict(py::arg("kernels") = best_cpu_kernels().name,
                        py::arg("compiled_for") = compiled_cpu_features());
    });
    module.def(
        "least_rows_alike",
        [](int64_t n_head_kv, int64_t n_tokens, int64_t n_segments) {
            return least_rows_alike(best_cpu_kernels(), n_head_kv, n_tokens, n_segments);
        },
        py::arg("n_head_kv"), py::arg("n_tokens"), py::arg("n_segments"));
    module.def("has_gpu", [] { return find_gpu() != nullptr; });
}

}  // namespace livekv
