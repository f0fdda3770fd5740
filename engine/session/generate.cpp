#include "session/generate.h"

#include <chrono>
#include <cstring>
#include <vector>

namespace livekv {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<int32_t> end_tokens(const tokenizer & vocab) {
    std::vector<int32_t> ids;
    for (int32_t id = 0; id < vocab.n_vocab(); ++id) {
        if (vocab.is_end_of_generation(id)) {
            ids.push_back(id);
        }
    }
    return ids;
}

}  // namespace

const char * stop_reason_name(stop_reason reason) {
    switch (reason) {
        case stop_reason::end_of_text:
            return "end_of_text";
        case stop_reason::n_predict:
            return "n_predict";
        case stop_reason::context_full:
            return "context_full";
        case stop_reason::interrupted:
            return "interrupted";
    }
    return "";
}

uint64_t hash_logits(std::span<const float> logits) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (const float logit : logits) {
        uint32_t bits = 0;
        std::memcpy(&bits, &logit, sizeof(bits));
        for (int byte = 0; byte < 4; ++byte) {
            hash = (hash ^ (bits >> (8 * byte) & 0xff)) * 0x100000001b3u;
        }
    }
    return hash;
}

generate_result generate(session & s, std::span<const int32_t> prompt, const generate_params & params,
                         const generate_callbacks & callbacks) {
    generate_result result;
    const double sealed_before_s = s.cache().report().seal_seconds;
    const auto start = std::chrono::steady_clock::now();
    const int64_t n_before = s.n_tokens();
    const bool resume = prompt.empty() && !s.last_logits().empty();
    std::span<const float> logits = resume ? s.last_logits() : s.prefill(prompt, callbacks.on_prefill);
    result.prefill_s = result.ttft_s = seconds_since(start);
    result.seal_s = s.cache().report().seal_seconds - sealed_before_s;
    result.n_prompt = static_cast<int64_t>(prompt.size());
    if (logits.empty()) {
        result.n_prompt = s.n_tokens() - n_before;
        result.reason = stop_reason::interrupted;
        return result;
    }
    result.logits_hash = hash_logits(logits);
    if (params.n_predict == 0) {
        return result;
    }

    const tokenizer & vocab = s.get_model().vocab;
    const std::vector<int32_t> banned = params.ignore_eos ? end_tokens(vocab) : std::vector<int32_t>();
    sampler pick(params.sampling);
    for (const int32_t token : s.tokens()) {
        pick.observe(token);
    }
    stream_decoder text(vocab);
    const auto emit = [&](const std::string & piece) {
        return piece.empty() || !callbacks.on_text || callbacks.on_text(piece);
    };
    auto first_token = start;
    for (;;) {
        const int32_t token = result.last_token = pick.next(logits, banned);
        if (++result.n_generated == 1) {
            result.ttft_s = seconds_since(start);
            first_token = std::chrono::steady_clock::now();
        } else {
            result.decode_s = seconds_since(first_token);
        }
        if (vocab.is_end_of_generation(token) && !params.ignore_eos) {
            result.reason = stop_reason::end_of_text;
            break;
        }
        if (!emit(text.push(token)) || (callbacks.interrupted && callbacks.interrupted())) {
            result.reason = stop_reason::interrupted;
            break;
        }
        if (result.n_generated == params.n_predict) {
            result.reason = stop_reason::n_predict;
            break;
        }
        if (s.n_tokens() == s.n_ctx()) {
            result.reason = stop_reason::context_full;
            break;
        }
        logits = s.prefill({&token, 1});
        result.logits_hash = hash_logits(logits);
    }
    emit(text.finish());
    return result;
}

}  // namespace livekv
