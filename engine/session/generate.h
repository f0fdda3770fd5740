#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "session/sampler.h"
#include "session/session.h"

namespace livekv {

struct generate_params {
    int64_t n_predict = 128;  // -1: until the model ends the text or the context is full
    bool ignore_eos = false;
    sampler_params sampling;
};

enum class stop_reason { end_of_text, n_predict, context_full, interrupted };

const char * stop_reason_name(stop_reason reason);

struct generate_result {
    int64_t n_prompt = 0;     // tokens prefilled
    int64_t n_generated = 0;  // tokens sampled, an end-of-text token included
    double prefill_s = 0.0;   // from the call to the prompt's last logits
    double seal_s = 0.0;      // of that, in sealing chunks
    double ttft_s = 0.0;      // from the call to the first token
    double decode_s = 0.0;    // from the first token to the last
    stop_reason reason = stop_reason::n_predict;
    int32_t last_token = -1;   // the last one sampled; it is not in the cache
    uint64_t logits_hash = 0;  // of the last logits computed: differs between runs that are not deterministic

    double prefill_tps() const { return prefill_s > 0.0 ? static_cast<double>(n_prompt) / prefill_s : 0.0; }
    double decode_tps() const { return decode_s > 0.0 ? static_cast<double>(n_generated - 1) / decode_s : 0.0; }
};

struct generate_callbacks {
    std::function<bool(int64_t n_done)> on_prefill;  // after each chunk; false interrupts
    std::function<bool(std::string_view)> on_text;   // whole UTF-8 characters; false interrupts
    std::function<bool()> interrupted;               // asked before each token
};

// Prefills prompt into the session after what it holds, then generates until a stop reason. An empty prompt goes on
// from the session's last logits. Throws livekv::error as session::prefill does.
generate_result generate(session & s, std::span<const int32_t> prompt, const generate_params & params,
                         const generate_callbacks & callbacks);

// FNV-1a over the bits of logits.
uint64_t hash_logits(std::span<const float> logits);

}  // namespace livekv
