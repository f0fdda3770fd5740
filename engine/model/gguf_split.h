#pragma once

#include <string>
#include <vector>

#include "model/gguf_part.h"

namespace livekv {

// The file, or all parts of the model that it is a part of, in order. Parts are told by split.count and found by their
// names, which end in -00001-of-00003.gguf. Throws livekv::error, also naming the first part that is missing and parts
// that contradict each other: another split.count, split.no or split.tensors.count, a tensor in two of them, metadata
// behind the first part's.
std::vector<gguf_part> open_gguf_parts(const std::string & path);

}  // namespace livekv
