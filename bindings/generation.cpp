#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arrays.h"
#include "bind.h"
#include "generation_handle.h"
#include "livekv.h"
#include "sampling.h"

namespace livekv {

generation_handle::generation_handle(std::shared_ptr<session_handle> h, const py::object & prompt,
                                     const generate_params & params)
    : handle_(std::move(h)) {
    held_session s(*handle_);
    s.note_change();
    n_changes_ = handle_->n_changes;
    generation_.emplace(*s, tokens_from(prompt), params);
}

std::optional<std::string> generation_handle::next() {
    if (failed_ || ended()) {
        return std::nullopt;
    }
    held_session s(*handle_);
    unchanged();
    const gil_released released;
    try {
        return next_piece();
    } catch (const py::error_already_set &) {  // Ctrl-C, between tokens or chunks: interrupt ends the text
        throw;
    } catch (...) {
        failed_ = true;
        throw;
    }
}

void generation_handle::interrupt() {
    const session_lock lock(*handle_);
    interrupt_held();
}

generation & generation_handle::unchanged() {
    if (handle_->n_changes != n_changes_) {
        fail("the session was changed while this text was being generated");
    }
    return *generation_;
}

void generation_handle::take(const std::string & piece) {
    const generate_result & r = generation_->result();
    if (r.n_generated > n_taken_) {
        const bool end_of_text = generation_->ended() && r.reason == stop_reason::end_of_text;
        const std::span<const int32_t> sampled = generation_->sampled();
        tokens_.insert(tokens_.end(), sampled.begin(), sampled.end() - (end_of_text ? 1 : 0));
    }
    n_taken_ = r.n_generated;
    text_ += piece;
}

std::optional<std::string> generation_handle::next_piece() {
    while (!generation_->ended()) {
        check_signals();
        std::exception_ptr raised;
        const std::string piece = generation_->next([&](int64_t) {
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
        take(piece);
        if (!piece.empty()) {
            return piece;
        }
    }
    return std::nullopt;
}

namespace {

std::shared_ptr<generation_handle> start(std::shared_ptr<session_handle> h, const py::object & prompt,
                                         int64_t max_tokens, bool ignore_eos, const py::dict & sampling, uint64_t seed,
                                         const std::vector<std::string> & stop, int64_t n_lookup, int64_t n_keep) {
    if (max_tokens < -1 || max_tokens > INT32_MAX) {
        fail("max_tokens is ", max_tokens, "; it must be in 0..", INT32_MAX, ", or none for no limit");
    }
    generate_params p;
    p.n_predict = max_tokens;
    p.ignore_eos = ignore_eos;
    p.sampling = sampling_from(sampling);
    p.sampling.seed = seed;
    p.stop = stop;
    p.n_lookup = n_lookup;
    p.n_keep = n_keep;
    return std::make_shared<generation_handle>(std::move(h), prompt, p);
}

py::dict result_of(const generation_handle & g) {
    const generate_result r = g.result();
    return py::dict(py::arg("n_prompt") = r.n_prompt, py::arg("n_reused") = r.n_reused,
                    py::arg("n_forgotten") = r.n_forgotten, py::arg("n_generated") = r.n_generated,
                    py::arg("n_drafted") = r.n_drafted, py::arg("n_accepted") = r.n_accepted,
                    py::arg("reason") = stop_reason_name(r.reason), py::arg("ttft_s") = r.ttft_s,
                    py::arg("prefill_s") = r.prefill_s, py::arg("decode_s") = r.decode_s, py::arg("seal_s") = r.seal_s,
                    py::arg("prefill_tps") = r.prefill_tps(), py::arg("decode_tps") = r.decode_tps(),
                    py::arg("logits_hash") = r.logits_hash);
}

}  // namespace

void bind_generation(py::module_ & module) {
    module.def("sampling_defaults", &sampling_defaults);
    py::class_<generation_handle, std::shared_ptr<generation_handle>>(module, "Generation")
        .def(py::init(&start), py::arg("session"), py::arg("prompt"), py::kw_only(), py::arg("max_tokens"),
             py::arg("ignore_eos"), py::arg("sampling"), py::arg("seed"), py::arg("stop"), py::arg("n_lookup"),
             py::arg("n_keep"))
        .def("next", &generation_handle::next)
        .def("interrupt", &generation_handle::interrupt)
        .def("ended", &generation_handle::ended)
        .def("over", &generation_handle::over_now)
        .def("text", &generation_handle::text)
        .def("tokens", &generation_handle::tokens)
        .def("result", &result_of);
}

}  // namespace livekv
