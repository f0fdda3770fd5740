#pragma once

#include <string>
#include <utility>
#include <vector>

#include "model/gguf_file.h"
#include "model/hparams.h"

namespace livekv {

// What tells one model's keys and values, and the tokens they are of, from another's: (name, value as text), the
// shape's numbers first, then ("weights", a hash), ("contents", a hash) and ("vocabulary", a hash).
using model_facts = std::vector<std::pair<std::string, std::string>>;

// What files written before it was there do not have.
inline constexpr const char * contents_fact = "contents";

// A hash of every byte of all tensors and of all metadata of the architecture. Reads the whole file, at the speed of
// memory where the system still has it, and gives its pages back.
std::string contents_hash(const gguf_file & file);

// The weights' hash covers names, types and shapes of all tensors and the first and last KiB of each one's data: all
// that older files know of them. The vocabulary's covers the tokenizer's kind and the text of every token: what ids
// mean. is_long: hparams::is_long of the sequence; contents: contents_hash of the file.
model_facts model_fingerprint(const gguf_file & file, const hparams & hp, bool is_long, const std::string & contents);

}  // namespace livekv
