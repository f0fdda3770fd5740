#pragma once

// Tiny models that must be refused, or load.

#include <functional>
#include <string>

#include "check.h"
#include "model/gguf_file.h"
#include "model/hparams.h"
#include "model/weights.h"
#include "tiny_model.h"

namespace refused_models {

using namespace livekv;

inline void load(const std::string & path) {
    const gguf_file file(path);
    const hparams hp = hparams::read(file);
    weights(file, hp, 0, weight_form::stored);
}

// A tiny model changed by edit must be refused with a message that holds part.
inline void refuses(const std::function<void(tiny_spec &)> & edit, const std::string & part) {
    tiny_spec spec;
    edit(spec);
    const temporary_file file(".gguf");
    write_tiny_model(spec, file.path());
    CHECK_ERROR(load(file.path()), part);
}

inline void refuses_keys(const std::function<void(gguf_context *)> & edit, const std::string & part) {
    refuses([&](tiny_spec & spec) { spec.edit_keys = edit; }, part);
}

inline void loads_with(const std::function<void(gguf_context *)> & edit) {
    tiny_spec spec;
    spec.edit_keys = edit;
    const temporary_file file(".gguf");
    write_tiny_model(spec, file.path());
    load(file.path());
}

}  // namespace refused_models
