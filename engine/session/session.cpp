#include "session/session.h"

#include <algorithm>
#include <new>

#include "error.h"
#include "policy/kv_policies.h"
#include "policy/saved_options.h"
#include "run/chunked_cache.h"
#include "without_bad_alloc.h"

namespace livekv {

session::session(std::shared_ptr<engine> e, const session_params & params) try
    : session(e, params, e->make_cache(params.kv, params.n_ctx)) {
} catch (const std::bad_alloc &) {
    fail("not enough memory for a session");
}

session::session(std::shared_ptr<const model> m, const session_params & params) try
    : session(std::make_shared<engine>(std::move(m), params.n_threads), params) {
} catch (const std::bad_alloc &) {
    fail("not enough memory for a session");
}

session::session(std::shared_ptr<engine> e, const session_params & params, std::unique_ptr<kv_cache> cache)
    : engine_(std::move(e)), params_(params), cache_(std::move(cache)) {
    params_.n_threads = engine_->n_threads();
}

session::~session() {
    cache_.reset();
    engine_->forget_unused();
}

std::unique_ptr<session> session::fork() const {
    return without_bad_alloc("another sequence", [&] {
        std::unique_ptr<session> copy(new session(engine_, params_, cache_->fork()));
        copy->tokens_ = tokens_;
        copy->last_logits_ = last_logits_;
        return copy;
    });
}

int64_t session::exact_trim(int64_t n) const {
    LIVEKV_ASSERT(n >= 0 && n <= n_tokens());
    return cache_->exact_trim(n);
}

void session::trim(int64_t n) {
    const int64_t exact = exact_trim(n);
    if (const kv_finch_context * context = cache_->condensed(); context && n > 0 && n < context->n_tokens) {
        fail("of a context that was read for a question (policy finch) a trim forgets all ", context->n_tokens,
             " tokens or none; ", n, " is within it");
    }
    if (exact < n) {  // on a copy, which takes this one's place when it is whole
        const std::unique_ptr<session> copy = fork();
        copy->trim(exact);
        copy->compute(
            std::span<const int32_t>(tokens_).subspan(static_cast<size_t>(exact), static_cast<size_t>(n - exact)),
            n_tokens());
        cache_ = std::move(copy->cache_);
    } else {
        cache_->trim(n);
        engine_->forget_unused();
    }
    tokens_.resize(static_cast<size_t>(n));
    last_logits_.clear();
}

void session::compute(std::span<const int32_t> tokens, int64_t n_prompt) {
    for (size_t done = 0; done < tokens.size();) {
        const size_t n = static_cast<size_t>(pass_size(static_cast<int64_t>(tokens.size() - done)));
        pass(tokens.subspan(done, n), 0, n_prompt, /*end_of_prompt=*/false);
        done += n;
    }
}

void session::adopt(std::unique_ptr<kv_cache> cache, std::vector<int32_t> tokens) {
    LIVEKV_ASSERT(cache->n_tokens() == static_cast<int64_t>(tokens.size()));
    cache_ = std::move(cache);
    tokens_ = std::move(tokens);
    last_logits_.clear();
}

int64_t session::pass_size(int64_t n) const {
    return std::min({n, params_.kv.chunk_tokens(), cache_->max_new()});
}

void session::require_room(size_t n_new) const {
    if (n_new == 0) {
        fail("nothing to process: there are no tokens");
    }
    const int64_t total = n_tokens() + static_cast<int64_t>(n_new);
    if (total > n_ctx()) {
        throw context_error("the context holds " + std::to_string(n_ctx()) + " tokens, " + std::to_string(total) +
                            " are needed; use a longer one");
    }
}

token_run session::leaving_for(int64_t n_new, int64_t n_keep) const {
    const int64_t n_lacking = n_tokens() + n_new - n_ctx();
    LIVEKV_ASSERT(n_lacking > 0 && n_keep > 0);
    const token_run half = cache_->shiftable(n_keep, std::max(n_lacking, (n_tokens() - n_keep) / 2));
    return half.n > 0 ? half : cache_->shiftable(n_keep, n_lacking);
}

bool session::has_room(int64_t n_new, int64_t n_keep) const {
    return n_tokens() + n_new <= n_ctx() || (n_keep > 0 && leaving_for(n_new, n_keep).n > 0);
}

int64_t session::make_room(int64_t n_new, int64_t n_keep) {
    return n_tokens() + n_new <= n_ctx() ? 0 : shift(leaving_for(n_new, n_keep));
}

int64_t session::forget(int64_t n_keep, int64_t n_wanted) {
    if (n_keep < 1 || n_wanted < 1) {
        fail("of a sequence at least the first token stays, and at least one leaves, not ", n_keep, " and ", n_wanted);
    }
    return shift(cache_->shiftable(n_keep, n_wanted));
}

int64_t session::shift(const token_run & leaving) {
    if (leaving.n > 0) {
        without_bad_alloc("a shift of the context", [&] { cache_->shift(leaving); });
        tokens_.erase(tokens_.begin() + leaving.first, tokens_.begin() + leaving.end());
        n_forgotten_ += leaving.n;
        engine_->forget_unused();
    }
    return leaving.n;
}

void session::pass(engine & e, std::span<const share> shares) {
    const size_t n_vocab = static_cast<size_t>(e.get_model()->hp.n_vocab);
    std::vector<batch_item> items;
    try {
        for (const share & x : shares) {
            session & s = *x.who;
            LIVEKV_ASSERT(s.engine_.get() == &e);
            s.tokens_.insert(s.tokens_.end(), x.tokens.begin(), x.tokens.end());
            s.logits_.resize(static_cast<size_t>(x.n_outputs) * n_vocab);
            s.last_logits_.reserve(n_vocab);
            items.push_back({s.cache_.get(), x.tokens, x.origin, x.end_of_prompt, x.n_outputs, s.logits_.data(),
                             x.n_prompt, x.question});
        }
        e.step(items);
    } catch (...) {
        for (const share & x : shares) {
            x.who->tokens_.resize(static_cast<size_t>(x.who->n_tokens()));
        }
        without_bad_alloc("a pass", [] { throw; });
    }
    for (const share & x : shares) {
        const std::span<const float> last = std::span<const float>(x.who->logits_).last(x.n_outputs > 0 ? n_vocab : 0);
        x.who->last_logits_.assign(last.begin(), last.end());
        x.who->remember();
    }
}

std::span<const float> session::pass(std::span<const int32_t> tokens, int64_t n_outputs, int64_t n_prompt,
                                     bool end_of_prompt) {
    const token_origin origin = n_prompt > 0 ? token_origin::prompt : token_origin::generated;
    const share alone = {this, tokens, n_outputs, origin, end_of_prompt, n_prompt};
    pass(*engine_, {&alone, 1});
    return logits_;
}

void session::remember() noexcept {
    if (engine_->remembers() && cache_->max_new() == params_.kv.chunk_tokens()) {  // a chunk ended here
        engine_->remember(*cache_, tokens_);
    }
}

size_t session::reuse(std::span<const int32_t> tokens) {
    n_reused_ = 0;
    if (engine_->remembers() && n_tokens() == 0) {
        without_bad_alloc("the beginning of the prompt", [&] {
            if (auto known = engine_->known_beginning(params_.kv, n_ctx(), tokens)) {
                const int64_t n = known->n_tokens();
                adopt(std::move(known), {tokens.begin(), tokens.begin() + n});
                n_reused_ = n;
            }
        });
    }
    return static_cast<size_t>(n_reused_);
}

void session::require_tokens(std::span<const int32_t> tokens) const {
    require_room(tokens.size());
    engine_->require_ids(tokens);
}

void session::drop_pass_logits() noexcept {
    if (logits_.size() > static_cast<size_t>(get_model().hp.n_vocab)) {  // one row is needed again
        logits_ = std::vector<float>();                                  // = {} would keep the memory
    }
}

std::span<const float> session::append(int32_t token) {
    require_room(1);
    return pass({&token, 1}, 1, 0, /*end_of_prompt=*/false);
}

int64_t session::room_for_draft() const {
    return std::min({params_.kv.chunk_tokens(), cache_->max_drafted(), n_ctx() - n_tokens()});
}

std::span<const float> session::append_drafted(std::span<const int32_t> tokens) {
    require_tokens(tokens);
    const auto n = static_cast<int64_t>(tokens.size());
    LIVEKV_ASSERT(n <= room_for_draft());
    return pass(tokens, n, 0, /*end_of_prompt=*/false);
}

void session::keep_drafted(int64_t n) {
    const auto n_vocab = static_cast<size_t>(get_model().hp.n_vocab);
    const auto n_given = static_cast<int64_t>(logits_.size() / n_vocab);
    LIVEKV_ASSERT(n >= 1 && n <= n_given);
    const int64_t left = n_tokens() - n_given + n;
    LIVEKV_ASSERT(exact_trim(left) == left);
    cache_->trim(left);
    tokens_.resize(static_cast<size_t>(left));
    const std::span<const float> last =
        std::span<const float>(logits_).subspan(static_cast<size_t>(n - 1) * n_vocab, n_vocab);
    last_logits_.assign(last.begin(), last.end());
}

std::span<const float> session::prefill(std::span<const int32_t> tokens, const progress & on_chunk) {
    require_tokens(tokens);
    std::span<const float> logits;
    const int64_t n_prompt = n_tokens() + static_cast<int64_t>(tokens.size());
    for (size_t done = reuse(tokens); done < tokens.size();) {
        const size_t n = static_cast<size_t>(pass_size(static_cast<int64_t>(tokens.size() - done)));
        const bool last = done + n == tokens.size();
        logits = pass(tokens.subspan(done, n), last ? 1 : 0, n_prompt, last);
        done += n;
        if (on_chunk && !on_chunk(static_cast<int64_t>(done))) {
            return {};
        }
    }
    return logits;
}

std::span<const float> session::prefill(std::span<const int32_t> context, std::span<const int32_t> question,
                                        const progress & on_chunk) {
    if (!cache_->condensed()) {
        fail("a question is for a cache of policy finch, not ", params_.kv.policy);
    }
    if (n_tokens() > 0) {
        fail("a context that is read for a question comes first, not behind ", n_tokens(), " tokens");
    }
    if (context.empty() || question.empty()) {
        fail("there are no tokens of the ", context.empty() ? "context" : "question");
    }
    const auto n_context = static_cast<int64_t>(context.size());
    require_room(context.size() + question.size());
    engine_->require_ids(context);
    engine_->require_ids(question);
    params_.kv.require_room_for(n_context, static_cast<int64_t>(question.size()));
    for (int64_t done = 0; done < n_context;) {
        const int64_t n = pass_size(n_context - done);
        const share chunk = {this,
                             context.subspan(static_cast<size_t>(done), static_cast<size_t>(n)),
                             0,
                             token_origin::prompt,
                             /*end_of_prompt=*/false,
                             n_context,
                             question};
        pass(*engine_, {&chunk, 1});
        done += n;
        if (on_chunk && !on_chunk(done)) {
            return {};
        }
    }
    return prefill(question, [&](int64_t n_done) { return !on_chunk || on_chunk(n_context + n_done); });
}

session::eval_rows session::eval_pass(std::span<const int32_t> tokens, int64_t n_done, int64_t first_wanted) {
    const int64_t total = static_cast<int64_t>(tokens.size());
    LIVEKV_ASSERT(n_done >= 0 && n_done < total);
    require_room(tokens.size() - static_cast<size_t>(n_done));
    int64_t n = pass_size(total - n_done);
    int64_t n_prompt = n_tokens() - n_done + total;
    int64_t end = total;
    if (cache_->judges_prompt() && first_wanted + 1 < total) {  // what is wanted follows the prompt
        end = first_wanted;
        n = n_done < end ? std::min(n, end - n_done) : n;
        n_prompt = n_done < end ? n_prompt - total + end : 0;
    }
    eval_rows r;
    r.n_done = n_done + n;
    r.n_rows = std::clamp<int64_t>(r.n_done - first_wanted, 0, n);
    r.first = r.n_done - r.n_rows;
    r.logits =
        pass(tokens.subspan(static_cast<size_t>(n_done), static_cast<size_t>(n)), r.n_rows, n_prompt, r.n_done == end);
    return r;
}

void session::eval(std::span<const int32_t> tokens, int64_t first_wanted, const logits_sink & sink,
                   const progress & on_chunk) {
    require_tokens(tokens);
    bool goes_on = true;
    for (int64_t done = 0; goes_on && done < static_cast<int64_t>(tokens.size());) {
        const eval_rows r = eval_pass(tokens, done, first_wanted);
        if (r.n_rows > 0) {
            sink(r.first, r.n_rows, r.logits);
        }
        done = r.n_done;
        goes_on = !on_chunk || on_chunk(done);
    }
    drop_pass_logits();
}

std::optional<double> session::kv_bits_per_value() const {
    const hparams & hp = get_model().hp;
    if (n_tokens() == 0) {
        return std::nullopt;
    }
    const double n_values = static_cast<double>(hp.kv_values_per_token() * n_tokens());
    return 8.0 * static_cast<double>(cache_->bytes()) / n_values;
}

}  // namespace livekv
