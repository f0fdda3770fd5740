#include "chunks/piece_keys.h"

#include <string>

#include "policy/saved_options.h"
#include "store/kv_file_names.h"
#include "xxh64.h"

namespace livekv {

namespace {

void add(xxh64 & hash, const std::string & text) {
    hash.update({reinterpret_cast<const uint8_t *>(text.c_str()), text.size() + 1});
}

}  // namespace

piece_keys::piece_keys(const model_facts & model, const kv_options & options) {
    xxh64 hash;
    add(hash, std::to_string(kv_names::file_version) + " " + std::to_string(kv_block_version));
    for (const auto & [name, value] : model) {
        add(hash, name);
        add(hash, value);
    }
    for (const auto & [name, value] : texts_of(options)) {
        add(hash, name);
        add(hash, value);
    }
    last_ = hash.digest();
}

uint64_t piece_keys::next(std::span<const int32_t> tokens) {
    xxh64 hash;
    hash.update({reinterpret_cast<const uint8_t *>(&last_), sizeof(last_)});
    hash.update({reinterpret_cast<const uint8_t *>(tokens.data()), tokens.size_bytes()});
    return last_ = hash.digest();
}

}  // namespace livekv
