#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "file_in_use.h"
#include "model/fingerprint.h"
#include "model/gguf_file.h"
#include "model/hparams.h"
#include "model/tokenizer.h"
#include "model/weights.h"

namespace livekv {

// A loaded model: its file's mapping, shape, tokenizer and weights. Immutable, and safe to share between sessions and
// threads.
struct model {
    gguf_file file;
    hparams hp;
    tokenizer vocab;
    weights tensors;
    weight_form form;  // of what products read

    // n_gpu_layers: how many of the last layers go to the GPU, when there is one. rope: what its rotary positions are
    // instead of what the file says. Throws livekv::error;
    // rope_option_error for a change that does not fit.
    model(const std::string & path, int64_t n_gpu_layers, const rope_override & rope, weight_form form);

    // What tells this model from others (model_fingerprint). The first call reads the whole file. is_long:
    // hparams::is_long.
    model_facts fingerprint(bool is_long) const;

    // What keys and values depend on to the bit: the fingerprint, and the form.
    model_facts facts(bool is_long) const;

    static std::shared_ptr<const model> load(const std::string & path, int64_t n_gpu_layers = 0,
                                             const rope_override & rope = {}, weight_form form = weight_form::packed);

  private:
    std::deque<file_in_use> in_use_;  // every part: nothing that is saved replaces the model
    mutable std::mutex contents_mutex_;
    mutable std::string contents_;  // contents_hash, once it was asked for
};

}  // namespace livekv
