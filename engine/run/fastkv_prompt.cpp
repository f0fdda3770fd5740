#include "run/fastkv_prompt.h"

#include <algorithm>
#include <iterator>

#include "policy/chunk_seal.h"

namespace livekv {

namespace {

// Rows of one kv head, tokens in ascending order, one after the other from the segments that hold all of a layer's.
class row_walk {
  public:
    row_walk(std::span<const kv_segment> segments, const chunk_plan & plan, int64_t head)
        : segments_(segments), row_(plan.row()), offset_(static_cast<size_t>(head * plan.head_dim)) {}

    struct key_value {
        const uint16_t * k;
        const uint16_t * v;
    };
    key_value at(int32_t token) {
        while (token >= first_ + segments_.front().n_tokens) {
            first_ += segments_.front().n_tokens;
            segments_ = segments_.subspan(1);
        }
        const size_t from = static_cast<size_t>(token - first_) * row_ + offset_;
        return {segments_.front().k_rows + from, segments_.front().v_rows + from};
    }

  private:
    std::span<const kv_segment> segments_;
    int64_t first_ = 0;
    size_t row_;
    size_t offset_;
};

// Chunks, yet empty, of n_kept of a layer's tokens: one of rows, or as many as blocks need.
std::vector<kv_chunk> make_kept(const chunk_plan & plan, int64_t n_kept) {
    const int64_t most = plan.seals ? plan.chunk_size : n_kept;
    std::vector<kv_chunk> kept;
    for (int64_t left = n_kept; left > 0; left -= most) {
        kv_chunk & c = kept.emplace_back();
        c.n_stored = c.n_tokens = static_cast<int32_t>(std::min(left, most));
        c.k = make_side(plan, kv_side::key, plan.seals, c.n_stored, host_memory());
        c.v = make_side(plan, kv_side::value, plan.seals, c.n_stored, host_memory());
    }
    return kept;
}

// Writes one kv head of a chunk that is kept: these tokens' rows.
void write_kept(const chunk_plan & plan, const cpu_kernels & kernels, const kv_chunk & c, int64_t head,
                std::span<const int32_t> tokens, row_walk & rows) {
    const auto d = static_cast<size_t>(plan.head_dim);
    std::vector<uint16_t> to_seal(plan.seals ? 2 * tokens.size() * d : 0);
    uint16_t * k = to_seal.data();
    uint16_t * v = to_seal.data() + to_seal.size() / 2;
    size_t stride = d;
    if (!plan.seals) {
        k = c.k.bytes->as<uint16_t>() + static_cast<size_t>(head) * d;
        v = c.v.bytes->as<uint16_t>() + static_cast<size_t>(head) * d;
        stride = plan.row();
    }
    for (size_t i = 0; i < tokens.size(); ++i) {
        const row_walk::key_value from = rows.at(tokens[i]);
        std::copy_n(from.k, d, k + i * stride);
        std::copy_n(from.v, d, v + i * stride);
    }
    if (plan.seals) {
        const chunk_rows keys{k, d, c.n_stored, plan.head_dim, 0};
        const chunk_rows values{v, d, c.n_stored, plan.head_dim, 0};
        seal_chunk_keys(plan, kernels, keys, {}, {}, {0, {}, 0}, {}, block_of(c.k, head, plan.n_head_kv), {}, nullptr);
        seal_chunk_values(plan, kernels, values, block_of(c.v, head, plan.n_head_kv), nullptr);
    }
}

// What kv_fastkv.h calls the score of a kv head, of the n_before tokens before the window.
std::vector<float> window_scores(const cpu_kernels & kernels, const last_queries & window,
                                 std::span<const kv_segment> segments, int64_t head, size_t n_before,
                                 fastkv_method::pooling pool) {
    const int64_t group = window.n_head / window.n_head_kv;
    std::vector<float> a(static_cast<size_t>(group) * n_before);
    sum_key_weights(kernels, window, segments, /*turns=*/nullptr, head * group, group, a);
    std::vector<float> score(n_before);
    for (size_t g = 0; g < static_cast<size_t>(group); ++g) {
        fastkv_add_pooled(pool, std::span(a).subspan(g * n_before, n_before), score);
    }
    return score;
}

}  // namespace

fastkv_prompt::fastkv_prompt(std::span<const chunk_plan> plans, const kv_shape & shape)
    : layers_(plans.size()), n_early_(plans.front().fastkv->tsp_layer + 1) {
    for (const kv_layer_shape & layer : shape.layers) {
        n_heads_.push_back(layer.n_head);
    }
}

void fastkv_prompt::begin(std::span<const layer_step> steps, layer_run layers, bool judges) {
    judges_ = judges;
    for (int64_t il = layers.first; il < std::min(layers.end, static_cast<int64_t>(layers_.size())); ++il) {
        const layer_step & step = steps[static_cast<size_t>(il)];
        const chunk_plan & plan = *step.plan;
        of_layer & l = layers_[static_cast<size_t>(il)];
        const auto a_token = static_cast<size_t>(n_heads_[static_cast<size_t>(il)] * plan.head_dim);
        const int64_t n_held = static_cast<int64_t>(l.queries.size() / a_token);
        l.next_queries.resize(static_cast<size_t>(std::min(fastkv_window, n_held + step.n_new)) * a_token);
        if (judges) {
            const int64_t n = step.layer->n_tokens() + step.n_new;
            l.kept = make_kept(plan, plan.fastkv->method.n_kept(n, plan.fastkv->is_later()));
            const bool chooses = il == plan.fastkv->tsp_layer;
            l.scores.resize(chooses ? static_cast<size_t>(plan.n_head_kv * (n - std::min(n, fastkv_window))) : 0);
        }
    }
}

void fastkv_prompt::judge(const layer_step & step, const cpu_kernels & kernels, std::span<const kv_segment> segments,
                          const query_rows & queries, float scale, int64_t head) {
    const chunk_plan & plan = *step.plan;
    const int64_t il = plan.fastkv->layer;
    of_layer & l = layers_[static_cast<size_t>(il)];
    const auto group = static_cast<size_t>(queries.n_head / plan.n_head_kv * plan.head_dim);
    const auto a_token = static_cast<size_t>(queries.n_head * plan.head_dim);
    const size_t offset = static_cast<size_t>(head) * group;  // of the head's queries, of which it copies no others
    const size_t n_held = l.queries.size() / a_token;
    const size_t n_window = l.next_queries.size() / a_token;
    const size_t n_all = n_held + static_cast<size_t>(step.n_new);
    for (size_t i = 0; i < n_window; ++i) {
        const size_t from = n_all - n_window + i;  // of those that were held and those of the pass
        const float * const q =
            from < n_held ? l.queries.data() + from * a_token : queries.q + (from - n_held) * a_token;
        std::copy_n(q + offset, group, l.next_queries.data() + i * a_token + offset);
    }
    if (!judges_) {
        return;
    }
    const int64_t n = step.layer->n_tokens() + step.n_new;
    const last_queries window = {
        l.next_queries.data(), static_cast<int64_t>(n_window), queries.n_head, plan.n_head_kv, plan.head_dim, scale};
    const std::vector<float> score =
        window_scores(kernels, window, segments, head, static_cast<size_t>(n) - n_window, plan.fastkv->method.pool);
    if (!l.scores.empty()) {
        std::ranges::copy(score, l.scores.begin() + head * static_cast<int64_t>(score.size()));
    }
    int64_t n_kept = 0;
    for (const kv_chunk & c : l.kept) {
        n_kept += c.n_stored;
    }
    const std::vector<int32_t> best = fastkv_best(score, n, n_kept);
    row_walk rows(segments, plan, head);
    size_t first = 0;
    for (const kv_chunk & c : l.kept) {
        const auto here = static_cast<size_t>(c.n_stored);
        write_kept(plan, kernels, c, head, std::span(best).subspan(first, here), rows);
        first += here;
    }
}

void fastkv_prompt::commit(std::span<const kv_layer> layers) noexcept {
    for (int64_t il = 0; il < n_early_; ++il) {
        of_layer & l = layers_[static_cast<size_t>(il)];
        std::swap(l.queries, l.next_queries);
    }
    n_tokens_ = layers.front().n_tokens();
}

std::span<float> fastkv_prompt::wait(int64_t n, int64_t n_embd) {
    n_embd_ = n_embd;
    const int64_t first = waiting_.empty() ? 0 : waiting_.back().first + waiting_.back().n(n_embd);
    waiting_.push_back({first, std::vector<float>(static_cast<size_t>(n * n_embd))});
    return waiting_.back().rows;
}

std::span<const int32_t> fastkv_prompt::choose(const layer_step & step) {
    const chunk_plan & plan = *step.plan;
    const of_layer & l = layers_[static_cast<size_t>(plan.fastkv->layer)];
    const int64_t n = step.layer->n_tokens();
    std::vector<float> score(l.scores.size() / static_cast<size_t>(plan.n_head_kv));
    for (size_t i = 0; i < l.scores.size(); ++i) {
        score[i % score.size()] += l.scores[i];
    }
    going_on_ = fastkv_best(score, n, plan.fastkv->method.n_going_on(n));
    return going_on_;
}

std::vector<float> fastkv_prompt::waiting(int64_t i, int64_t n) const {
    const auto n_embd = static_cast<size_t>(n_embd_);
    std::vector<float> rows;
    rows.reserve(static_cast<size_t>(n) * n_embd);
    for (const int32_t token : std::span(going_on_).subspan(static_cast<size_t>(i), static_cast<size_t>(n))) {
        const auto behind = std::ranges::upper_bound(waiting_, token, {}, &piece::first);
        const piece & p = *std::prev(behind);
        const float * const row = p.rows.data() + static_cast<size_t>(token - p.first) * n_embd;
        rows.insert(rows.end(), row, row + n_embd);
    }
    return rows;
}

void fastkv_prompt::complete(std::span<kv_layer> layers, size_t peak_bytes) noexcept {
    n_tokens_ = layers.front().n_tokens();
    for (size_t il = 0; il < layers.size(); ++il) {
        kv_layer & layer = layers[il];
        layer.chunks = std::move(layers_[il].kept);
        int64_t n_kept = 0;
        for (const kv_chunk & c : layer.chunks) {
            n_kept += c.n_stored;
        }
        kv_chunk & front = layer.chunks.front();
        front.n_absent = static_cast<int32_t>(n_tokens_ - n_kept);
        front.n_tokens += front.n_absent;
        layer.n_chunked = n_tokens_;
        layer.n_tail = 0;
        layer.release_tail();
        ++layer.n_edits;
    }
    n_going_on_ = static_cast<int64_t>(going_on_.size());
    peak_bytes_ = peak_bytes;
    release();
    complete_ = true;
}

void fastkv_prompt::take_back(std::span<kv_layer> layers) noexcept {
    for (size_t il = 0; il < layers.size(); ++il) {
        layers[il].trim(static_cast<int64_t>(il) < n_early_ ? n_tokens_ : 0);
        of_layer & l = layers_[il];
        l.kept.clear();
        l.scores = std::vector<float>();
        l.next_queries = std::vector<float>();
    }
    while (!waiting_.empty() && waiting_.back().first >= n_tokens_) {
        waiting_.pop_back();
    }
    going_on_.clear();
}

void fastkv_prompt::release() noexcept {
    for (of_layer & l : layers_) {
        l = {};
    }
    waiting_ = std::vector<piece>();
    going_on_ = std::vector<int32_t>();
}

void fastkv_prompt::reset() noexcept {
    release();
    complete_ = false;
    n_tokens_ = n_going_on_ = 0;
    peak_bytes_ = 0;
}

size_t fastkv_prompt::bytes() const {
    size_t n = going_on_.capacity() * sizeof(int32_t);
    for (const of_layer & l : layers_) {
        n += (l.queries.capacity() + l.next_queries.capacity() + l.scores.capacity()) * sizeof(float);
        for (const kv_chunk & c : l.kept) {
            n += c.k.bytes->bytes() + c.v.bytes->bytes();
        }
    }
    for (const piece & p : waiting_) {
        n += p.rows.capacity() * sizeof(float);
    }
    return n;
}

}  // namespace livekv
