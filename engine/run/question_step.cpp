#include "run/question_step.h"

#include <algorithm>

#include "error.h"
#include "finite.h"
#include "kernels/key_weights.h"

namespace livekv {

const question_step::scratch & question_step::of(size_t part) const {
    const auto found = std::ranges::find(parts_, part, &scratch::part);
    LIVEKV_ASSERT(found != parts_.end());
    return *found;
}

question_step::scratch & question_step::of(size_t part) {
    return const_cast<scratch &>(std::as_const(*this).of(part));
}

void question_step::add(size_t part, const layer_step & step, int64_t n_head) {
    scratch & s = parts_.emplace_back();
    s.part = part;
    s.scores.resize(static_cast<size_t>(n_head * step.n_columns()));
    for (int64_t p = 0; p < step.n_question; ++p) {
        s.factors.push_back(step.plan->finch->row_factor(step.n_columns(), step.n_question, p));
    }
}

void question_step::weigh(size_t part, const layer_step & step, const cpu_kernels & kernels,
                          std::span<const kv_segment> segments, const query_rows & q, float scale, int64_t query_head) {
    const chunk_plan & plan = *step.plan;
    scratch & s = of(part);
    const last_queries queries = {q.q, step.n_question, q.n_head, plan.n_head_kv, plan.head_dim, scale, s.factors};
    const auto n = static_cast<size_t>(step.n_columns());
    sum_key_weights(kernels, queries, segments, &plan.turns->turns(), query_head, /*n_heads=*/1,
                    std::span(s.scores).subspan(static_cast<size_t>(query_head) * n, n));
}

void question_step::choose(size_t part, const layer_step & step, int64_t n_head) {
    scratch & s = of(part);
    const auto n = static_cast<size_t>(step.n_columns());
    std::vector<float> score(n);
    for (size_t i = 0; i < static_cast<size_t>(n_head) * n; ++i) {
        score[i % n] += s.scores[i];
    }
    if (first_not_finite(score)) {  // of finite numbers whose products are not
        fail("the weights that the question gives to the context are not numbers; the model's may be damaged");
    }
    s.kept = finch_best(score, step.closed.n_stored);
}

void question_step::copy(size_t part, const layer_step & step, int64_t ith, int64_t nth) const {
    const std::vector<int32_t> & kept = of(part).kept;
    const size_t row = step.plan->row();
    const int64_t n_before = step.n_kept_before();
    const auto copy_side = [&](const kv_chunk_side & to, const page * before, const uint16_t * rows) {
        for (auto i = static_cast<size_t>(ith); i < kept.size(); i += static_cast<size_t>(nth)) {
            const int64_t column = kept[i];
            const uint16_t * const from = column < n_before ? before->as<uint16_t>() + static_cast<size_t>(column) * row
                                                            : rows + static_cast<size_t>(column - n_before) * row;
            std::copy_n(from, row, to.bytes->as<uint16_t>() + i * row);
        }
    };
    const kv_chunk * const before = n_before > 0 ? &step.layer->chunks.front() : nullptr;
    copy_side(step.closed.k, before ? before->k.bytes.get() : nullptr, step.k_rows);
    copy_side(step.closed.v, before ? before->v.bytes.get() : nullptr, step.v_rows);
}

size_t question_step::bytes() const {
    size_t n = 0;
    for (const scratch & s : parts_) {
        n += s.factors.capacity() * sizeof(float) + s.scores.capacity() * sizeof(float) +
             s.kept.capacity() * sizeof(int32_t);
    }
    return n;
}

}  // namespace livekv
