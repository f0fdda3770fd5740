#include "run/guided_prompt.h"

#include <algorithm>

#include "error.h"
#include "finite.h"
#include "run/guide_step.h"

namespace livekv {

namespace {

// Where the guide's length follows the prompt's (guided_place_of). What was said of that may turn out otherwise, so
// queries are held for any.
constexpr int64_t longest_auto_guide = 128;

// Of the tokens that were held and the pass's, the last n: their queries of one kv head, copied to where they are to
// be, f32 [n, n_head, head_dim].
void copy_queries(std::span<const float> held, const query_rows & pass, int64_t n_new, int64_t n, int64_t head,
                  const chunk_plan & plan, float * to) {
    const auto a_token = static_cast<size_t>(pass.n_head * plan.head_dim);
    const auto group = static_cast<size_t>(pass.n_head / plan.n_head_kv * plan.head_dim);
    const size_t offset = static_cast<size_t>(head) * group;
    const size_t n_held = held.size() / a_token;
    const size_t n_all = n_held + static_cast<size_t>(n_new);
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
        const size_t from = n_all - static_cast<size_t>(n) + i;
        const float * const q = from < n_held ? held.data() + from * a_token : pass.q + (from - n_held) * a_token;
        std::copy_n(q + offset, group, to + i * a_token + offset);
    }
}

}  // namespace

guided_prompt::guided_prompt(std::span<const chunk_plan> plans, const kv_shape & shape) : layers_(plans.size()) {
    const int64_t n = plans.front().guided->method.guide_tokens;
    most_queries_ = n > 0 ? n : longest_auto_guide;
    for (const kv_layer_shape & layer : shape.layers) {
        n_heads_.push_back(layer.n_head);
    }
}

void guided_prompt::begin(std::span<const layer_step> steps, bool ends) {
    release_pass();
    ends_ = ends;
    next_tokens_ = n_tokens_ + steps.front().n_new;
    size_t n_queries = 0;
    size_t n_sums = 0;
    for (size_t il = 0; il < layers_.size(); ++il) {
        const layer_step & step = steps[il];
        const chunk_plan & plan = *step.plan;
        of_layer & l = layers_[il];
        const auto a_token = static_cast<size_t>(n_heads_[il] * plan.head_dim);
        if (!ends) {
            l.next_queries.resize(static_cast<size_t>(std::min(most_queries_, next_tokens_)) * a_token);
            continue;
        }
        const guided_place place =
            guided_place_of(plan.guided->method, plan.guided->layer, plan.guided->n_layer, next_tokens_);
        n_queries = std::max(n_queries, static_cast<size_t>(place.n_guide) * a_token);
        n_sums = std::max(n_sums, static_cast<size_t>(n_heads_[il] * next_tokens_));
        l.decided.resize(step.layer->chunks.size());
        if (!step.errors.empty()) {
            l.errors.resize(static_cast<size_t>(n_seal_jobs(step) * plan.n_head_kv));
        }
    }
    guide_queries_.resize(n_queries);
    sums_.resize(n_sums);
}

void guided_prompt::weigh(const layer_step & step, const cpu_kernels & kernels, std::span<const kv_segment> segments,
                          const query_rows & queries, float scale, int64_t head) {
    const chunk_plan & plan = *step.plan;
    const guided_plan & guided = *plan.guided;
    of_layer & l = layers_[static_cast<size_t>(guided.layer)];
    if (!ends_) {
        const auto n = std::min(most_queries_, next_tokens_);
        return copy_queries(l.queries, queries, step.n_new, n, head, plan, l.next_queries.data());
    }
    const int64_t n = guided_place_of(guided.method, guided.layer, guided.n_layer, next_tokens_).n_guide;
    copy_queries(l.queries, queries, step.n_new, n, head, plan, guide_queries_.data());
    const int64_t group = queries.n_head / plan.n_head_kv;
    const last_queries guide = {guide_queries_.data(), n, queries.n_head, plan.n_head_kv, plan.head_dim, scale};
    const auto n_sums = static_cast<size_t>(group * next_tokens_);
    sum_key_weights(kernels, guide, segments, /*turns=*/nullptr, head * group, group,
                    std::span(sums_).subspan(static_cast<size_t>(head) * n_sums, n_sums));
}

