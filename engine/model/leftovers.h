#pragma once

#include <set>

#include "model/arch/arch_keys.h"
#include "model/hparams.h"

namespace livekv {

// Whatever a file holds is used, known to be harmless, or refused by name: what is left out in silence makes another
// model of it. The lists of what is harmless stand in leftovers.cpp.

// Throws livekv::error naming the first metadata key that may change what the model computes, was not asked for, and
// holds other than the value that means "no such thing". hp: the shape, for the values that depend on it.
void refuse_unread_keys(const arch_keys & read, const hparams & hp);

// The same for keys of the tokenizer (tokenizer.ggml.*) and for all that are livekv's own.
void refuse_unread_tokenizer_keys(const gguf_file & file);

// Throws livekv::error naming the first three tensors of the file that are not in `used`, and how many there are.
// used: the file's own descriptions, as gguf_file::find_tensor gives them.
void refuse_unused_tensors(const gguf_file & file, const std::set<const ggml_tensor *> & used);

// Throws livekv::error naming the first tensor of a layer that is not in `used`, though other layers have it there: a
// bias that layers may do without was lost on the way. used: as above.
void refuse_tensors_of_some_layers(const gguf_file & file, const std::set<const ggml_tensor *> & used, int64_t n_layer);

}  // namespace livekv
