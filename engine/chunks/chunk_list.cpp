#include <algorithm>

#include "chunks/chunk_store.h"
#include "error.h"
#include "model/gguf_file.h"
#include "store/kv_file_names.h"

namespace livekv {

namespace {

// Fills in what the file says of itself, as far as it can be read.
void describe(const std::string & path, stored_piece & piece) {
    try {
        const gguf_file file(path);
        if (file.find_string(kv_names::architecture) != kv_names::piece_architecture_name) {
            return;
        }
        piece.n_tokens = static_cast<int64_t>(file.get_ints(kv_names::tokens).size());
        if (file.has(kv_names::before)) {
            piece.first_token = static_cast<int64_t>(file.get_ints(kv_names::before).size());
        }
        piece.policy = file.get_string(std::string(kv_names::option_prefix) + "kv");
        piece.weights = file.get_string(kv_names::model("weights"));
        piece.readable = true;
    } catch (const error &) {
    }
}

}  // namespace

std::vector<stored_piece> stored_pieces(const std::string & path) {
    std::vector<chunk_folder::file> files = chunk_folder::files_in(path);
    std::ranges::sort(files, std::ranges::greater(), &chunk_folder::file::used_ns);
    std::vector<stored_piece> all;
    for (const chunk_folder::file & file : files) {
        stored_piece piece;
        piece.name = chunk_folder::name_of(file.key);
        piece.bytes = file.bytes;
        piece.used_s = file.used_ns / 1000000000;
        describe(path + "/" + piece.name, piece);
        all.push_back(std::move(piece));
    }
    return all;
}

}  // namespace livekv
