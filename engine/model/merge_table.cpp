#include "model/merge_table.h"

#include "error.h"
#include "model/space_marks.h"
#include "model/vocab.h"

namespace livekv {

namespace {

uint64_t pair_key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

merge_table::merge_table(const vocab & tokens) {
    merges_.reserve(tokens.merges.size());
    for (size_t rank = 0; rank < tokens.merges.size(); ++rank) {
        const std::string_view line = tokens.merges[rank];
        const size_t space = line.find(' ');
        if (space == std::string_view::npos || space == 0 || space + 1 == line.size()) {
            fail("'", tokens.path, "': merge ", rank, " is '", line, "', expected two tokens with a space between");
        }
        const std::string_view left = line.substr(0, space);
        const std::string_view right = line.substr(space + 1);
        const auto id_of = [&](const std::string & text) {
            int32_t id = tokens.find(text);
            id = id < 0 ? tokens.find(unmark_spaces(text)) : id;  // so are added tokens written
            if (id < 0) {
                fail("'", tokens.path, "': merge ", rank, " ('", line, "') needs the token '", text,
                     "', which is missing");
            }
            return id;
        };
        const int32_t left_id = id_of(std::string(left));
        const int32_t right_id = id_of(std::string(right));
        const int32_t id = id_of(std::string(left) + std::string(right));
        merges_.insert_or_assign(pair_key(left_id, right_id), symbol_merger::merge{static_cast<double>(rank), id});
    }
}

std::optional<symbol_merger::merge> merge_table::find(int32_t left, int32_t right) const {
    const auto found = merges_.find(pair_key(left, right));
    return found == merges_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace livekv
