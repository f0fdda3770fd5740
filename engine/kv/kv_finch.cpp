#include "kv/kv_finch.h"

#include <algorithm>
#include <numeric>

#include "error.h"

namespace livekv {

int64_t finch_method::factor(int64_t n_context, int64_t n_question) const {
    const int64_t room = target_tokens - n_question;
    LIVEKV_ASSERT(n_context > 0 && room > 0);
    return (n_context + room - 1) / room;
}

float finch_method::row_factor(int64_t n_columns, int64_t n_question, int64_t p) const {
    return normalize ? static_cast<float>(static_cast<double>(n_columns + p + 1) /
                                          static_cast<double>(n_columns + n_question))
                     : 1.0f;
}

std::vector<int32_t> finch_best(std::span<const float> score, int64_t n_kept) {
    std::vector<int32_t> all(score.size());
    std::iota(all.begin(), all.end(), 0);
    const auto better = [&](int32_t a, int32_t b) {
        const float of_a = score[static_cast<size_t>(a)];
        const float of_b = score[static_cast<size_t>(b)];
        return of_a != of_b ? of_a > of_b : a < b;
    };
    std::nth_element(all.begin(), all.begin() + n_kept, all.end(), better);
    all.resize(static_cast<size_t>(n_kept));
    std::ranges::sort(all);
    return all;
}

}  // namespace livekv
