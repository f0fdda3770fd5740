#pragma once

#include <string>
#include <vector>

#include "livekv.h"

namespace livekv {

// A store's pieces, one a line, and what they are together.
std::string store_list_text(const std::vector<stored_piece> & pieces);

// What a store did, in a line.
std::string store_summary_text(const chunk_store_counts & counts);

}  // namespace livekv
