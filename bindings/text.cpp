#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arrays.h"
#include "bind.h"
#include "livekv.h"
#include "sampling.h"
#include "session/stop_strings.h"
#include "shared_model.h"

// What lies between the logits of Engine.step and text, for those who drive an engine themselves.
namespace livekv {

namespace {

using logits_row = py::array_t<float, py::array::c_style>;
using bit_row = py::array_t<uint32_t, py::array::c_style>;

class token_sampler {
  public:
    token_sampler(std::shared_ptr<shared_model> m, const sampler_params & params, bool ignore_eos)
        : model_(m->get()), pick_(params) {
        for (int32_t id = 0; ignore_eos && id < model_->vocab.n_vocab(); ++id) {
            if (model_->vocab.is_end_of_generation(id)) {
                ends_.push_back(id);
            }
        }
    }

    void observe(const py::object & tokens) {
        for (const int32_t id : tokens_from(tokens)) {
            pick_.observe(id);
        }
    }

    // logits: f32 [n_vocab]. allowed: u32 [ceil(n_tokens / 32)], a bit for each token, the lowest first.
    int32_t next(const logits_row & logits, const std::optional<bit_row> & allowed) {
        // An embedding may have more rows than there are tokens: those have no text.
        const int64_t n_tokens = model_->vocab.n_vocab();
        if (logits.ndim() != 1 || logits.size() != model_->hp.n_vocab) {
            fail("logits must be one row of ", model_->hp.n_vocab);
        }
        std::vector<int32_t> banned = ends_;
        if (allowed) {
            if (allowed->ndim() != 1 || allowed->size() * 32 < n_tokens) {
                fail("allowed must have a bit for each of ", n_tokens, " tokens");
            }
            const uint32_t * const bits = allowed->data();
            for (int32_t id = 0; id < n_tokens; ++id) {
                if ((bits[id / 32] >> (id % 32) & 1) == 0) {
                    banned.push_back(id);
                }
            }
        }
        return pick_.next({logits.data(), static_cast<size_t>(n_tokens)}, banned);
    }

  private:
    std::shared_ptr<const model> model_;
    sampler pick_;
    std::vector<int32_t> ends_;
};

class text_stream {
  public:
    text_stream(std::shared_ptr<shared_model> m, std::vector<std::string> stop)
        : model_(m->get()), decoder_(model_->vocab), stops_(std::move(stop)) {}

    std::string push(int32_t token) {
        if (token < 0 || token >= model_->vocab.n_vocab()) {
            fail("token id ", token, " is not in the model's vocabulary");
        }
        return stops_.push(decoder_.push(token));
    }
    std::string finish() { return stops_.push(decoder_.finish()) + stops_.finish(); }
    bool stopped() const { return stops_.found(); }

  private:
    std::shared_ptr<const model> model_;
    stream_decoder decoder_;
    stop_strings stops_;
};

class token_lookup {
  public:
    explicit token_lookup(int64_t most) : lookup_(most) {}

    void observe(const py::object & tokens) {
        for (const int32_t token : tokens_from(tokens)) {
            lookup_.observe(token);
        }
    }
    std::vector<int32_t> draft(int64_t room) {
        const std::span<const int32_t> tokens = lookup_.draft(room);
        return {tokens.begin(), tokens.end()};
    }
    void learn(int64_t n_drafted, int64_t n_accepted) { lookup_.learn(n_drafted, n_accepted); }

  private:
    prompt_lookup lookup_;
};

}  // namespace

void bind_text(py::module_ & module) {
    py::class_<token_sampler>(module, "Sampler")
        .def(py::init([](std::shared_ptr<shared_model> m, const py::dict & sampling, uint64_t seed, bool ignore_eos) {
                 sampler_params params = sampling_from(sampling);
                 params.seed = seed;
                 return std::make_unique<token_sampler>(std::move(m), params, ignore_eos);
             }),
             py::arg("model"), py::kw_only(), py::arg("sampling"), py::arg("seed"), py::arg("ignore_eos"))
        .def("observe", &token_sampler::observe, py::arg("tokens"))
        .def("next", &token_sampler::next, py::arg("logits"), py::arg("allowed"));
    py::class_<token_lookup>(module, "Lookup")
        .def(py::init<int64_t>(), py::arg("most"))
        .def("observe", &token_lookup::observe, py::arg("tokens"))
        .def("draft", &token_lookup::draft, py::arg("room"))
        .def("learn", &token_lookup::learn, py::arg("n_drafted"), py::arg("n_accepted"));
    py::class_<text_stream>(module, "TextStream")
        .def(py::init<std::shared_ptr<shared_model>, std::vector<std::string>>(), py::arg("model"), py::arg("stop"))
        .def("push", &text_stream::push, py::arg("token"))
        .def("finish", &text_stream::finish)
        .def("stopped", &text_stream::stopped);
}

}  // namespace livekv
