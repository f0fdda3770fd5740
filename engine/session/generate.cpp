#include "session/generate.h"

#include <chrono>
#include <utility>
#include <vector>

#include "error.h"
#include "xxh64.h"

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

std::optional<double> tokens_per_second(int64_t n, double seconds) {
    return n > 0 && seconds > 0.0 ? std::optional(static_cast<double>(n) / seconds) : std::nullopt;
}

uint64_t hash_of(std::span<const float> logits) {
    xxh64 hash;
    hash.update({reinterpret_cast<const uint8_t *>(logits.data()), logits.size_bytes()});
    return hash.digest();
}

}  // namespace

const char * stop_reason_name(stop_reason reason) {
    switch (reason) {
        case stop_reason::end_of_text:
            return "end_of_text";
        case stop_reason::stop_string:
            return "stop_string";
        case stop_reason::n_predict:
            return "n_predict";
        case stop_reason::context_full:
            return "context_full";
        case stop_reason::interrupted:
            return "interrupted";
    }
    return "";
}

std::optional<double> generate_result::prefill_tps() const {
    return tokens_per_second(n_prompt - n_reused, prefill_s);
}

std::optional<double> generate_result::decode_tps() const {
    return tokens_per_second(n_generated - 1, decode_s);
}

generation::generation(session & s, std::vector<int32_t> prompt, const generate_params & params)
    : session_(s),
      prompt_(std::move(prompt)),
      params_(params),
      pick_(params.sampling),
      decoder_(s.get_model().vocab),
      stops_(params.stop),
      banned_(params.ignore_eos ? end_tokens(s.get_model().vocab) : std::vector<int32_t>()) {
    if (params.n_lookup < 0) {
        fail("n_lookup is ", params.n_lookup, "; it must be 0 or more");
    }
    if (params.n_keep < 0) {
        fail("n_keep is ", params.n_keep, "; it must be 0 or more");
    }
    if (params.n_keep > 0) {
        s.cache().shiftable(params.n_keep, 1);  // a cache that cannot says so now
    }
    if (params.n_lookup > 0) {
        lookup_.emplace(params.n_lookup);
    }
}

void generation::measure_prefill() {
    in_prefill_ = false;
    result_.prefill_s = seconds_since(step_start_);
    result_.seal_s = session_.cache().report().seal_seconds - seal_before_s_;
    result_.n_prompt = session_.n_tokens() - n_before_;
    result_.n_reused = prompt_.empty() ? 0 : session_.n_reused();
}

std::string generation::end(stop_reason reason) {
    return end(reason, session_.last_logits());
}

std::string generation::end(stop_reason reason, std::span<const float> logits) {
    if (in_prefill_) {
        measure_prefill();
    }
    ended_ = true;
    result_.reason = reason;
    if (!logits.empty()) {
        result_.logits_hash = hash_of(logits);
    }
    return stops_.push(decoder_.finish()) + stops_.finish();
}

std::string generation::interrupt() {
    return ended_ ? "" : end(stop_reason::interrupted);
}

token_origin generation::origin() const {
    return result_.n_generated == 0 ? token_origin::prompt : token_origin::generated;
}

void generation::make_room(size_t n_new) {
    if (params_.n_keep > 0) {
        result_.n_forgotten += session_.make_room(static_cast<int64_t>(n_new), params_.n_keep);
    }
}

std::span<const int32_t> generation::begin_step() {
    LIVEKV_ASSERT(!ended_);
    step_start_ = std::chrono::steady_clock::now();
    if (result_.n_generated > 0) {
        make_room(1);
        session_.require_room(1);
        return {&result_.last_token, 1};
    }
    if (!prompt_.empty() || session_.last_logits().empty()) {
        make_room(prompt_.size());
        session_.require_tokens(prompt_);
    }
    in_prefill_ = true;
    n_before_ = session_.n_tokens();
    seal_before_s_ = session_.cache().report().seal_seconds;
    return prompt_;
}

std::string generation::next(const session::progress & on_prefill) {
    const std::span<const int32_t> tokens = begin_step();
    if (origin() == token_origin::generated) {
        if (const std::span<const int32_t> drafted = draft(); !drafted.empty()) {
            return verify(drafted);
        }
        session_.append(tokens.front());
    } else if (!tokens.empty() && prefill(tokens, on_prefill).empty()) {
        return interrupt();
    }
    return end_step();
}

