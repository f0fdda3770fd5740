#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"
#include "session/prompt_lookup.h"
#include "session/sampler.h"
#include "session/session.h"
#include "session/stop_strings.h"

namespace livekv {

struct generate_params {
    int64_t n_predict = 128;  // -1: until the model ends the text or the context is full
    bool ignore_eos = false;
    sampler_params sampling;
    std::vector<std::string> stop;  // the text ends before the first of these
    int64_t n_lookup = 0;    // most tokens drafted at a time from what the text said before (prompt_lookup.h); 0: none
    int64_t n_keep = 0;      // where the context is full, its oldest tokens but these first ones leave
                             // (session::make_room); 0: the text ends there
    int64_t n_question = 0;  // of the prompt, the last tokens: what the others are read for (policy finch); 0: none
};

enum class stop_reason { end_of_text, stop_string, n_predict, context_full, interrupted };

const char * stop_reason_name(stop_reason reason);

struct generate_result {
    int64_t n_prompt = 0;     // tokens prefilled
    int64_t n_reused = 0;     // of these, not computed: known as another prompt's beginning
    int64_t n_forgotten = 0;  // tokens that left the context for these
    int64_t n_generated = 0;  // tokens sampled, an end-of-text token included
    int64_t n_drafted = 0;    // tokens that passes were given as drafts
    int64_t n_accepted = 0;   // of these, those that were sampled
    double prefill_s = 0.0;   // from the first step's begin to the prompt's last logits, who shares its passes included
    double seal_s = 0.0;      // of that, in sealing chunks
    std::optional<double> ttft_s;  // from there to the first token; none when there is none
    double decode_s = 0.0;         // from the first token to the last, without what the caller did in between
    stop_reason reason = stop_reason::n_predict;
    int32_t last_token = -1;  // the last one sampled; it is not in the cache
    // XXH64 of the last logits computed, taken when the text has ended: differs between runs that are not
    // deterministic. None when the prefill was interrupted.
    std::optional<uint64_t> logits_hash;

    // Tokens per second; none when nothing was prefilled, or fewer than two tokens generated.
    std::optional<double> prefill_tps() const;
    std::optional<double> decode_tps() const;
};

// A text in the making, one token a step, or with n_lookup some where drafts are right: the tokens are those that would
// be sampled one by one (of caches other than the compressed ones, and on a GPU, up to the last digits of logits). The
// session must outlive it, and be left alone until the text has ended.
class generation {
  public:
    // prompt: as for generate. Throws livekv::error for parameters out of their range.
    generation(session & s, std::vector<int32_t> prompt, const generate_params & params);

    // The first step prefills, and every step samples tokens: the text that is certain by then, whole UTF-8
    // characters that are no part of a stop string, often none. Throws livekv::error as session::prefill does.
    std::string next(const session::progress & on_prefill = {});

    // The same in halves and without drafts, so that several may share a pass: the tokens to be appended to the session
    // (none where its last logits are to be gone on from), and, once they are, the text of a token sampled from its
    // last logits. Throws livekv::error when there is nothing to go on from, or no room.
    std::span<const int32_t> begin_step();
    std::string end_step();
    token_origin origin() const;  // of begin_step's tokens

    // Ends the text here, for the reason `interrupted`: what was held back.
    std::string interrupt();

    session & get_session() const { return session_; }

    // Tokens sampled in the last step.
    std::span<const int32_t> sampled() const { return sampled_; }

    bool ended() const { return ended_; }
    const generate_result & result() const { return result_; }

  private:
    void measure_prefill();
    std::span<const float> prefill(std::span<const int32_t> tokens, const session::progress & on_prefill);
    void make_room(size_t n_new);
    std::span<const int32_t> draft();
    std::string verify(std::span<const int32_t> drafted);
    // Samples a token from logits f32 [n_vocab], with n_held tokens in the session that count.
    std::string sample(std::span<const float> logits, int64_t n_held);
    std::string end(stop_reason reason);
    std::string end(stop_reason reason, std::span<const float> logits);

    session & session_;
    std::vector<int32_t> prompt_;
    generate_params params_;
    sampler pick_;
    stream_decoder decoder_;
    stop_strings stops_;
    std::vector<int32_t> banned_;
    std::optional<prompt_lookup> lookup_;
    std::vector<int32_t> sampled_;
    generate_result result_;
    bool ended_ = false;

    std::chrono::steady_clock::time_point step_start_;
    bool in_prefill_ = false;  // of the first step; then these are what was there before it
    int64_t n_before_ = 0;
    double seal_before_s_ = 0.0;
};

struct generate_callbacks {
    session::progress on_prefill;                   // after each chunk; false interrupts
    std::function<bool(std::string_view)> on_text;  // whole UTF-8 characters; false interrupts
    std::function<bool()> interrupted;              // asked before each token
};

// Prefills prompt into the session after what it holds, then generates until a stop reason. An empty prompt goes on
// from the session's last logits. Throws livekv::error as session::prefill does.
generate_result generate(session & s, std::span<const int32_t> prompt, const generate_params & params,
                         const generate_callbacks & callbacks);

}  // namespace livekv
