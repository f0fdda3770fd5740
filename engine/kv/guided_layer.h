#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "kv/kv_guided.h"

namespace livekv {

// A side of a chunk of n tokens; H: kv heads, d: head_dim. Tokens that are not stored, or exact, have code 0.
struct guided_side {
    std::vector<uint8_t> codes;  // [H, n, d]
    std::vector<float> low;      // [H, n], of what has a minimum a token; else empty, as scale
    std::vector<float> scale;
    std::map<int32_t, std::vector<float>> level_low;  // by bits, [H, d]: of keys that have a minimum a channel
    std::map<int32_t, std::vector<float>> level_scale;
    std::vector<float> reconstruction;  // [H, n, d], 0 where not stored
};

// A chunk that a layer has decided on: of n tokens that came in.
struct guided_chunk {
    std::vector<int64_t> positions;
    std::vector<float> attention;  // A
    guided_range range;            // what it was normalised by
    guided_scores scores;
    std::vector<int32_t> kept;
    std::vector<uint8_t> bits_assigned;  // 0: not stored, 16: exact
    std::vector<uint8_t> bits;           // small levels joined with wider ones
    guided_side k;
    guided_side v;
};

// A layer's rows of some tokens, keys and queries after RoPE.
struct guided_rows {
    std::span<const float> q;            // [n_head, n, d]
    std::span<const float> k;            // [n_head_kv, n, d]
    std::span<const float> v;            // as k
    std::span<const int64_t> positions;  // [n], ascending
};

// The scalar reference of policy guided: one layer of one prompt, chunk by chunk, in double precision where it attends.
// A chunk's queries attend to what earlier chunks are stored as, and to its own keys as they are; a guide at the
// prompt's end to all keys as they are.
class guided_layer {
  public:
    struct shape {
        int64_t n_head = 0;
        int64_t n_head_kv = 0;
        int64_t head_dim = 0;
    };
    guided_layer(const guided_method & method, const guided_place & place, const shape & of);

    // The prompt's next tokens. n_chunk: how many the chunk had before earlier layers dropped any. Returns the chunks
    // that are decided now: this one, or with a guide at the end all of them once the last token is here.
    std::vector<guided_chunk> add(const guided_rows & rows, int64_t n_chunk);

  private:
    struct waiting {
        std::vector<int64_t> positions;
        std::vector<float> k;
        std::vector<float> v;
        int64_t n_chunk;
    };

    // Weights of query q [d] over keys [n, d], as far as `sees`: the softmax.
    template <typename F>
    std::vector<double> weights(const float * q, const std::vector<const float *> & keys, F sees) const;
    std::vector<float> given_to_guide(const guided_rows & rows) const;
    void take_from_guide(const guided_rows & rows);
    guided_chunk decide(const waiting & chunk, std::vector<float> attention) const;

    guided_method method_;
    guided_place place_;
    shape of_;
    guided_range range_;
    std::vector<int64_t> stored_positions_;
    std::vector<std::vector<float>> stored_keys_;  // [n_head_kv] of [stored, d]
    std::vector<waiting> waiting_;                 // for a guide at the end
    std::vector<std::vector<float>> exact_keys_;   // [n_head_kv], as far as that comes
    std::vector<double> taken_;                    // A of every token so far
    std::vector<int64_t> all_positions_;
};

}  // namespace livekv
