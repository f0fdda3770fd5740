#pragma once

// What is called how in a saved cache (kv_file.h).
//
// Metadata  livekv.checksum       u64, the first key: XXH64 of the file with these eight bytes 0
//           general.architecture  "livekv-cache"
//           livekv.file_version   u32: raised when a reader of the present one would go wrong
//           livekv.block_version  u32: kv_block_version
//           livekv.model.*        strings: model_facts
//           livekv.option.*       strings: options as on the command line, without the dashes
//           livekv.tokens         i32 [n_tokens]
// Tensors   chunks                i32 [2, n_chunks]: tokens stored, and of them what a trim left
//           logits                f32 [n_vocab], of the last token
//           blk.N.chunks          i32 [3, n_chunks]: keys sealed, values sealed (0 or 1), tokens that are sinks
//           blk.N.k, .v           i8: the chunks one after the other, blocks [n_head_kv] or f16 rows
//           blk.N.sinks.k, .v     f16 [head_dim * n_head_kv, n_sinks]
//           blk.N.tail.k, .v      f16 [head_dim * n_head_kv, n_tail]; n_tail is what chunks leave of the tokens
//           blk.N.statistics      f32 [3 * head_dim, n_head_kv]: key_statistics::state
//           blk.N.statistics.n    i32 [n_head_kv]: chunks they have seen
// What would be empty is absent.

#include <cstdint>
#include <string>

#include "model/gguf_file.h"
#include "options.h"

namespace livekv::kv_names {

constexpr uint32_t file_version = 2;
constexpr uint32_t oldest_version = 2;  // 1 lacked the vocabulary among the model's facts
constexpr const char * architecture_name = "livekv-cache";

constexpr const char * checksum = "livekv.checksum";
constexpr const char * architecture = "general.architecture";
constexpr const char * version = "livekv.file_version";
constexpr const char * block_version = "livekv.block_version";
constexpr const char * tokens = "livekv.tokens";
constexpr const char * chunks = "chunks";
constexpr const char * logits = "logits";

inline std::string model(const std::string & fact) {
    return "livekv.model." + fact;
}
constexpr const char * option_prefix = "livekv.option.";
inline std::string option(const std::string & flag) {
    return option_prefix + flag.substr(flag.find_first_not_of('-'));
}
// Sets the table's options from a file of this version: one that came later means what it was then (option_table::
// since). Throws livekv::error for a value it cannot have, one that is missing, and options this livekv does not have,
// unless they are off.
void read_options(const option_table & table, const gguf_file & file, int version);

inline std::string blk(int64_t il, const std::string & part) {
    return "blk." + std::to_string(il) + "." + part;
}

// The file's first bytes: header (magic, version, two counts), then the checksum's length, name, type and value.
constexpr size_t first_key = 4 + 4 + 8 + 8;
inline size_t checksum_at() {
    return first_key + 8 + std::string(checksum).size() + 4;
}

}  // namespace livekv::kv_names