void guided_prompt::decide(const layer_step & step) {
    const guided_plan & guided = *step.plan->guided;
    const auto n = static_cast<size_t>(next_tokens_);
    const auto n_head = static_cast<size_t>(n_heads_[static_cast<size_t>(guided.layer)]);
    std::vector<double> all(n);
    for (size_t i = 0; i < n_head * n; ++i) {
        all[i % n] += sums_[i];
    }
    std::vector<float> attention;
    for (const double sum : all) {
        attention.push_back(static_cast<float>(sum / static_cast<double>(n_head)));
    }
    if (first_not_finite(attention)) {  // of finite numbers whose products are not
        fail("the weights that the guide gives to the prompt are not numbers; the model's may be damaged");
    }
    std::vector<int64_t> chunks;
    for (const kv_chunk & c : step.layer->chunks) {
        chunks.push_back(c.n_tokens);
    }
    chunks.push_back(step.n_open());
    const int32_t n_sinks = step.layer->chunks.empty() ? step.closed.n_sinks : step.layer->chunks.front().n_sinks;
    decision_ = decide_prompt(guided, chunks, n_sinks, attention);
}

int64_t guided_prompt::n_seal_jobs(const layer_step & step) const {
    return ends_ ? 2 * (static_cast<int64_t>(step.layer->chunks.size()) + 1) : 0;
}

void guided_prompt::seal(layer_step & step, const cpu_kernels & kernels, int64_t job) {
    const chunk_plan & plan = *step.plan;
    of_layer & l = layers_[static_cast<size_t>(plan.guided->layer)];
    const auto at = static_cast<size_t>(job / 2);
    const kv_side side = job % 2 == 0 ? kv_side::key : kv_side::value;
    const guided_decision & decision = decision_[at];
    const auto n_heads = static_cast<size_t>(plan.n_head_kv);
    const std::span<kv_error_sums> errors = std::span(l.errors).subspan(
        l.errors.empty() ? 0 : static_cast<size_t>(job) * n_heads, l.errors.empty() ? 0 : n_heads);
    const bool closes = at == l.decided.size();
    kv_chunk & to = closes ? step.closed : l.decided[at];
    if (side == kv_side::key) {
        to.state = closes ? to.state : std::make_shared<page>(host_memory(), plan.state_bytes());
        decision.after.store(to.state->as<float>());
    }
    if (closes) {
        seal_guided_rows(step, kernels, side, decision.bits, errors);
        return;
    }
    const kv_chunk & held = step.layer->chunks[at];
    (side == kv_side::key ? to.k : to.v) = seal_guided_anew(
        plan.guided->method, side, side == kv_side::key ? held.k : held.v, plan.n_head_kv, decision.bits, errors);
}

void guided_prompt::note_peak(size_t bytes_before) {
    size_t n = bytes_before + (guide_queries_.capacity() + sums_.capacity()) * sizeof(float);
    for (const of_layer & l : layers_) {
        n += l.next_queries.capacity() * sizeof(float);
        for (const kv_chunk & c : l.decided) {
            n += c.k.bytes->bytes() + c.v.bytes->bytes() + c.state->bytes();
        }
    }
    peak_bytes_ = std::max(peak_bytes_, n);
}

void guided_prompt::commit(std::span<kv_layer> layers) noexcept {
    n_tokens_ = next_tokens_;
    for (size_t il = 0; il < layers_.size(); ++il) {
        of_layer & l = layers_[il];
        std::swap(l.queries, l.next_queries);
        kv_layer & layer = layers[il];
        for (size_t i = 0; i < l.decided.size(); ++i) {
            layer.chunks[i].k = std::move(l.decided[i].k);
            layer.chunks[i].v = std::move(l.decided[i].v);
            layer.chunks[i].state = std::move(l.decided[i].state);
        }
        layer.n_edits += ends_;
        for (size_t i = 0; i < l.errors.size(); ++i) {  // job by job, a job's heads
            const size_t n_heads = layer.errors.size() / 2;
            kv_error_sums & sum = layer.errors[i % (2 * n_heads)];
            sum.signal += l.errors[i].signal;
            sum.noise += l.errors[i].noise;
        }
    }
    if (ends_) {
        complete_ = true;
        for (of_layer & l : layers_) {
            l.queries = std::vector<float>();
        }
    }
    release_pass();
}

void guided_prompt::complete_without(int64_t n_prompt) noexcept {
    release_pass();
    complete_ = true;
    n_tokens_ = n_prompt;
}

// What a pass needed alone.
void guided_prompt::release_pass() noexcept {
    for (of_layer & l : layers_) {
        l.next_queries = std::vector<float>();
        l.decided = std::vector<kv_chunk>();
        l.errors = std::vector<kv_error_sums>();
    }
    guide_queries_ = std::vector<float>();
    sums_ = std::vector<float>();
    decision_ = std::vector<guided_decision>();
    ends_ = false;
}

void guided_prompt::reset() noexcept {
    release_pass();
    for (of_layer & l : layers_) {
        l.queries = std::vector<float>();
    }
    complete_ = false;
    n_tokens_ = 0;
    peak_bytes_ = 0;
}

size_t guided_prompt::bytes() const {
    size_t n = 0;
    for (const of_layer & l : layers_) {
        n += l.queries.capacity() * sizeof(float);
    }
    return n;
}

}  // namespace livekv
