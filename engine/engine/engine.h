#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "chunks/chunk_store.h"
#include "engine/model.h"
#include "engine/prefix_tree.h"
#include "fork_gate.h"
#include "graph/forward.h"
#include "run/make_cache.h"

namespace livekv {

// One sequence's share of a step.
struct batch_item {
    kv_cache * cache = nullptr;
    std::span<const int32_t> tokens;  // that come next; at most cache->max_new() of them
    token_origin origin = token_origin::prompt;
    bool end_of_prompt = false;  // the sequence's next tokens will be generated
    int64_t n_outputs = 0;       // its last tokens whose logits are wanted
    float * logits = nullptr;    // where they go: f32 [n_outputs, n_vocab]
    int64_t n_prompt = 0;        // pass_part::n_prompt; of a context that comes with a question, that one's tokens
    std::span<const int32_t> question = {};  // read behind the tokens and forgotten (policy finch); no logits are known
};

// What sequences of one model share: devices, their workspace, and the passes in which several advance together. Calls
// from several threads take turns.
class engine {
  public:
    // prefix_cache_bytes: of chunks kept for prompts that begin as one did that was read before (prefix_tree.h). store:
    // where they are kept beyond this process, or null. Throws livekv::error when a device cannot be opened.
    engine(std::shared_ptr<const model> m, int32_t n_threads, size_t prefix_cache_bytes = 0,
           std::shared_ptr<chunk_store> store = nullptr);
    engine(engine &&) = delete;

    // Advances every item's sequence by its tokens, all in one pass of the model. Attention does not depend on who else
    // is in the batch. Logits, and keys and values of upper layers, may differ in the last digits, as ggml's products
    // depend on the number of columns. A prompt that its cache judges (kv_cache::reads_prompt_alone) is alone in its
    // step, and takes a pass over the early layers and, at its end, passes over the others. Throws livekv::error; then
    // every sequence is what it was before.
    void step(std::span<const batch_item> batch);

    // An empty sequence of at most n_ctx tokens. Throws as make_kv_cache.
    std::unique_ptr<kv_cache> make_cache(const kv_options & options, int64_t n_ctx) const;

    // A sequence of at most n_ctx tokens that begins as tokens do, as far as that was read before, and lacks at least
    // the last of them; null when nothing of it was. What the store has of it is read without keeping others waiting.
    std::unique_ptr<kv_cache> known_beginning(const kv_options & options, int64_t n_ctx,
                                              std::span<const int32_t> tokens);
    // Brings what a store's remote has of a text into its folder, without keeping others waiting.
    void fetch(const kv_options & options, int64_t n_ctx, std::span<const int32_t> tokens) const noexcept;
    // Notes what a sequence, whose tokens these are, has read, for the sequences to come; where memory allows.
    void remember(const kv_cache & cache, std::span<const int32_t> tokens) noexcept;
    // A sequence ended or was shortened: what was kept for it may go. Waits for nobody: during a step of another thread
    // it is left to that one.
    void forget_unused() noexcept;
    bool remembers() const { return remembers_ || store_; }
    const std::shared_ptr<chunk_store> & store() const { return store_; }  // null: none
    size_t prefix_idle_bytes() const;                                      // of chunks that no sequence uses
    std::vector<prefix_node> prefix_nodes() const;

    kv_shape shape(int64_t n_ctx) const;
    const std::shared_ptr<const model> & get_model() const { return model_; }
    int32_t n_threads() const { return n_threads_; }

    // What passes compute with, beside weights and caches.
    size_t workspace_bytes() const;

    // Throws livekv::error for an id that is none of the vocabulary's.
    void require_ids(std::span<const int32_t> tokens) const;

  private:
    // inside: while the engine is made.
    engine(const fork_gate::inside &, std::shared_ptr<const model> m, int32_t n_threads, size_t prefix_cache_bytes,
           std::shared_ptr<chunk_store> store);

    class turn;  // a caller's, for the length of a call

    void remember_here(const chunked_cache & cache, std::span<const int32_t> tokens) noexcept;
    void forget_if_free() noexcept;
    void locked_step(std::span<const batch_item> batch);
    void pass(std::span<const batch_item * const> items);
    // A step of a prompt that its cache judges as a whole: a pass over the early layers and, at the prompt's end,
    // passes over the later ones (judged_prompt.cpp).
    void judged_step(const batch_item & item);
    void read_early(const batch_item & item, chunked_cache & cache);
    void read_later(const batch_item & item, chunked_cache & cache);
    // Throws livekv::error for logits that are not finite; first_token: position of the item's first.
    void require_numbers(const batch_item & item, int64_t first_token) const;

    std::shared_ptr<const model> model_;
    int32_t n_threads_;
    backend backend_;
    pass_runner runner_;
    forward forward_;
    bool remembers_;
    prefix_tree prefixes_;
    std::shared_ptr<chunk_store> store_;
    model_facts facts_[2];      // of the model, for the store: with positions as they are, and of long contexts
    mutable std::mutex mutex_;  // of all but what never changes
    std::atomic<bool> has_to_forget_ = false;

    std::vector<int32_t> tokens_;     // [n_rows]
    std::vector<int32_t> positions_;  // [n_rows]
    std::vector<int32_t> outputs_;    // [n_outputs]
};

}  // namespace livekv
