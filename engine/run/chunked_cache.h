#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "policy/going_on.h"
#include "run/device_step.h"
#include "run/fastkv_prompt.h"
#include "run/guided_prompt.h"
#include "run/kv_cache.h"
#include "run/layer_step.h"

namespace livekv {

// The compressed cache: chunks are sealed as the prompt streams in, attention reads them as they are. Grows with the
// sequence, never for a context in advance.
class chunked_cache : public kv_cache {
  public:
    // Empty. Throws kv_option_error, livekv::error for what cannot be stored, std::bad_alloc.
    chunked_cache(const kv_options & options, const kv_shape & shape);

    // With these layers, in whatever place, which are checked to be of the options.
    chunked_cache(const kv_options & options, const kv_shape & shape, std::vector<kv_layer> layers);

    int64_t max_new() const override;
    int64_t max_drafted() const override;
    int64_t n_tokens() const override { return layers_.front().n_tokens(); }
    int64_t n_ctx() const override { return shape_.n_ctx; }
    bool judges_prompt() const override {
        return reads_prompt_alone() || (guided_prompt_ && !guided_prompt_->is_complete());
    }
    bool reads_prompt_alone() const override { return prompt_ && !prompt_->is_complete(); }
    const kv_finch_context * condensed() const override { return plans_->front().finch ? &context_ : nullptr; }
    size_t bytes() const override;
    void trim(int64_t n) noexcept override;
    int64_t exact_trim(int64_t n) const override;
    token_run shiftable(int64_t n_keep, int64_t n_wanted) const override;
    void shift(const token_run & leaving) override;
    std::unique_ptr<kv_cache> fork() const override;
    kv_report report() const override;
    kv_layer_dump dump(int64_t il) const override;

    const kv_options & options() const { return options_; }
    const kv_shape & shape() const { return shape_; }
    const std::vector<kv_layer> & layers() const { return layers_; }

    // The layers with all their bytes in the host's memory; what is there already is shared.
    std::vector<kv_layer> layers_on_host() const;

    // The pass at hand. Allocates all it needs: throws std::bad_alloc, and then the sequence is what it was.
    void begin(const pass_part & part);
    const chunk_plan & plan(int64_t il) const { return (*plans_)[static_cast<size_t>(il)]; }
    layer_step & step(int64_t il) { return steps_[static_cast<size_t>(il)]; }
    host_step & on_host(int64_t il) { return host_steps_[static_cast<size_t>(il)]; }
    device_step & on_device(int64_t il) { return *device_steps_[static_cast<size_t>(il)]; }
    // Where row i of the pass is in the sequence.
    int64_t position_of(int64_t il, int64_t i) const;
    // The pass was computed; throws std::bad_alloc. Then it is part of the sequence.
    void finish();
    void commit(double seal_seconds) noexcept;

    // Of policy guided with a guide at the end, the prompt that the pass at hand is of; null: it is of none.
    guided_prompt * prompt_at_hand() { return is_at_hand_ ? &*guided_prompt_ : nullptr; }

    // Of a cache that reads prompts alone. A step is a pass over the early layers, then, where the prompt ends with it,
    // passes over the later ones; then one of these: there is more to come; the prompt is complete (throws
    // std::bad_alloc, and then nothing has changed); the step failed, and the sequence is what it was before it.
    fastkv_prompt & prompt() { return *prompt_; }
    void finish_step() noexcept { prompt_->commit(layers_); }
    void complete_prompt();
    void take_back_step() noexcept { prompt_->take_back(layers_); }

  private:
    using layer_plans = std::shared_ptr<const std::vector<chunk_plan>>;

    // Of plans that were made of the same.
    chunked_cache(const kv_options & options, const kv_shape & shape, layer_plans plans, std::vector<kv_layer> layers);
    void make_steps();
    // A chunk of policy finch's context and the question behind it.
    void begin_condensing(const pass_part & part);
    void take_layers(std::vector<kv_layer> layers);

    kv_options options_;
    kv_shape shape_;
    layer_plans plans_;                                       // [n_layer]
    std::vector<kv_layer> layers_;                            // [n_layer]
    std::vector<layer_step> steps_;                           // [n_layer], of layers_
    std::vector<host_step> host_steps_;                       // [n_layer]
    std::vector<std::unique_ptr<device_step>> device_steps_;  // [n_layer], null where the layer is in the host's memory
    std::unique_ptr<going_on> going_;                         // of the pass at hand; null: all its tokens go on
    std::optional<fastkv_prompt> prompt_;                     // of policy fastkv
    std::optional<guided_prompt> guided_prompt_;              // of policy guided with a guide at the end
    bool is_at_hand_ = false;                                 // that prompt's tokens are in the pass
    kv_finch_context context_;                                // of policy finch
    kv_finch_context next_context_;                           // when the pass at hand is over
    layer_run at_hand_;                                       // layers of the pass
    double seal_seconds_ = 0.0;
};

}  // namespace livekv
