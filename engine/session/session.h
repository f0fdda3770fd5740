#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "error.h"
#include "store/kv_file.h"

namespace livekv {

struct session_params {
    int64_t n_ctx = 4096;  // the most tokens the sequence may have
    int32_t n_threads = 1;
    kv_options kv;  // with the number of tokens prefilled together
};

// More tokens are to be appended than the context has room for.
class context_error : public error {
  public:
    using error::error;
};

// One sequence of tokens on one model: a thin front over a cache of an engine, which sessions may share. One thread at
// a time.
class session {
  public:
    // Throws livekv::error when the cache does not fit into memory or the policy cannot store this model.
    session(std::shared_ptr<engine> e, const session_params & params);

    // With an engine of its own.
    session(std::shared_ptr<const model> m, const session_params & params);
    session(session &&) = delete;
    ~session();

    // Called after each chunk with the number of tokens of this call done so far; false stops the prefill there.
    using progress = std::function<bool(int64_t n_done)>;

    // Appends tokens, chunk by chunk, and returns the last one's logits, f32 [n_vocab], valid until the next call;
    // empty when progress said to stop. Throws livekv::error when they do not fit into the context (checked before
    // the first is processed) or an id is not in the vocabulary; then nothing has changed.
    std::span<const float> prefill(std::span<const int32_t> tokens, const progress & on_chunk = {});

    // The same of an empty session of policy finch: a context, of which it keeps what the question looks at, and the
    // question, whose last token's logits these are. Throws kv_option_error too, where nothing would be kept.
    std::span<const float> prefill(std::span<const int32_t> context, std::span<const int32_t> question,
                                   const progress & on_chunk = {});

    // Tokens of the last prefill that were not computed: the engine knew them as the beginning of another prompt.
    int64_t n_reused() const { return n_reused_; }

    // Appends a token that was generated from the logits, and returns its own.
    std::span<const float> append(int32_t token);

    // Appends a generated token and a draft of those behind it, room_for_draft() in all at most, in one pass: the
    // logits of each, f32 [n, n_vocab], as append would give them (kv_cache::max_drafted). Valid until keep_drafted.
    std::span<const float> append_drafted(std::span<const int32_t> tokens);
    int64_t room_for_draft() const;

    // Of the tokens just appended so, forgets all but the first n, at least one.
    void keep_drafted(int64_t n);

    // Called with the logits of consecutive tokens, f32 [n_rows, n_vocab]; first: index of row 0 in this call's tokens.
    using logits_sink = std::function<void(int64_t first, int64_t n_rows, std::span<const float> logits)>;

    // Appends tokens, chunk by chunk, and hands out the logits of all of them from index first_wanted on. on_chunk: as
    // for prefill. Throws livekv::error as prefill does.
    void eval(std::span<const int32_t> tokens, int64_t first_wanted, const logits_sink & sink,
              const progress & on_chunk = {});

    // What a pass of eval gave.
    struct eval_rows {
        int64_t n_done = 0;             // tokens processed, with those of earlier passes
        int64_t first = 0;              // index of row 0 in the tokens
        int64_t n_rows = 0;             // 0: none of the pass's tokens was wanted
        std::span<const float> logits;  // f32 [n_rows, n_vocab], valid until the next call
    };

    // One pass of eval, for two sessions in turns: tokens as a whole, n_done of which earlier passes have processed.
    eval_rows eval_pass(std::span<const int32_t> tokens, int64_t n_done, int64_t first_wanted);

    // A session's share of a pass that several of one engine may make together.
    struct share {
        session * who = nullptr;
        std::span<const int32_t> tokens;  // that come next, pass_size() of what is left
        int64_t n_outputs = 0;            // its last tokens whose logits are wanted
        token_origin origin = token_origin::prompt;
        bool end_of_prompt = false;  // the sequence's next tokens will be generated
        int64_t n_prompt = 0;        // of a prompt: tokens of the sequence once it is complete; 0: these are the last
        std::span<const int32_t> question = {};  // as batch_item's
    };

    // One pass of the model for sessions of engine e, each listed once. Throws livekv::error; then every session is
    // what it was before, last logits included.
    static void pass(engine & e, std::span<const share> shares);

    // Of the wanted tokens of the last pass, f32 [n_outputs, n_vocab], valid until the next one, or until they are
    // dropped: what many rows take is given back.
    std::span<const float> pass_logits() const { return logits_; }
    void drop_pass_logits() noexcept;

    // Tokens of the next pass, of n that are left.
    int64_t pass_size(int64_t n) const;

    // Of an empty session: starts as the engine knows these tokens' beginning, all but the last of them at most. How
    // many of them the session then holds.
    size_t reuse(std::span<const int32_t> tokens);

