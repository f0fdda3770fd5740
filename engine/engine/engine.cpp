#include "engine/engine.h"

#include <algorithm>
#include <iterator>

#include "error.h"
#include "finite.h"
#include "without_bad_alloc.h"

namespace livekv {

engine::engine(std::shared_ptr<const model> m, int32_t n_threads, size_t prefix_cache_bytes,
               std::shared_ptr<chunk_store> store) try
    : engine(fork_gate::inside(), std::move(m), n_threads, prefix_cache_bytes, std::move(store)) {
} catch (const std::bad_alloc &) {
    fail("not enough memory for an engine");
}

engine::engine(const fork_gate::inside &, std::shared_ptr<const model> m, int32_t n_threads, size_t prefix_cache_bytes,
               std::shared_ptr<chunk_store> store)
    : model_(std::move(m)),
      n_threads_(n_threads),
      backend_(n_threads, model_->tensors.n_gpu_layers > 0, model_graph_nodes(model_->hp, 1)),
      runner_(shape(0), n_threads),
      forward_(model_->hp, model_->tensors, runner_, backend_),
      remembers_(prefix_cache_bytes > 0),
      prefixes_(prefix_cache_bytes),
      store_(std::move(store)) {
    for (const bool is_long : {false, true}) {
        if (store_) {
            facts_[is_long] = model_->facts(is_long);
        }
    }
}

kv_shape engine::shape(int64_t n_ctx) const {
    kv_shape shape;
    shape.n_ctx = n_ctx;
    shape.is_long = model_->hp.is_long(n_ctx);
    shape.model = [m = model_] { return m->fingerprint(/*is_long=*/false); };
    const hparams & hp = model_->hp;
    for (int64_t il = 0; il < hp.n_layer; ++il) {
        const bool on_gpu = model_->tensors.layers[static_cast<size_t>(il)].on_gpu;
        shape.layers.push_back({hp.n_head(il), hp.n_head_kv(il), hp.head_dim(il), hp.window(il),
                                backend_.caches_on_device(on_gpu), hp.rope(il, shape.is_long)});
    }
    return shape;
}

std::unique_ptr<kv_cache> engine::make_cache(const kv_options & options, int64_t n_ctx) const {
    kv_buffer_types where;
    for (const layer_weights & layer : model_->tensors.layers) {
        where.push_back(backend_.buffer_type(layer.on_gpu));
    }
    return make_kv_cache(options, shape(n_ctx), where);
}

class engine::turn {
  public:
    explicit turn(engine & e) : e_(e), lock_(e.mutex_) {}
    ~turn() {
        lock_.unlock();
        e_.forget_if_free();
    }

