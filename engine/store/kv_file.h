#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "error.h"
#include "model/fingerprint.h"
#include "model/gguf_file.h"
#include "store/kv_layer.h"

namespace livekv {

// What a policy's layer may hold: what a file says is checked against it.
struct kv_layer_format {
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;
    int64_t chunk_size = 0;     // the most tokens of a chunk; the tail has fewer
    int32_t max_sinks = 0;      // of the first chunk
    int64_t window = 0;         // of the layer; 0: nothing is given back
    bool seals = true;          // false: rows only
    size_t state_floats = 0;    // after a chunk
    bool state_is_f16 = false;  // and how they are kept (kv/kv_state.h)
    bool state_has_signs = false;
    bool tail_queries = false;  // kept of the tail's tokens
    bool queries_have_signs = false;
    bool tail_weights = false;   // of a guide, kept of the tail's tokens; chunks are blocks of version 5
    bool tail_lacks = false;     // tokens, as these weights say
    bool keys_by_token = false;  // whose keys have a scale a token, not a channel
    // Of a sealed chunk's blocks; of versions 3 and 5, where sizes follow what was sealed, the least one.
    std::function<kv_block_header(kv_side, int64_t n_tokens)> header;
};

// Options by name, as text: the file carries them and does not know what they mean.
using kv_texts = std::map<std::string, std::string>;

// A sequence's chunks as a file: a GGUF container of the pages as they are, sinks, tails, states, tokens, options, the
// model's fingerprint and the last logits. Names: kv_file_names.h. A sequence restored from it goes on bit for bit as
// the saved one does. Everything in a file is checked before it is used: a file is not trusted.
//
// Writes path, which is complete or untouched, whatever happens. layers: in the host's memory, of as many tokens each;
// logits: of the last token, f32 [n_vocab], or empty when they are not known. Throws livekv::error.
void write_kv_file(const std::string & path, const model_facts & model, const kv_texts & options,
                   std::span<const kv_layer> layers, std::span<const int32_t> tokens, std::span<const float> logits);

// The same of chunks in the middle of a sequence, or at its beginning, which other sequences share: before: the tokens
// in front of theirs. The machine's fall may leave it torn, which its checksum says; nothing waits for the disk.
void write_kv_piece(const std::string & path, const model_facts & model, const kv_texts & options,
                    std::span<const kv_layer> layers, std::span<const int32_t> before, std::span<const int32_t> tokens);

enum class kv_file_kind { sequence, piece };

class kv_file {
  public:
    // Opens and verifies a file. Throws livekv::error when it is none of ours, torn, changed, or of a version or kind
    // that is not the one wanted.
    explicit kv_file(const std::string & path, kv_file_kind kind = kv_file_kind::sequence);

    uint32_t version() const { return version_; }
    const kv_texts & options() const { return options_; }
    const std::vector<int32_t> & before() const { return before_; }  // of a piece
    const std::vector<int32_t> & tokens() const { return tokens_; }

    // Throws livekv::error, naming the difference, when the sequence was made with another model.
    void require_model(const model_facts & model) const;

    // Throws livekv::error when a token is not one of n_vocab, or there are more than n_ctx.
    void require_room(int64_t n_ctx, int64_t n_vocab) const;

    // f32 [n_vocab], or empty when they were not saved.
    std::vector<float> logits(int64_t n_vocab) const;

    // The layers, in the host's memory. Throws livekv::error when something in them is not what the formats, one a
    // layer, allow.
    std::vector<kv_layer> layers(std::span<const kv_layer_format> formats) const;

    // Throws livekv::error with the file's name in front.
    template <typename... Parts>
    [[noreturn]] void refuse(const Parts &... parts) const {
        fail("'", file_.path(), "': ", parts...);
    }

  private:
    // What a chunk's numbers are, of either version.
    struct chunk_facts {
        int32_t n_stored;
        int32_t n_tokens;
        int32_t k_sealed;
        int32_t v_sealed;
        int32_t n_sinks;
        int32_t has_state;
        int32_t from_one_pass;
    };

    void verify_checksum() const;
    std::vector<chunk_facts> chunks_of(int64_t il) const;
    kv_layer read_layer(const kv_layer_format & format, int64_t il) const;
    void read_states(kv_layer & layer, const kv_layer_format & format, const std::vector<chunk_facts> & facts,
                     int64_t il) const;
    // A page from numbers as they lie in the file: f16 or f32.
    std::shared_ptr<page> state_page(const kv_layer_format & format, const uint8_t * from, bool from_f16,
                                     int64_t il) const;
    // Data of a tensor of exactly this type and shape.
    const uint8_t * data(const std::string & name, ggml_type type, const std::vector<int64_t> & shape) const;
    std::vector<uint16_t> rows(const std::string & name, int64_t row, int64_t n) const;
    std::vector<float> weights(const std::string & name, int64_t n, bool lacks) const;

    gguf_file file_;
    uint32_t version_ = 0;
    kv_texts options_;
    std::vector<int32_t> before_;
    std::vector<int32_t> tokens_;
};

}  // namespace livekv