    // The most tokens, n at most, to which trim forgets without computing anything again. Asserts n <= n_tokens().
    int64_t exact_trim(int64_t n) const;

    // Throws livekv::error when n_new tokens are none, or do not fit into the context.
    void require_room(size_t n_new) const;

    // Context shift: forgets the oldest tokens behind the first n_keep (at least 1), n_wanted of them or as many more
    // as make whole chunks, and moves what is behind them to their positions. What is left has seen what is forgotten.
    // How many left; 0 where there are not as many. Throws livekv::error for a cache whose keys cannot be moved, and
    // when there is too little memory; then nothing has changed.
    int64_t forget(int64_t n_keep, int64_t n_wanted);

    // The same where n_new more tokens do not fit: half of what is there leaves, or as many as have to.
    int64_t make_room(int64_t n_new, int64_t n_keep);
    // Whether n_new more tokens fit, if need be so.
    bool has_room(int64_t n_new, int64_t n_keep) const;
    // Tokens that have left so.
    int64_t n_forgotten() const { return n_forgotten_; }

    // As require_room for these, and when one is not in the vocabulary.
    void require_tokens(std::span<const int32_t> tokens) const;

    int64_t n_tokens() const { return cache_->n_tokens(); }

    // The sequence, n_tokens() of them.
    std::span<const int32_t> tokens() const { return tokens_; }

    // Of the sequence's last token, f32 [n_vocab], valid until the next call; empty when they are not known: after
    // trim and reset, and after a pass that did not ask for them.
    std::span<const float> last_logits() const { return last_logits_; }

    int64_t n_ctx() const { return params_.n_ctx; }
    const session_params & params() const { return params_; }
    const model & get_model() const { return *engine_->get_model(); }
    const std::shared_ptr<engine> & get_engine() const { return engine_; }
    const kv_cache & cache() const { return *cache_; }

    // Forgets all but the first n_tokens tokens: what is left is what a session that stopped there would hold, having
    // read them in the same passes; in longer or shorter ones their last digits may be others. Where that cannot be had
    // by forgetting (inside a sealed chunk), up to a chunk, and within the warm-up all of its chunks, are computed
    // again. Of policy guided, whose chunks depend on the prompt's length, it is what a session would hold that was
    // told of as many tokens as this one has, and stopped there. A context of policy finch is forgotten as a whole
    // only. Throws livekv::error; then nothing has changed.
    void trim(int64_t n_tokens);
    void reset() { trim(0); }

    // Takes this cache, of this session's engine, and its tokens in the place of what is held.
    void adopt(std::unique_ptr<kv_cache> cache, std::vector<int32_t> tokens);

    // Another session on the same model that starts with this one's tokens and last logits.
    std::unique_ptr<session> fork() const;

    // Writes the sequence to a file that load restores, last logits included; path is complete or untouched. Throws
    // livekv::error when the policy cannot be saved, nothing is in the cache, or the file cannot be written.
    void save(const std::string & path) const;

    // Makes this empty session the saved one, which goes on bit for bit as that would have. The file's cache options
    // replace this session's; its context and threads stay. Throws livekv::error when the file is none of ours,
    // damaged, of another model or version, or longer than the context; then nothing has changed.
    void load(const kv_file & file);
    void load(const std::string & path);

    // 8 * cache bytes / values stored, for the tokens now in the cache; none when it is empty.
    std::optional<double> kv_bits_per_value() const;

  private:
    session(std::shared_ptr<engine> e, const session_params & params, std::unique_ptr<kv_cache> cache);

    // Tells the engine of a chunk that was read.
    void remember() noexcept;
    // Appends tokens for the cache alone, as the part of a prompt of n_prompt.
    void compute(std::span<const int32_t> tokens, int64_t n_prompt);
    // Forgets these tokens: kv_cache::shift.
    int64_t shift(const token_run & leaving);
    // What leaves for n_new more tokens.
    token_run leaving_for(int64_t n_new, int64_t n_keep) const;
    // A pass with this sequence alone: logits of the last n_outputs tokens. n_prompt: of a prompt, as share's; 0: the
    // tokens are generated.
    std::span<const float> pass(std::span<const int32_t> tokens, int64_t n_outputs, int64_t n_prompt,
                                bool end_of_prompt);

    std::shared_ptr<engine> engine_;
    session_params params_;
    std::unique_ptr<kv_cache> cache_;
    std::vector<int32_t> tokens_;     // [n_tokens()]
    std::vector<float> logits_;       // [n_outputs, n_vocab] of the last pass
    std::vector<float> last_logits_;  // [n_vocab], or none
    int64_t n_reused_ = 0;
    int64_t n_forgotten_ = 0;
};

// The cache options of a saved sequence. Throws livekv::error, with the file's name, when they are not ones this livekv
// has.
kv_options saved_options(const kv_file & file);

}  // namespace livekv
