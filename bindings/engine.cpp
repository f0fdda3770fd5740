#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "arrays.h"
#include "bind.h"
#include "calls.h"
#include "generation_handle.h"
#include "livekv.h"
#include "options_from.h"
#include "shared_model.h"

namespace livekv {

namespace {

// The sessions of a model that computes with one number of threads, as a batch sees them.
struct engine_handle {
    std::shared_ptr<shared_model> m;
    std::shared_ptr<engine> e;
};

std::shared_ptr<engine_handle> open(std::shared_ptr<shared_model> m, int64_t n_threads) {
    const int32_t n = session_params_from(1, n_threads, {}).n_threads;
    const gil_released released;
    std::shared_ptr<engine> e = m->engine_of(n);
    return std::make_shared<engine_handle>(engine_handle{std::move(m), std::move(e)});
}

// Sessions of the engine for the length of a call. Throws livekv::error when one is listed twice, closed, in use by
// another call, or not of the engine.
class held_sessions {
  public:
    held_sessions(const engine & e, const std::vector<session_handle *> & handles) {
        for (session_handle * handle : handles) {
            // Before it is locked: a second lock by the same thread would be an error of its own.
            if (std::count(handles.begin(), handles.end(), handle) > 1) {
                fail("a session is in the batch twice");
            }
            require_of(e, *held_.emplace_back(*handle));
        }
    }

    session & operator[](size_t i) { return *held_[i]; }

    void note_change() {
        for (held_session & s : held_) {
            s.note_change();
        }
    }

  private:
    static void require_of(const engine & e, const session & s) {
        if (&s.get_model() != e.get_model().get()) {
            fail("a session of the batch is not one of this engine's model");
        }
        if (s.get_engine().get() != &e) {
            fail("a session of the batch computes with ", s.params().n_threads, " threads, this engine with ",
                 e.n_threads());
        }
    }

    std::vector<held_session> held_;
};

using listed = std::pair<std::shared_ptr<session_handle>, py::object>;

py::list step_sessions(engine_handle & h, const std::vector<listed> & batch, bool all_logits,
                       const std::vector<bool> & generated, const std::vector<int64_t> & to_come) {
    LIVEKV_ASSERT(generated.size() == batch.size() && to_come.size() == batch.size());
    std::vector<session_handle *> handles;
    std::vector<std::vector<int32_t>> ids;
    for (const auto & [session, tokens] : batch) {
        handles.push_back(session.get());
        ids.push_back(tokens_from(tokens));
    }
    held_sessions held(*h.e, handles);
    for (size_t i = 0; i < batch.size(); ++i) {
        held[i].require_tokens(ids[i]);  // before the rows are allocated
    }
    const int64_t n_vocab = h.e->get_model()->hp.n_vocab;
    py::list results;
    std::vector<session_step> work;
    for (size_t i = 0; i < batch.size(); ++i) {
        const int64_t n = static_cast<int64_t>(ids[i].size());
        const int64_t first = all_logits ? 0 : n - 1;
        py::array_t<float> rows(all_logits ? std::vector<py::ssize_t>{n, n_vocab} : std::vector<py::ssize_t>{n_vocab});
        float * const out = rows.mutable_data();
        if (to_come[i] > 0 && !generated[i] && held[i].cache().reads_prompt_alone()) {  // none are known before its end
            std::fill_n(out, rows.size(), std::numeric_limits<float>::quiet_NaN());
        }
        results.append(std::move(rows));
        work.push_back({&held[i], ids[i], first, generated[i] ? token_origin::generated : token_origin::prompt,
                        [out, first, n_vocab](int64_t start, int64_t, std::span<const float> logits) {
                            std::copy(logits.begin(), logits.end(), out + (start - first) * n_vocab);
                        },
                        to_come[i]});
    }
    held.note_change();
    const gil_released released;
    step(*h.e, work, check_signals);
    return results;
}

// Until the first of them has ended. Ctrl-C ends them all; so does what a step throws.
void advance(engine_handle & h, const std::vector<std::shared_ptr<generation_handle>> & texts) {
    std::vector<session_handle *> handles;
    for (const auto & text : texts) {
        handles.push_back(&text->get_session());
    }
    held_sessions held(*h.e, handles);
    std::vector<generation *> running;
    for (const auto & text : texts) {
        if (text->over()) {
            return;
        }
        running.push_back(&text->unchanged());
    }
    const auto over = [](const auto & text) { return text->over(); };
    const gil_released released;
    try {
        while (!texts.empty() && std::none_of(texts.begin(), texts.end(), over)) {
            check_signals();
            const std::vector<std::string> pieces = step(*h.e, running, check_signals);
            for (size_t i = 0; i < texts.size(); ++i) {
                texts[i]->take(pieces[i]);
            }
        }
    } catch (const py::error_already_set &) {
        for (const auto & text : texts) {
            text->interrupt_held();
        }
        throw;
    } catch (...) {
        for (const auto & text : texts) {
            text->fail_text();
        }
        throw;
    }
}

void fetch(const engine_handle & h, const py::object & tokens, int64_t n_ctx, const kv_options & kv) {
    const std::vector<int32_t> ids = tokens_from(tokens);
    const gil_released released;
    h.e->fetch(kv, n_ctx, ids);
}

py::list prefix_nodes(const engine_handle & h) {
    std::vector<prefix_node> nodes;
    {
        const gil_released released;
        nodes = h.e->prefix_nodes();
    }
    py::list all;
    for (const prefix_node & n : nodes) {
        all.append(py::dict(py::arg("depth") = n.depth, py::arg("n_tokens") = n.n_tokens, py::arg("bytes") = n.bytes,
                            py::arg("in_use") = n.in_use));
    }
    return all;
}

}  // namespace

void bind_engine(py::module_ & module) {
    py::class_<engine_handle, std::shared_ptr<engine_handle>>(module, "Engine")
        .def(py::init(&open), py::arg("model"), py::arg("n_threads"))
        .def("step", &step_sessions, py::arg("batch"), py::arg("all_logits"), py::arg("generated"), py::arg("to_come"))
        .def("advance", &advance, py::arg("texts"))
        .def("n_threads", [](const engine_handle & h) { return h.e->n_threads(); })
        .def("prefix_idle_bytes",
             [](const engine_handle & h) {
                 const gil_released released;
                 return h.e->prefix_idle_bytes();
             })
        .def("prefix_nodes", &prefix_nodes)
        .def("fetch", &fetch, py::arg("tokens"), py::arg("n_ctx"), py::arg("kv"))
        .def("workspace_bytes", [](const engine_handle & h) {
            const gil_released released;  // waits for the step that another thread is in
            return h.e->workspace_bytes();
        });
}

}  // namespace livekv
