#pragma once

// Sessions of policy finch in a small model of three layers.

#include "check.h"
#include "run/chunked_cache.h"
#include "tiny_sequences.h"

namespace finch_sessions {

using namespace livekv;
using namespace tiny_sequences;

inline session_params finch_params(int64_t chunk_size, int64_t target_tokens, bool normalize = true) {
    session_params p = params_of("finch", chunk_size);
    p.n_ctx = 400;
    p.kv.target_tokens = target_tokens;
    p.kv.normalize = normalize;
    return p;
}

// sharpness: of queries and keys; 0: every token is looked at alike.
inline std::shared_ptr<const model> three_layers(float sharpness = 2.0f, const std::string & arch = "llama") {
    tiny_spec spec;
    spec.arch = arch;
    spec.n_layer = 3;
    spec.edit_values = [=](const std::string & name, std::vector<float> & values) {
        if (name.find("attn_q.") != std::string::npos || name.find("attn_k.") != std::string::npos) {
            for (float & x : values) {
                x *= sharpness;
            }
        }
    };
    return tiny_model(spec);
}

inline std::vector<float> asked(session & s, const std::vector<int32_t> & context,
                                const std::vector<int32_t> & question) {
    const auto logits = s.prefill(context, question);
    return {logits.begin(), logits.end()};
}

inline std::vector<float> appended(session & s, int32_t token) {
    const auto logits = s.append(token);
    return {logits.begin(), logits.end()};
}

inline const std::vector<kv_layer> & layers_of(const session & s) {
    return dynamic_cast<const chunked_cache &>(s.cache()).layers();
}

// What the layers' chunks hold, as bytes.
inline std::vector<uint8_t> held(const session & s) {
    std::vector<uint8_t> all;
    for (const kv_layer & layer : layers_of(s)) {
        CHECK_EQ(layer.n_tokens(), s.n_tokens());
        for (const kv_chunk & c : layer.chunks) {
            for (const kv_chunk_side * side : {&c.k, &c.v}) {
                all.insert(all.end(), side->bytes->data(), side->bytes->data() + side->bytes->bytes());
            }
        }
    }
    return all;
}

}  // namespace finch_sessions
