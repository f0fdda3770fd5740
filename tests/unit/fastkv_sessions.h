#pragma once

// Sessions of policy fastkv in a small model of four layers.

#include "check.h"
#include "run/chunked_cache.h"
#include "tiny_sequences.h"

namespace fastkv_sessions {

using namespace livekv;
using namespace tiny_sequences;

inline session_params fastkv_params(int64_t chunk_size, double retain_rate = 0.2, double tsp_rate = 0.4) {
    session_params p = params_of("fastkv", chunk_size);
    p.n_ctx = 400;
    p.kv.retain_rate = retain_rate;
    p.kv.tsp_rate = tsp_rate;
    return p;
}

inline std::shared_ptr<const model> four_layers() {
    tiny_spec spec;
    spec.n_layer = 4;
    spec.edit_values = [](const std::string & name, std::vector<float> & values) {
        if (name.find("attn_q.") != std::string::npos || name.find("attn_k.") != std::string::npos) {
            for (float & x : values) {  // some tokens are looked at more than others
                x *= 2.0f;
            }
        }
    };
    return tiny_model(spec);
}

// What the layers hold, as bytes.
inline std::vector<uint8_t> held(const session & s) {
    std::vector<uint8_t> all;
    for (const kv_layer & layer : dynamic_cast<const chunked_cache &>(s.cache()).layers()) {
        CHECK_EQ(layer.n_tokens(), s.n_tokens());
        for (const kv_chunk & c : layer.chunks) {
            for (const kv_chunk_side * side : {&c.k, &c.v}) {
                all.insert(all.end(), side->bytes->data(), side->bytes->data() + side->bytes->bytes());
            }
        }
    }
    return all;
}

}  // namespace fastkv_sessions
