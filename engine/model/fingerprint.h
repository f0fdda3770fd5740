#pragma once

#include <string>
#include <utility>
#include <vector>

#include "model/gguf_file.h"
#include "model/hparams.h"

namespace livekv {

// What tells one model's keys and values, and the tokens they are of, from another's: (name, value as text), the
// shape's numbers first, then ("weights", a hash) and ("vocabulary", a hash).
using model_facts = std::vector<std::pair<std::string, std::string>>;

// The weights' hash covers names, types and shapes of all tensors and the first and last KiB of each one's data: it
// reads little, and no training step, merge or quantization leaves those bytes as they were. The vocabulary's covers
// the tokenizer's kind and the text of every token: what ids mean.
// is_long: hparams::is_long of the sequence.
model_facts model_fingerprint(const gguf_file & file, const hparams & hp, bool is_long);

}  // namespace livekv
