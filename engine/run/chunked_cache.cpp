#include "run/chunked_cache.h"

#include <algorithm>

#include "error.h"
#include "kernels/cpu/kernels.h"
#include "kv/kv_block.h"
#include "policy/guided_report.h"
#include "policy/stream_report.h"
#include "without_bad_alloc.h"

namespace livekv {

chunked_cache::chunked_cache(const kv_options & options, const kv_shape & shape)
    : chunked_cache(options, shape, std::make_shared<const std::vector<chunk_plan>>(plan_chunks(options, shape)), {}) {}

chunked_cache::chunked_cache(const kv_options & options, const kv_shape & shape, std::vector<kv_layer> layers)
    : chunked_cache(options, shape) {
    take_layers(std::move(layers));
}

chunked_cache::chunked_cache(const kv_options & options, const kv_shape & shape, layer_plans plans,
                             std::vector<kv_layer> layers)
    : options_(options), shape_(shape), plans_(std::move(plans)) {
    for (size_t il = 0; il < plans_->size(); ++il) {
        layers_.push_back(make_layer((*plans_)[il], shape.layers[il].on_device));
    }
    make_steps();
    if (plans_->front().fastkv) {
        prompt_.emplace(*plans_, shape);
    }
    if (plans_->front().guided && plans_->front().guided->method.guide == guided_method::guide_at::last) {
        guided_prompt_.emplace(*plans_, shape);
    }
    if (!layers.empty()) {
        take_layers(std::move(layers));
    }
}

void chunked_cache::take_layers(std::vector<kv_layer> layers) {
    LIVEKV_ASSERT(layers.size() == layers_.size());
    for (size_t il = 0; il < layers.size(); ++il) {
        kv_layer & mine = layers_[il];
        LIVEKV_ASSERT(layers[il].row() == mine.row() && layers[il].state_is_f16 == mine.state_is_f16);
        layers[il].errors.resize(mine.errors.size());
        mine = layers[il].where == mine.where ? std::move(layers[il]) : layers[il].copy(*mine.where);
        mine.give_back_before((*plans_)[il].kept_from(mine.n_chunked));
    }
    if (prompt_ && n_tokens() > 0) {
        prompt_->complete_without();  // what the layers have is what was kept, unless a prompt is copied with them
    }
    if (guided_prompt_ && n_tokens() > 0) {
        const std::vector<kv_chunk> & chunks = layers_.front().chunks;
        const page * const state = chunks.empty() ? nullptr : chunks.back().state.get();
        const double n_prompt = guided_state::load(state ? state->as<float>() : nullptr).range.n;
        guided_prompt_->complete_without(static_cast<int64_t>(n_prompt));
    }
}

void chunked_cache::make_steps() {
    host_steps_.resize(layers_.size());
    device_steps_.resize(layers_.size());
    for (size_t il = 0; il < layers_.size(); ++il) {
        steps_.emplace_back(layers_[il], (*plans_)[il]);
        if (shape_.layers[il].on_device) {
            device_step::require_supported((*plans_)[il]);
            device_steps_[il] = std::make_unique<device_step>(shape_.layers[il].n_head);
        }
    }
}

std::unique_ptr<kv_cache> chunked_cache::fork() const {
    // The plans are shared, not made anew: what they were made of may be a file that has changed.
    std::unique_ptr<chunked_cache> copy(new chunked_cache(options_, shape_, plans_, layers_));
    copy->prompt_ = prompt_;
    copy->guided_prompt_ = guided_prompt_;
    copy->context_ = context_;
    return copy;
}

int64_t chunked_cache::max_new() const {
    return options_.chunk_tokens() - layers_.front().n_tail;
}

// In one tile of attention's rows and one of tokens, at either end of what they see, so that contexts are cut into
// spans as for each alone; and nothing is sealed.
int64_t chunked_cache::max_drafted() const {
    const auto left_of_tile = [](int64_t token) { return kv_tile_tokens - token % kv_tile_tokens; };
    int64_t n = max_new() - 1;
    for (size_t il = 0; il < layers_.size(); ++il) {
        const kv_layer_shape & shape = shape_.layers[il];
        n = std::min(n, left_of_tile(layers_[il].n_tail_rows()));
        n = std::min(n, best_cpu_kernels().row_tile / (shape.n_head / shape.n_head_kv));
        if (shape.window > 0 && n_tokens() >= shape.window) {
            n = std::min(n, left_of_tile(n_tokens() - shape.window + 1));
        }
    }
    return n;
}

void chunked_cache::begin(const pass_part & part) {
    const int64_t n_new = part.n_new;
    at_hand_ = {part.layers.first, std::min(part.layers.end, shape_.n_layer())};
    next_context_ = context_;
    if (part.n_question > 0) {
        return begin_condensing(part);
    }
    const int64_t room = options_.chunk_tokens() - layers_[static_cast<size_t>(at_hand_.first)].n_tail;
    LIVEKV_ASSERT(n_new >= 1 && n_new <= room);
    const bool is_prompt = part.origin == token_origin::prompt;
    const bool judged = reads_prompt_alone() && is_prompt;
    if (judges_prompt() && !is_prompt && n_tokens() > 0) {
        fail("the prompt in a cache of policy ", options_.policy, " is not complete: it has ", n_tokens(),
             " tokens, and generated text does not follow them");
    }
    is_at_hand_ = guided_prompt_ && is_prompt && !guided_prompt_->is_complete();
    const bool ends = is_at_hand_ && part.end_of_prompt;
    const int64_t n_all = n_tokens() + n_new;
    const int64_t prompt = !is_prompt ? 0 : ends ? n_all : std::max(part.n_prompt, n_all);
    going_.reset();
    if (plans_->front().guided && is_prompt && (is_at_hand_ || !guided_prompt_)) {
        const guided_plan & guided = *plans_->front().guided;
        guided_place_of(guided.method, guided.layer, guided.n_layer, prompt);  // throws for a guide beyond its end
        if (guided.method.propagates == guided_method::propagation::layers) {
            going_ = std::make_unique<going_on>(guided, prompt, n_tokens(), n_new, part.n_outputs);
        }
    }
    // With sealing of generated text off, a prompt's rest is sealed as the short chunk it is, and what follows is not.
    const bool seal = options_.seal_decode || is_prompt;
    const bool close = n_new == room || ends || (!options_.seal_decode && seal && part.end_of_prompt);
    // Before a guide at the prompt's end, and behind it, tokens are stored as text that is not scored.
    const int64_t scored = guided_prompt_ ? 0 : prompt;
    for (int64_t il = at_hand_.first; il < at_hand_.end; ++il) {
        layer_step & step = steps_[static_cast<size_t>(il)];
        step.begin(n_new, close, seal && !judged, scored, going_.get());
        step.closed.from_one_pass = step.passes_through() && is_prompt;
        if (ends) {  // all of the layer is sealed anew, and that is what counts
            step.errors.assign(step.errors.size(), {});
        }
    }
    if (judged) {
        prompt_->begin(steps_, at_hand_, part.end_of_prompt);
    }
    if (is_at_hand_) {
        guided_prompt_->begin(steps_, ends);
    }
}

void chunked_cache::finish() {
    if (!is_at_hand_) {
        return;
    }
    size_t n = bytes();
    for (const layer_step & step : steps_) {
        for (const std::shared_ptr<page> & made : {step.closed.k.bytes, step.closed.v.bytes, step.closed.state}) {
            n += made ? made->bytes() : 0;
        }
        n += step.sinks.bytes();
    }
    guided_prompt_->note_peak(n);
}

void chunked_cache::begin_condensing(const pass_part & part) {
    LIVEKV_ASSERT(takes_question() && part.n_question < part.n_new);
    const finch_method & method = *plans_->front().finch;
    const int64_t n_chunk = part.n_new - part.n_question;
    if (next_context_.n_tokens == 0) {
        next_context_.n_question = part.n_question;
        next_context_.factor = method.factor(part.n_prompt, part.n_question);
    }
    next_context_.n_tokens += n_chunk;
    next_context_.n_kept += n_chunk / next_context_.factor;
    size_t peak_bytes = bytes();
    for (layer_step & step : steps_) {
        step.begin_condensing(part.n_new, part.n_question, next_context_.n_kept);
        peak_bytes += step.closed.k.bytes->bytes() + step.closed.v.bytes->bytes();
    }
    next_context_.peak_bytes = std::max(next_context_.peak_bytes, peak_bytes);
}

void chunked_cache::commit(double seal_seconds) noexcept {
    for (int64_t il = at_hand_.first; il < at_hand_.end; ++il) {
        steps_[static_cast<size_t>(il)].commit();
    }
    seal_seconds_ += seal_seconds;
    context_ = next_context_;
    if (reads_prompt_alone() && at_hand_.end - at_hand_.first == shape_.n_layer()) {
        prompt_->complete_without();
    }
    if (is_at_hand_) {
        guided_prompt_->commit(layers_);
    } else if (guided_prompt_ && !guided_prompt_->is_complete()) {
        guided_prompt_->complete_without(0);
    }
}

int64_t chunked_cache::position_of(int64_t il, int64_t i) const {
    const layer_step & step = steps_[static_cast<size_t>(il)];
    if (reads_prompt_alone() && step.plan->fastkv->is_later()) {
        return prompt_->going_on()[static_cast<size_t>(step.layer->n_tokens() + i)];
    }
    return n_tokens() + step.token_of_row(i);
}

void chunked_cache::complete_prompt() {
    const size_t peak_bytes = bytes();
    prompt_->complete(layers_, peak_bytes);
}

void chunked_cache::trim(int64_t n) noexcept {
    if (reads_prompt_alone() && n == n_tokens()) {
        return;  // later layers have none of them yet
    }
    if (prompt_ && n == 0) {
        prompt_->reset();
    }
    if (guided_prompt_ && n == 0) {
        guided_prompt_->reset();
    }
    if (n == 0) {
        context_ = {};
    }
    for (kv_layer & layer : layers_) {
        layer.trim(n);
    }
    if (n == 0) {
        seal_seconds_ = 0.0;
    }
}

int64_t chunked_cache::exact_trim(int64_t n) const {
    const int64_t n_judged = prompt_ ? prompt_->n_tokens() : guided_prompt_ ? guided_prompt_->n_tokens() : 0;
    if (n < n_judged) {  // what is kept of the prompt is all of its tokens' choice
        return 0;
    }
    for (bool settled = false; !settled;) {  // to where all layers can
        settled = true;
        for (size_t il = 0; il < layers_.size(); ++il) {
            const int64_t here = livekv::exact_trim((*plans_)[il], layers_[il], n);
            settled = settled && here == n;
            n = here;
        }
    }
    return n;
}

token_run chunked_cache::shiftable(int64_t n_keep, int64_t n_wanted) const {
    token_run run;
    for (size_t il = 0; il < layers_.size(); ++il) {
        const chunk_plan & plan = (*plans_)[il];
        if (plan.guided || plan.fastkv || plan.finch) {
            fail("the oldest tokens cannot leave a cache of policy ", options_.policy,
                 ": how its tokens are kept depends on their places in the whole prompt");
        }
        if (plan.stream && !plan.turns) {
            fail("the oldest tokens cannot leave a cache of policy ", options_.policy,
                 " whose keys were sealed after RoPE (pre_rope is off)");
        }
        run = livekv::shiftable(plan, layers_[il], n_keep, n_wanted);
        if (run.n == 0) {
            break;
        }
    }
    return run;
}

void chunked_cache::shift(const token_run & leaving) {
    std::vector<kv_layer> moved;
    for (size_t il = 0; il < layers_.size(); ++il) {
        const kv_layer & layer = layers_[il];
        const kv_layer here = layer.where->on_device() ? layer.copy(host_memory()) : layer;
        moved.push_back(shifted((*plans_)[il], best_cpu_kernels(), shape_.layers[il].rope, here, leaving));
        if (layer.where->on_device()) {
            moved.back() = moved.back().copy(*layer.where);
        }
    }
    for (size_t il = 0; il < layers_.size(); ++il) {
        layers_[il] = std::move(moved[il]);
    }
}

size_t chunked_cache::bytes() const {
    return report().bytes.total();
}

kv_report chunked_cache::report() const {
    kv_report r;
    for (size_t il = 0; il < layers_.size(); ++il) {
        add_layer(r, layers_[il], (*plans_)[il].bypass);
        if ((*plans_)[il].stream) {
            r.streams.push_back(stream_report((*plans_)[il], layers_[il]));
        }
        if ((*plans_)[il].guided) {
            r.guided.push_back(guided_report((*plans_)[il], layers_[il], layers_.front()));
        }
    }
    if (prompt_) {
        r.bytes.tail += prompt_->bytes();
        if (prompt_->is_complete()) {
            const fastkv_method & method = plans_->front().fastkv->method;
            const int64_t n = prompt_->n_tokens();
            const int64_t n_going_on = prompt_->n_going_on();
            r.fastkv = {n, n_going_on, method.n_kept(n, false), method.n_kept(n_going_on, true), prompt_->peak_bytes()};
        }
    }
    if (guided_prompt_) {
        r.bytes.tail += guided_prompt_->bytes();
        r.guided_peak_bytes = guided_prompt_->is_complete() ? guided_prompt_->peak_bytes() : 0;
    }
    if (context_.n_tokens > 0) {
        r.finch = context_;
    }
    r.seal_seconds = seal_seconds_;
    r.has_error = options_.measure_error;
    return r;
}

std::vector<kv_layer> chunked_cache::layers_on_host() const {
    std::vector<kv_layer> all;
    for (const kv_layer & layer : layers_) {
        all.push_back(layer.where->on_device() ? layer.copy(host_memory()) : layer);
    }
    return all;
}

kv_layer_dump chunked_cache::dump(int64_t il) const {
    if (prompt_ || condensed()) {
        fail("what a cache of policy ", options_.policy, " holds is of other tokens in each ",
             prompt_ ? "head" : "layer", "; there is no dump of it");
    }
    return without_bad_alloc("the dump of a layer", [&]() -> kv_layer_dump {
        const chunk_plan & plan = plans_->at(static_cast<size_t>(il));
        const kv_layer & layer = layers_[static_cast<size_t>(il)];
        const kv_layer here = layer.where->on_device() ? layer.copy(host_memory()) : layer;
        return {dump_side(here, kv_side::key, plan.k_rotation, plan.bits(kv_side::key)),
                dump_side(here, kv_side::value, plan.v_rotation, plan.bits(kv_side::value))};
    });
}

}  // namespace livekv
