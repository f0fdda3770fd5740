#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "model/fingerprint.h"
#include "model/gguf_file.h"

namespace livekv {

class livekv_layer;

// A sequence's compressed cache as a file: a GGUF container of the chunks as they are, sinks, tail, statistics, tokens,
// cache options, the model's fingerprint and the last logits. Names: kv_file_names.h. A cache restored from it goes on
// bit for bit as the saved one does. Everything in a file is checked before it is used: a file is not trusted.
class livekv_file {
  public:
    // Writes the sequence to path, which is complete or untouched, whatever happens. tokens: those in the cache;
    // logits: of the last one, f32 [n_vocab], or empty when they are not known. Throws livekv::error when the cache is
    // of another policy or empty, or the file cannot be written.
    static void write(const std::string & path, const kv_cache & cache, const model_facts & model,
                      std::span<const int32_t> tokens, std::span<const float> logits);

    // Opens and verifies a file. Throws livekv::error when it is none of ours, torn, changed, or of another version.
    explicit livekv_file(const std::string & path);

    const kv_options & options() const { return options_; }  // measure_error, which shapes nothing, is off
    const std::vector<int32_t> & tokens() const { return tokens_; }

    // Throws livekv::error, naming the difference, when the cache was made with another model.
    void require_model(const model_facts & model) const;

    // f32 [n_vocab], or empty when they were not saved.
    std::vector<float> logits(int64_t n_vocab) const;

    // The saved cache, for the model of require_model. Throws livekv::error when it does not fit into n_ctx or
    // something in it is not what a cache of these options holds.
    std::unique_ptr<kv_cache> restore(const kv_shape & shape, int64_t n_vocab, bool measure_error) const;

  private:
    // Chunks as all layers have them.
    struct chunk_tokens {
        int32_t n_stored;
        int32_t n_tokens;
    };

    template <typename... Parts>
    [[noreturn]] void refuse(const Parts &... parts) const;

    void verify_checksum() const;
    void read_options();
    std::vector<chunk_tokens> chunks(int64_t * n_tail) const;
    void restore_layer(livekv_layer & layer, int64_t il, const std::vector<chunk_tokens> & chunks,
                       int64_t n_tail) const;
    // Data of a tensor of exactly this type and shape, or null when it may be absent and is.
    const uint8_t * data(const std::string & name, ggml_type type, const std::vector<int64_t> & shape) const;
    std::vector<uint16_t> rows(const std::string & name, int64_t row, int64_t n) const;

    gguf_file file_;
    kv_options options_;
    std::vector<int32_t> tokens_;
};

}  // namespace livekv
