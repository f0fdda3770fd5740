#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "arrays.h"
#include "bind.h"
#include "calls.h"
#include "dump.h"
#include "livekv.h"
#include "options_from.h"
#include "shared_model.h"
#include "values.h"

namespace livekv {

namespace {

using handle = std::shared_ptr<session_handle>;

handle open(shared_model & m, int64_t n_ctx, int64_t n_threads, const kv_options & kv) {
    const session_params params = session_params_from(n_ctx, n_threads, kv);
    const gil_released released;
    auto h = std::make_shared<session_handle>();
    h->s = std::make_unique<session>(m.engine_of(params.n_threads), params);
    return h;
}

bool go_on(int64_t) {
    check_signals();
    return true;
}

// question: None, or of policy finch its tokens.
py::array_t<float> prefill(session_handle & h, const py::object & tokens, const py::object & question) {
    const std::vector<int32_t> ids = tokens_from(tokens);
    const std::vector<int32_t> asked = question.is_none() ? std::vector<int32_t>() : tokens_from(question);
    held_session s(h);
    s.note_change();
    std::span<const float> logits;
    {
        const gil_released released;
        logits = question.is_none() ? s->prefill(ids, go_on) : s->prefill(ids, asked, go_on);
    }
    return array_of(logits, {static_cast<py::ssize_t>(logits.size())});
}

// Rows are written as they come, so that logits exist once.
py::array_t<float> eval(session_handle & h, const py::object & tokens, bool all_logits) {
    const std::vector<int32_t> ids = tokens_from(tokens);
    held_session s(h);
    s.note_change();
    const int64_t n = static_cast<int64_t>(ids.size());
    const int64_t first = all_logits ? 0 : n - 1;
    s->require_tokens(ids);  // before the rows are allocated
    const int64_t n_vocab = s->get_model().hp.n_vocab;
    py::array_t<float> rows({n - first, n_vocab});
    float * const out = rows.mutable_data();
    {
        const gil_released released;
        s->eval(
            ids, first,
            [&](int64_t start, int64_t, std::span<const float> logits) {
                std::copy(logits.begin(), logits.end(), out + (start - first) * n_vocab);
            },
            go_on);
    }
    return rows;
}

int64_t reuse(session_handle & h, const py::object & tokens) {
    const std::vector<int32_t> ids = tokens_from(tokens);
    held_session s(h);
    s->require_tokens(ids);
    s.note_change();
    const gil_released released;  // waits for the step that another thread is in
    return static_cast<int64_t>(s->reuse(ids));
}

// choose: for float32 [n_vocab] behind a token, the one that comes, or None where the text ends.
int64_t verify(session_handle & h, const py::object & tokens, const py::function & choose) {
    const std::vector<int32_t> ids = tokens_from(tokens);
    held_session s(h);
    s->require_tokens(ids);
    const auto n = static_cast<int64_t>(ids.size());
    if (n > s->room_for_draft()) {
        fail("there are ", n, " tokens to verify; there is room for ", s->room_for_draft());
    }
    s.note_change();
    std::span<const float> logits;
    {
        const gil_released released;
        logits = s->append_drafted(ids);
    }
    const auto n_vocab = static_cast<size_t>(s->get_model().hp.n_vocab);
    int64_t n_kept = 0;
    try {
        for (bool right = true; right;) {
            const auto row = logits.subspan(static_cast<size_t>(n_kept) * n_vocab, n_vocab);
            const py::object behind = array_of(row, {static_cast<py::ssize_t>(n_vocab)});
            const py::object token = staying([&] { return choose(behind); });
            const int64_t next = n_kept + 1;
            const std::optional<int64_t> chosen = whole_from(token);
            if (!chosen && !token.is_none()) {
                fail("choose gave ", shown(token), ", which is no token, nor None");
            }
            right = next < n && chosen == ids[static_cast<size_t>(next)];
            n_kept = next;
        }
    } catch (...) {  // the session is what it would be without the draft
        s->keep_drafted(n_kept + 1);
        throw;
    }
    s->keep_drafted(n_kept);
    return n_kept;
}

int64_t forget(session_handle & h, int64_t n_keep, int64_t n_wanted) {
    held_session s(h);
    s.note_change();
    const gil_released released;
    return s->forget(n_keep, n_wanted);
}

handle fork(session_handle & h) {
    held_session s(h);
    const gil_released released;
    auto copy = std::make_shared<session_handle>();
    copy->s = s->fork();
    return copy;
}

void require_trim(held_session & s, int64_t n) {
    if (n < 0 || n > s->n_tokens()) {
        fail("cannot trim to ", n, " tokens; the session holds ", s->n_tokens());
    }
}

int64_t free_trim(session_handle & h, int64_t n) {
    held_session s(h);
    require_trim(s, n);
    return s->exact_trim(n);
}

void trim(session_handle & h, int64_t n) {
    held_session s(h);
    require_trim(s, n);
    s.note_change();
    const gil_released released;  // what is left of a chunk may have to be computed again
    s->trim(n);
}

void save(session_handle & h, const std::string & path) {
    held_session s(h);
    const gil_released released;
    s->save(path);
}

void load(session_handle & h, const std::string & path) {
    held_session s(h);
    s.note_change();
    const gil_released released;
    s->load(path);
}

void close(session_handle & h) {
    const session_lock lock(h);
    ++h.n_changes;
    const gil_released released;
    h.s.reset();
}

py::object last_logits(session_handle & h) {
    held_session s(h);
    const std::span<const float> logits = s->last_logits();
    if (logits.empty()) {
        return py::none();
    }
    return array_of(logits, {static_cast<py::ssize_t>(logits.size())});
}

py::dict stats(session_handle & h) {
    held_session s(h);
    const kv_report r = s->cache().report();
    py::dict bytes;
    visit_numbers(r.bytes, [&](const char * name, size_t n) { bytes[name] = n; });
    py::list k;
    py::list v;
    for (const kv_report::layer_error & layer : r.layers) {
        k.append(layer.k_snr_db);
        v.append(layer.v_snr_db);
    }
    py::dict stream;
    py::list streams;
    visit_numbers(std::span(r.streams), [&](const char * name, double x) { stream[name] = x; });
    for (const kv_stream_layer & layer : r.streams) {
        py::dict one;
        visit_numbers(layer, [&](const char * name, double x) { one[name] = x; });
        streams.append(one);
    }
    stream["layers"] = streams;
    py::dict guided;
    py::list guided_layers;
    visit_numbers(std::span(r.guided), [&](const char * name, double x) { guided[name] = x; });
    for (const kv_guided_layer & layer : r.guided) {
        py::dict one;
        visit_numbers(layer, [&](const char * name, double x) { one[name] = x; });
        guided_layers.append(one);
    }
    guided["layers"] = guided_layers;
    if (r.guided_peak_bytes > 0) {
        guided["peak_bytes"] = r.guided_peak_bytes;
    }
    py::dict fastkv;
    if (r.fastkv) {
        visit_numbers(*r.fastkv, [&](const char * name, double x) { fastkv[name] = static_cast<int64_t>(x); });
    }
    py::dict finch;
    if (r.finch) {
        visit_numbers(*r.finch, [&](const char * name, double x) { finch[name] = static_cast<int64_t>(x); });
    }
    return py::dict(py::arg("n_tokens") = s->n_tokens(), py::arg("bits_per_value") = s->kv_bits_per_value(),
                    py::arg("f16_bytes") = s->get_model().hp.kv_f16_bytes_per_token() * s->n_tokens(),
                    py::arg("bytes") = bytes, py::arg("workspace_bytes") = r.workspace,
                    py::arg("n_sealed") = r.n_sealed, py::arg("n_outliers") = r.n_outliers,
                    py::arg("n_given_back") = r.n_given_back, py::arg("n_saturated") = r.n_saturated,
                    py::arg("seal_s") = r.seal_seconds, py::arg("measured") = r.has_error, py::arg("snr_k") = k,
                    py::arg("snr_v") = v, py::arg("stream") = r.streams.empty() ? py::object(py::none()) : stream,
                    py::arg("guided") = r.guided.empty() ? py::object(py::none()) : guided,
                    py::arg("fastkv") = r.fastkv ? py::object(fastkv) : py::none(),
                    py::arg("finch") = r.finch ? py::object(finch) : py::none());
}

py::tuple dump(session_handle & h, int64_t il) {
    held_session s(h);
    const hparams & hp = s->get_model().hp;
    if (il < 0 || il >= hp.n_layer) {
        fail("there is no layer ", il, "; the model has ", hp.n_layer);
    }
    kv_layer_dump layer;
    {
        const gil_released released;
        layer = s->cache().dump(il);
    }
    return py::make_tuple(dump_arrays(layer.k, /*keys=*/true, hp.n_head_kv(il), hp.head_dim(il)),
                          dump_arrays(layer.v, /*keys=*/false, hp.n_head_kv(il), hp.head_dim(il)));
}

// f(session) for what is quick and changes nothing.
template <typename F>
auto reading(F f) {
    return [f](session_handle & h) {
        held_session s(h);
        return f(*s);
    };
}

}  // namespace

void bind_session(py::module_ & module) {
    py::class_<session_handle, handle>(module, "Session")
        .def(py::init(&open), py::arg("model"), py::arg("n_ctx"), py::arg("n_threads"), py::arg("kv"))
        .def("prefill", &prefill, py::arg("tokens"), py::arg("question"))
        .def("eval", &eval, py::arg("tokens"), py::arg("all_logits"))
        .def("reuse", &reuse, py::arg("tokens"))
        .def(
            "pass_size", [](session_handle & h, int64_t n) { return held_session(h)->pass_size(n); }, py::arg("n"))
        .def("exact_trim", &free_trim, py::arg("n_tokens"))
        .def("verify", &verify, py::arg("tokens"), py::arg("choose"))
        .def("room_for_draft", reading([](session & s) { return s.room_for_draft(); }))
        .def("forget", &forget, py::arg("keep"), py::arg("n_tokens"))
        .def("fork", &fork)
        .def("trim", &trim, py::arg("n_tokens"))
        .def("save", &save, py::arg("path"))
        .def("load", &load, py::arg("path"))
        .def("close", &close)
        .def("closed", [](session_handle & h) { return session_lock(h), !h.s; })
        .def("n_tokens", reading([](session & s) { return s.n_tokens(); }))
        .def("n_ctx", reading([](session & s) { return s.n_ctx(); }))
        .def("n_threads", reading([](session & s) { return s.params().n_threads; }))
        .def("tokens", reading([](session & s) { return std::vector<int32_t>(s.tokens().begin(), s.tokens().end()); }))
        .def("kv_bytes", reading([](session & s) { return s.cache().bytes(); }))
        .def("kv_bits_per_value", reading([](session & s) { return s.kv_bits_per_value(); }))
        .def("kv", reading([](session & s) { return s.params().kv; }))
        .def("last_logits", &last_logits)
        .def("stats", &stats)
        .def("dump", &dump, py::arg("layer"));
}

}  // namespace livekv
