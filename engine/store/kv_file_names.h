#pragma once

// What is called how in a saved sequence (kv_file.h).
//
// Metadata  livekv.checksum       u64, the first key: XXH64 of the file with these eight bytes 0
//           general.architecture  "livekv-cache"
//           livekv.file_version   u32: raised when a reader of the one before would go wrong
//           livekv.block_version  u32: kv_block_version
//           livekv.model.*        strings: model_facts
//           livekv.option.*       strings: options as on the command line, without the dashes
//           livekv.tokens         i32 [n_tokens]
// Tensors   logits                f32 [n_vocab], of the last token
//           blk.N.chunks          i32 [7, n_chunks]: tokens stored, of them what a trim left, keys sealed, values
//                                 sealed (0 or 1), tokens that are sinks, state known, read in one pass (0 or 1)
//                                 -1 for keys and values sealed: given back behind the layer's window, so without pages
//                                 and sinks
//           blk.N.k, .v           i8: the chunks one after the other, blocks [n_head_kv] or f16 rows
//           blk.N.states          f32 [state_floats, n]: after the chunks whose state is known; f16 where widths of
//                                 channels follow queries
//           blk.N.sinks.k, .v     f16 [head_dim * n_head_kv, n_sinks]
//           blk.N.tail.q          i8 [head_dim * n_head_kv, n_tail], where widths of channels follow queries: root mean
//                                 squares (query_squares::pack), with key-feedback one head's query (query_means::pack)
//           blk.N.tail.w          f32 [n_tail], of policy guided: weights on the guide, 0 to 1; -1: generated text;
//                                 with propagate layers also what tail_weights.h has for tokens not in the layer
//           blk.N.tail.k, .v      f16 [head_dim * n_head_kv, n_tail]; n_tail is what chunks leave of the tokens, less
//                                 those that are not in the layer
// What would be empty is absent.
//
// A piece of a sequence is the same with general.architecture "livekv-chunks" and
//           livekv.before         i32 [n_before]: the tokens that its own go on behind; absent: none
// so that nobody takes it for a whole one.
//
// Version 6 had no option guide.
//
// Version 5 had no policies guided and kivi, none of their options, and no blocks of versions 4, 5 and 6.
//
// Version 4 had f32 states everywhere, which are rounded where f16 is kept now, no options only-layer and key-feedback,
// no policy kvstream, none of its options, and no blocks of version 3. Version 3 had no options key-alloc and
// key-quarters, and so neither blocks of version 2 nor tail.q.
//
// Version 2 had, in the place of the states after every chunk, the newest alone:
//           chunks                i32 [2, n_chunks]: the first two numbers, the same for all layers
//           blk.N.chunks          i32 [3, n_chunks]: the next three
//           blk.N.statistics      f32 [3 * head_dim, n_head_kv]: largest values, smallest, and a bound
//           blk.N.statistics.n    i32 [n_head_kv]: chunks they had seen

#include <cstdint>
#include <string>

namespace livekv::kv_names {

constexpr uint32_t file_version = 7;
constexpr uint32_t oldest_version = 2;  // 1 lacked the vocabulary among the model's facts
constexpr uint32_t f16_states_version = 5;
constexpr int32_t given_back = -1;  // in the place of keys sealed and values sealed
constexpr const char * architecture_name = "livekv-cache";
constexpr const char * piece_architecture_name = "livekv-chunks";

constexpr const char * checksum = "livekv.checksum";
constexpr const char * architecture = "general.architecture";
constexpr const char * version = "livekv.file_version";
constexpr const char * block_version = "livekv.block_version";
constexpr const char * option_prefix = "livekv.option.";
constexpr const char * tokens = "livekv.tokens";
constexpr const char * before = "livekv.before";
constexpr const char * chunks = "chunks";
constexpr const char * logits = "logits";

inline std::string model(const std::string & fact) {
    return "livekv.model." + fact;
}
inline std::string blk(int64_t il, const std::string & part) {
    return "blk." + std::to_string(il) + "." + part;
}

// The file's first bytes: header (magic, version, two counts), then the checksum's length, name, type and value.
constexpr size_t first_key = 4 + 4 + 8 + 8;
inline size_t checksum_at() {
    return first_key + 8 + std::string(checksum).size() + 4;
}

}  // namespace livekv::kv_names
