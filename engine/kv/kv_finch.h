#pragma once

// Finch (policy finch; arXiv 2408.00167): a context is read in chunks, each followed by the question, and a layer keeps
// of it what the question looks at. Of c entries that it has kept and a chunk of m tokens, its columns, and a question
// of n_q tokens behind them, all at positions 0, 1, ...: with softmax over all keys, causal within the question,
//
//   score_i = sum over the question's tokens p, f_p times the sum over query heads of the weight p gives to column i
//   f_p     = (c + m + p + 1) / (c + m + n_q), the share of keys that p sees; or 1
//
// The best c + floor(m / factor) columns are kept, in their order; equal scores: the lower column. What the question's
// tokens left is forgotten.

#include <cstdint>
#include <span>
#include <vector>

namespace livekv {

struct finch_method {
    int64_t target_tokens = 1024;  // the most that a layer has of a context and its question
    bool normalize = true;         // f_p

    // How many tokens of a context of n_context one is kept of: ceil(n_context / (target_tokens - n_question)), where
    // the question is shorter than the target.
    int64_t factor(int64_t n_context, int64_t n_question) const;

    // f_p of token p of a question of n_question behind n_columns.
    float row_factor(int64_t n_columns, int64_t n_question, int64_t p) const;
};

// The n_kept columns of the highest scores, ascending. score: [n_columns], n_kept <= n_columns.
std::vector<int32_t> finch_best(std::span<const float> score, int64_t n_kept);

}  // namespace livekv
