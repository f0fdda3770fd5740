#include "kv/finch_layer.h"

#include <algorithm>
#include <cmath>

namespace livekv {

finch_layer::finch_layer(const finch_method & method, const shape & of, const rope_params & rope, int64_t n_context,
                         int64_t n_question)
    : method_(method),
      shape_(of),
      rope_(rope),
      n_question_(n_question),
      factor_(method.factor(n_context, n_question)),
      k_(static_cast<size_t>(of.n_head_kv)),
      v_(static_cast<size_t>(of.n_head_kv)) {}

std::vector<float> finch_layer::turned(std::span<const float> x, int64_t first) const {
    std::vector<float> out(x.begin(), x.end());
    const auto d = static_cast<size_t>(shape_.head_dim);
    std::vector<rope_angle> angles(static_cast<size_t>(rope_.n_rot / 2));
    for (size_t i = 0; i < out.size() / d; ++i) {
        rope_angles(rope_, first + static_cast<int64_t>(i), angles);
        rope_turn(rope_, angles, std::span(out).subspan(i * d, d));
    }
    return out;
}

void finch_layer::add_weights(std::span<const float> q, std::span<const float> k, std::span<double> score) const {
    const auto d = static_cast<size_t>(shape_.head_dim);
    const double scale = 1.0 / std::sqrt(static_cast<double>(d));
    const auto n_columns = static_cast<int64_t>(score.size());
    for (int64_t p = 0; p < n_question_; ++p) {
        std::vector<double> weights(score.size() + static_cast<size_t>(p) + 1);
        for (size_t i = 0; i < weights.size(); ++i) {
            for (size_t c = 0; c < d; ++c) {
                weights[i] += static_cast<double>(q[static_cast<size_t>(p) * d + c]) * k[i * d + c];
            }
            weights[i] *= scale;
        }
        const double largest = *std::ranges::max_element(weights);
        double sum = 0.0;
        for (double & w : weights) {
            sum += w = std::exp(w - largest);
        }
        const double share = method_.row_factor(n_columns, n_question_, p) / sum;
        for (size_t i = 0; i < score.size(); ++i) {
            score[i] += weights[i] * share;
        }
    }
}

finch_choice finch_layer::add(const rows & chunk) {
    const auto n_head_kv = static_cast<size_t>(shape_.n_head_kv);
    const size_t group = static_cast<size_t>(shape_.n_head) / n_head_kv;
    const size_t of_question = static_cast<size_t>(n_question_ * shape_.head_dim);
    const size_t of_chunk = chunk.k.size() / n_head_kv;
    const int64_t n_chunk = static_cast<int64_t>(of_chunk) / shape_.head_dim;
    const int64_t n_columns = n_kept() + n_chunk;
    finch_choice made;
    made.columns = tokens_;
    for (int64_t i = 0; i < n_chunk; ++i) {
        made.columns.push_back(static_cast<int32_t>(n_read_ + i));
    }
    std::vector<double> score(static_cast<size_t>(n_columns));
    for (size_t head = 0; head < n_head_kv; ++head) {
        const auto append = [](std::vector<float> & to, std::span<const float> more) {
            to.insert(to.end(), more.begin(), more.end());
        };
        append(k_[head], chunk.k.subspan(head * of_chunk, of_chunk));
        append(v_[head], chunk.v.subspan(head * of_chunk, of_chunk));
        std::vector<float> all = k_[head];
        append(all, chunk.k_question.subspan(head * of_question, of_question));
        const std::vector<float> k = turned(all, 0);
        for (size_t h = head * group; h < (head + 1) * group; ++h) {
            add_weights(turned(chunk.q.subspan(h * of_question, of_question), n_columns), k, score);
        }
    }
    made.score.assign(score.begin(), score.end());
    made.kept_columns = finch_best(made.score, n_kept() + n_chunk / factor_);
    for (const int32_t column : made.kept_columns) {
        made.kept_tokens.push_back(made.columns[static_cast<size_t>(column)]);
    }
    const auto d = static_cast<size_t>(shape_.head_dim);
    const auto keep = [&](std::vector<float> & kept) {
        for (size_t i = 0; i < made.kept_columns.size(); ++i) {  // ascending: none is overwritten before it is read
            std::copy_n(kept.data() + static_cast<size_t>(made.kept_columns[i]) * d, d, kept.data() + i * d);
        }
        kept.resize(made.kept_columns.size() * d);
    };
    std::ranges::for_each(k_, keep);
    std::ranges::for_each(v_, keep);
    tokens_ = made.kept_tokens;
    n_read_ += n_chunk;
    return made;
}

std::vector<float> finch_layer::keys() const {
    std::vector<float> all;
    for (const std::vector<float> & head : k_) {
        const std::vector<float> one = turned(head, 0);
        all.insert(all.end(), one.begin(), one.end());
    }
    return all;
}

std::vector<float> finch_layer::values() const {
    std::vector<float> all;
    for (const std::vector<float> & head : v_) {
        all.insert(all.end(), head.begin(), head.end());
    }
    return all;
}

}  // namespace livekv