  private:
    fork_gate::inside at_work_;
    engine & e_;
    std::unique_lock<std::mutex> lock_;
};

std::unique_ptr<kv_cache> engine::known_beginning(const kv_options & options, int64_t n_ctx,
                                                  std::span<const int32_t> tokens) {
    std::unique_ptr<chunked_cache> known;
    {
        const turn mine(*this);
        known = prefixes_.longest(options, shape(n_ctx), tokens);
    }
    if (store_ && shares_pieces(options)) {
        auto beginning = known ? std::move(known) : std::make_unique<chunked_cache>(options, shape(n_ctx));
        known = store_->longest(facts_[beginning->shape().is_long], *beginning, tokens);
        if (known) {
            remember_here(*known, tokens);
        } else if (beginning->n_tokens() > 0) {
            known = std::move(beginning);
        }
    }
    return known;
}

void engine::fetch(const kv_options & options, int64_t n_ctx, std::span<const int32_t> tokens) const noexcept {
    if (store_) {
        store_->fetch(facts_[model_->hp.is_long(n_ctx)], options, tokens);
    }
}

void engine::remember(const kv_cache & cache, std::span<const int32_t> tokens) noexcept {
    const auto * chunked = dynamic_cast<const chunked_cache *>(&cache);
    if (!chunked) {
        return;
    }
    remember_here(*chunked, tokens);
    if (store_) {
        store_->put(facts_[chunked->shape().is_long], *chunked, tokens);
    }
}

void engine::remember_here(const chunked_cache & cache, std::span<const int32_t> tokens) noexcept {
    const turn mine(*this);
    try {
        prefixes_.add(cache, tokens);
    } catch (const std::bad_alloc &) {  // then the next prompt computes it again
    }
}

void engine::forget_unused() noexcept {
    has_to_forget_ = remembers_;
    forget_if_free();
}

// Whoever has the mutex comes here when he has left it.
void engine::forget_if_free() noexcept {
    while (has_to_forget_) {
        const fork_gate::inside at_work;
        const std::unique_lock lock(mutex_, std::try_to_lock);
        if (!lock) {
            return;
        }
        has_to_forget_ = false;
        prefixes_.shrink();
    }
}

size_t engine::prefix_idle_bytes() const {
    const fork_gate::inside at_work;
    const std::lock_guard lock(mutex_);
    return prefixes_.idle_bytes();
}

std::vector<prefix_node> engine::prefix_nodes() const {
    const fork_gate::inside at_work;
    const std::lock_guard lock(mutex_);
    return prefixes_.nodes();
}

void engine::step(std::span<const batch_item> batch) {
    const turn mine(*this);
    without_bad_alloc("a pass", [&] { locked_step(batch); });
}

void engine::require_ids(std::span<const int32_t> tokens) const {
    for (const int32_t token : tokens) {
        if (token < 0 || token >= model_->hp.n_vocab) {
            fail("token id ", token, " is not in the model's vocabulary of ", model_->hp.n_vocab);
        }
    }
}

void engine::locked_step(std::span<const batch_item> batch) {
    std::vector<const batch_item *> items;
    for (const batch_item & item : batch) {
        LIVEKV_ASSERT(item.cache && !item.tokens.empty() && item.n_outputs >= 0 &&
                      item.n_outputs <= static_cast<int64_t>(item.tokens.size()));
        require_ids(item.tokens);
        require_ids(item.question);
        if (!item.question.empty() && !item.cache->takes_question()) {
            fail("a question comes with a context, at the beginning of a sequence of policy finch");
        }
        if (item.question.empty() && item.origin == token_origin::prompt && item.cache->needs_question()) {
            fail("policy finch reads a context for a question, and there is none");
        }
        if (model_->hp.is_long(item.cache->n_ctx()) != model_->hp.is_long(batch.front().cache->n_ctx())) {
            fail("contexts of up to ", model_->hp.long_beyond,
                 " tokens and longer ones have other positions in this model, and cannot be in one batch");
        }
        const auto same = [&](const batch_item * other) { return other->cache == item.cache; };
        if (std::any_of(items.begin(), items.end(), same)) {
            fail("a sequence is in the batch twice");
        }
        items.push_back(&item);
    }
    for (const batch_item * item : items) {
        if (item->cache->reads_prompt_alone() && item->origin == token_origin::prompt) {
            if (items.size() > 1) {
                fail("a prompt that is judged as a whole (policy fastkv) is read alone, not in a batch of ",
                     items.size());
            }
            return judged_step(*item);
        }
    }
    std::vector<const batch_item *> ordered;
    for (const bool first : {true, false}) {
        std::copy_if(items.begin(), items.end(), std::back_inserter(ordered),
                     [&](const batch_item * item) { return pass_runner::comes_first(*item->cache) == first; });
    }
    pass(ordered);
}

void engine::pass(std::span<const batch_item * const> items) {
    std::vector<pass_part> parts;
    tokens_.clear();
    positions_.clear();
    outputs_.clear();
    for (const batch_item * item : items) {
        auto position = static_cast<int32_t>(item->cache->next_position());
        for (const std::span<const int32_t> text : {item->tokens, item->question}) {
            for (const int32_t token : text) {
                tokens_.push_back(token);
                positions_.push_back(position++);
            }
        }
        const auto n_question = static_cast<int64_t>(item->question.size());
        LIVEKV_ASSERT(n_question == 0 || item->n_outputs == 0);
        parts.push_back({item->cache,
                         static_cast<int64_t>(item->tokens.size()) + n_question,
                         item->origin,
                         item->end_of_prompt,
                         item->n_prompt,
                         item->n_outputs,
                         {},
                         n_question});
    }
    runner_.begin(parts);
    for (size_t i = 0; i < items.size(); ++i) {
        for (int64_t left = items[i]->n_outputs; left > 0; --left) {
            outputs_.push_back(static_cast<int32_t>(runner_.end_of_part(model_->hp.n_layer - 1, i) - left));
        }
    }
    forward_.run({tokens_, {}, positions_, outputs_, model_->hp.is_long(items.front()->cache->n_ctx())});
    runner_.check();  // what it has to say is nearer to the cause than logits are
    int64_t first = 0;
    for (const batch_item * item : items) {
        if (item->n_outputs > 0) {
            forward_.logits(first, item->n_outputs, item->logits);
            require_numbers(*item, item->cache->n_tokens());
            first += item->n_outputs;
        }
    }
    runner_.commit();
}

void engine::require_numbers(const batch_item & item, int64_t first_token) const {
    const int64_t n_vocab = model_->hp.n_vocab;
    const std::span<const float> logits(item.logits, static_cast<size_t>(item.n_outputs * n_vocab));
    if (const auto bad = first_not_finite(logits)) {
        const int64_t at = static_cast<int64_t>(*bad);
        const int64_t first = first_token + static_cast<int64_t>(item.tokens.size()) - item.n_outputs;
        fail("the model's logits are not numbers: that of token ", at % n_vocab, " after position ",
             first + at / n_vocab, " is ", logits[*bad], "; its weights may be damaged");
    }
}

size_t engine::workspace_bytes() const {
    const fork_gate::inside at_work;
    const std::lock_guard lock(mutex_);
    return runner_.workspace_bytes() + backend_.workspace_bytes();
}

}  // namespace livekv