std::span<const float> generation::prefill(std::span<const int32_t> tokens, const session::progress & on_prefill) {
    const auto n_question = static_cast<size_t>(params_.n_question);
    return n_question == 0
               ? session_.prefill(tokens, on_prefill)
               : session_.prefill(tokens.first(tokens.size() - n_question), tokens.last(n_question), on_prefill);
}

// With a token behind them, as many as may still be sampled, and as the chunk has room for.
std::span<const int32_t> generation::draft() {
    if (!lookup_) {
        return {};
    }
    const int64_t n_left = params_.n_predict < 0 ? INT64_MAX : params_.n_predict - result_.n_generated;
    return lookup_->draft(std::min(n_left, session_.room_for_draft()) - 1);
}

std::string generation::verify(std::span<const int32_t> drafted) {
    const auto n_vocab = static_cast<size_t>(session_.get_model().hp.n_vocab);
    const int64_t n_before = session_.n_tokens();
    std::vector<int32_t> tokens = {result_.last_token};
    tokens.insert(tokens.end(), drafted.begin(), drafted.end());
    const auto n_drafted = static_cast<int64_t>(drafted.size());
    const std::span<const float> logits = session_.append_drafted(tokens);
    sampled_.clear();
    std::string text;
    int64_t n = 0;  // tokens that the text has
    bool right = true;
    try {
        while (!ended_ && right) {
            text += sample(logits.subspan(static_cast<size_t>(n) * n_vocab, n_vocab), n_before + n + 1);
            ++n;
            right = n < static_cast<int64_t>(tokens.size()) && result_.last_token == tokens[static_cast<size_t>(n)];
        }
    } catch (...) {  // logits that no token can be sampled from: the session is what it would be without a draft
        session_.keep_drafted(n + 1);
        throw;
    }
    session_.keep_drafted(n);
    const int64_t n_accepted = n - 1 + (right ? 1 : 0);
    lookup_->learn(n_drafted, n_accepted);
    result_.n_drafted += n_drafted;
    result_.n_accepted += n_accepted;
    result_.decode_s += seconds_since(step_start_);
    return text;
}

std::string generation::end_step() {
    const bool first = result_.n_generated == 0;
    sampled_.clear();
    if (first) {
        measure_prefill();
        if (params_.n_predict == 0) {
            return end(stop_reason::n_predict);
        }
        for (const int32_t token : session_.tokens()) {
            pick_.observe(token);
            if (lookup_) {
                lookup_->observe(token);
            }
        }
    }
    const std::string text = sample(session_.last_logits(), session_.n_tokens());
    if (first) {
        result_.ttft_s = seconds_since(step_start_);
    } else {
        result_.decode_s += seconds_since(step_start_);
    }
    return text;
}

std::string generation::sample(std::span<const float> logits, int64_t n_held) {
    // An embedding may have more rows than there are tokens: those have no text.
    const auto n_tokens = static_cast<size_t>(session_.get_model().vocab.n_vocab());
    const int32_t token = result_.last_token = pick_.next(logits.first(n_tokens), banned_);
    ++result_.n_generated;
    sampled_.push_back(token);
    if (lookup_) {
        lookup_->observe(token);
    }
    if (session_.get_model().vocab.is_end_of_generation(token) && !params_.ignore_eos) {
        return end(stop_reason::end_of_text, logits);
    }
    const std::string text = stops_.push(decoder_.push(token));
    if (stops_.found()) {
        return text + end(stop_reason::stop_string, logits);
    }
    if (result_.n_generated == params_.n_predict) {
        return text + end(stop_reason::n_predict, logits);
    }
    if (n_held == session_.n_ctx() && !session_.has_room(1, params_.n_keep)) {
        return text + end(stop_reason::context_full, logits);
    }
    return text;
}

generate_result generate(session & s, std::span<const int32_t> prompt, const generate_params & params,
                         const generate_callbacks & callbacks) {
    generation g(s, {prompt.begin(), prompt.end()}, params);
    const auto emit = [&](const std::string & text) {
        return text.empty() || !callbacks.on_text || callbacks.on_text(text);
    };
    while (!g.ended()) {
        const bool wanted = emit(g.next(callbacks.on_prefill));
        if (!wanted || (callbacks.interrupted && callbacks.interrupted())) {
            emit(g.interrupt());
        }
    }
    return g.result();
}

}  // namespace livekv
