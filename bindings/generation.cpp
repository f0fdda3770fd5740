#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arrays.h"
#include "bind.h"
#include "calls.h"
#include "livekv.h"
#include "sampling.h"

namespace livekv {

namespace {

// A generation and the session it writes into, which nobody else may change meanwhile.
class generation_handle {
  public:
    generation_handle(std::shared_ptr<session_handle> h, const py::object & prompt, const generate_params & params)
        : handle_(std::move(h)) {
        held_session s(*handle_);
        s.note_change();
        n_changes_ = handle_->n_changes;
        generation_.emplace(*s, tokens_from(prompt), params);
    }

    // The next piece of text that is not empty; none when the text has ended.
    std::optional<std::string> next() {
        if (failed_ || ended()) {
            return std::nullopt;
        }
        held_session s(*handle_);
        if (handle_->n_changes != n_changes_) {
            fail("the session was changed while this text was being generated");
        }
        const py::gil_scoped_release released;
        try {
            return next_piece();
        } catch (const py::error_already_set &) {  // Ctrl-C, between tokens or chunks: interrupt ends the text
            throw;
        } catch (...) {
            failed_ = true;
            throw;
        }
    }

    // Ends the text here, with what was held back.
    void interrupt() {
        const session_lock lock(*handle_);
        if (!failed_) {
            text_ += generation_->interrupt();
        }
    }

    std::string text() const {
        const session_lock lock(*handle_);
        return text_;
    }

    std::vector<int32_t> tokens() const {
        const session_lock lock(*handle_);
        return tokens_;
    }
    bool ended() const {
        const session_lock lock(*handle_);
        return !failed_ && generation_->ended();
    }
    generate_result result() const {
        const session_lock lock(*handle_);
        return generation_->result();
    }

  private:
    std::optional<std::string> next_piece() {
        while (!generation_->ended()) {
            check_signals();
            const int64_t n_before = generation_->result().n_generated;
            std::exception_ptr raised;
            const std::string text = generation_->next([&](int64_t) {
                try {
                    check_signals();
                    return true;
                } catch (...) {
                    raised = std::current_exception();
                    return false;
                }
            });
            if (raised) {
                std::rethrow_exception(raised);
            }
            const generate_result & r = generation_->result();
            const bool end_of_text = generation_->ended() && r.reason == stop_reason::end_of_text;
            if (r.n_generated > n_before && !end_of_text) {
                tokens_.push_back(r.last_token);
            }
            if (!text.empty()) {
                text_ += text;
                return text;
            }
        }
        return std::nullopt;
    }

    std::shared_ptr<session_handle> handle_;
    uint64_t n_changes_ = 0;
    std::optional<generation> generation_;
    std::string text_;             // all that next gave
    std::vector<int32_t> tokens_;  // generated, without an end-of-text token
    bool failed_ = false;          // by an exception: there is no more text
};

std::unique_ptr<generation_handle> start(std::shared_ptr<session_handle> h, const py::object & prompt,
                                         int64_t max_tokens, bool ignore_eos, const py::dict & sampling,
                                         uint64_t seed, const std::vector<std::string> & stop) {
    if (max_tokens < -1 || max_tokens > INT32_MAX) {
        fail("max_tokens is ", max_tokens, "; it must be in 0..", INT32_MAX, ", or none for no limit");
    }
    generate_params p;
    p.n_predict = max_tokens;
    p.ignore_eos = ignore_eos;
    p.sampling = sampling_from(sampling);
    p.sampling.seed = seed;
    p.stop = stop;
    return std::make_unique<generation_handle>(std::move(h), prompt, p);
}

py::dict result_of(const generation_handle & g) {
    const generate_result r = g.result();
    return py::dict(py::arg("n_prompt") = r.n_prompt, py::arg("n_generated") = r.n_generated,
                    py::arg("reason") = stop_reason_name(r.reason), py::arg("ttft_s") = r.ttft_s,
                    py::arg("prefill_s") = r.prefill_s, py::arg("decode_s") = r.decode_s, py::arg("seal_s") = r.seal_s,
                    py::arg("prefill_tps") = r.prefill_tps(), py::arg("decode_tps") = r.decode_tps(),
                    py::arg("logits_hash") = r.logits_hash);
}

}  // namespace

void bind_generation(py::module_ & module) {
    module.def("sampling_defaults", &sampling_defaults);
    py::class_<generation_handle>(module, "Generation")
        .def(py::init(&start), py::arg("session"), py::arg("prompt"), py::kw_only(), py::arg("max_tokens"),
             py::arg("ignore_eos"), py::arg("sampling"), py::arg("seed"), py::arg("stop"))
        .def("next", &generation_handle::next)
        .def("interrupt", &generation_handle::interrupt)
        .def("ended", &generation_handle::ended)
        .def("text", &generation_handle::text)
        .def("tokens", &generation_handle::tokens)
        .def("result", &result_of);
}

}  // namespace livekv
