#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "policy/kv_options.h"
#include "policy/kv_shape.h"
#include "policy/shift.h"
#include "store/kv_dump.h"
#include "store/kv_report.h"

namespace livekv {

// Where the tokens of a pass come from: text that is read, or text that was made from the logits.
enum class token_origin { prompt, generated };

// Consecutive layers, up to the model's last.
struct layer_run {
    int64_t first = 0;
    int64_t end = INT64_MAX;
};

// One sequence's keys and values over all layers. How a pass adds to them: pass_runner.
class kv_cache {
  public:
    virtual ~kv_cache() = default;

    // The most tokens the next pass may bring (a chunk is closed where it ends), at least 1.
    virtual int64_t max_new() const { return INT64_MAX; }

    // Of these, the most that a pass on the CPU computes as it would one by one, to the bit, and that a trim takes back
    // exactly; of caches that ggml reads, up to the last digits.
    virtual int64_t max_drafted() const { return max_new(); }

    virtual int64_t n_tokens() const = 0;
    virtual int64_t n_ctx() const = 0;  // the most tokens the sequence may have

    // Whether a prompt that comes now is judged as a whole when it is complete (policies fastkv, and guided with a
    // guide at the end): what else is wanted follows it.
    virtual bool judges_prompt() const { return false; }
    // Whether it is read alone, too (policy fastkv): no other sequence takes part in its steps, and of its tokens the
    // last one's logits alone are known.
    virtual bool reads_prompt_alone() const { return false; }

    // Of policy finch, what was made of the sequence's beginning, the context, which comes with a question
    // (pass_part::n_question) and is forgotten as a whole or not at all; null: of another policy.
    virtual const kv_finch_context * condensed() const { return nullptr; }
    // Of policy finch: there is nothing yet, so that a prompt has to come with a question; and it still may.
    bool needs_question() const { return condensed() && n_tokens() == 0; }
    bool takes_question() const { return condensed() && n_tokens() == condensed()->n_tokens; }
    // The position of the next token.
    int64_t next_position() const {
        return n_tokens() - (condensed() ? condensed()->n_tokens - condensed()->n_kept : 0);
    }

    // Bytes the cache holds now, from its allocations.
    virtual size_t bytes() const = 0;

    // Forgets all but the first n tokens, n <= n_tokens().
    virtual void trim(int64_t n) noexcept = 0;

    // The most tokens, n at most, to which a trim leaves what a new sequence of those tokens would hold.
    virtual int64_t exact_trim(int64_t n) const { return n; }

    // The tokens that leave by a shift so that at least n_wanted do and the first n_keep, at least 1, stay; n is 0
    // where there are none such. Throws livekv::error for a cache whose keys cannot be moved.
    virtual token_run shiftable(int64_t n_keep, int64_t n_wanted) const = 0;

    // Forgets these tokens, which shiftable named; those behind them move to their positions (a context shift). Throws
    // std::bad_alloc, and then nothing has changed.
    virtual void shift(const token_run & leaving) = 0;

    // A second sequence that starts as this one is. What is sealed is shared, not copied. Throws std::bad_alloc.
    virtual std::unique_ptr<kv_cache> fork() const = 0;

    virtual kv_report report() const = 0;

    // What layer il holds, copied and taken apart to be looked at. Throws livekv::error on too little memory.
    virtual kv_layer_dump dump(int64_t il) const = 0;
};

// One sequence's share of a pass: its n_new next tokens.
struct pass_part {
    kv_cache * cache = nullptr;
    int64_t n_new = 0;
    token_origin origin = token_origin::prompt;
    bool end_of_prompt = false;  // the sequence's next pass will be of generated text
    int64_t n_prompt = 0;        // of a prompt: tokens of the sequence once it is complete; 0: this pass's are the last
    int64_t n_outputs = 0;       // its last tokens whose logits are wanted
    layer_run layers = {};       // that the pass computes; a prompt's of policy fastkv not all at once
    int64_t n_question = 0;      // of n_new, the last ones: a question, which is forgotten (policy finch)
};

}  // namespace livekv
