#include "kernels/attention_ref.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/rotate_rows.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"

namespace livekv {

namespace {

// Keys or values of one kv head in a segment: [n_tokens, head_dim].
std::vector<float> contents(const attention_args & args, const kv_segment & s, int32_t head, bool keys) {
    const uint8_t * blocks = keys ? s.k_blocks : s.v_blocks;
    if (blocks) {
        return unpack_block(blocks + static_cast<size_t>(head) * (keys ? s.k_block_bytes : s.v_block_bytes));
    }
    const uint16_t * rows = keys ? s.k_rows : s.v_rows;
    const size_t d = static_cast<size_t>(args.head_dim);
    std::vector<float> x;
    for (size_t t = 0; t < static_cast<size_t>(s.n_tokens); ++t) {
        for (size_t c = 0; c < d; ++c) {
            x.push_back(
                f16_to_f32(rows[(t * static_cast<size_t>(args.n_head_kv) + static_cast<size_t>(head)) * d + c]));
        }
    }
    return x;
}

// Keys [n_tokens, head_dim] as attention sees them.
std::vector<float> turned(const attention_args & args, const kv_segment & s, std::vector<float> keys) {
    const size_t d = static_cast<size_t>(args.head_dim);
    std::vector<rope_angle> angles(args.turns ? static_cast<size_t>(args.turns->n_pairs) : 0);
    for (size_t t = 0; args.turns && t < keys.size() / d; ++t) {
        rope_angles(*args.turns->params, s.first + static_cast<int64_t>(t), angles);
        rope_turn(*args.turns->params, angles, std::span(keys).subspan(t * d, d));
    }
    return keys;
}

}  // namespace

void attention_reference(const attention_args & args) {
    const size_t d = static_cast<size_t>(args.head_dim);
    for (int32_t head = 0; head < args.n_head; ++head) {
        std::vector<std::vector<float>> k;
        std::vector<std::vector<float>> v;
        for (int64_t i = 0; i < args.n_segments; ++i) {
            const kv_segment & s = args.segments[i];
            k.push_back(turned(args, s, contents(args, s, head / args.group(), true)));
            v.push_back(contents(args, args.segments[i], head / args.group(), false));
        }
        for (int32_t token = 0; token < args.n_tokens; ++token) {
            const size_t at =
                (static_cast<size_t>(token) * static_cast<size_t>(args.n_head) + static_cast<size_t>(head)) * d;
            std::vector<float> q(args.q + at, args.q + at + d);
            rotate_rows(q.data(), args.head_dim, args.k_rotation, 1);
            std::vector<double> scores;
            std::vector<const float *> values;
            for (size_t i = 0; i < k.size(); ++i) {
                const kv_segment & s = args.segments[i];
                const int32_t hidden = i + 1 == k.size() ? args.n_tokens - 1 - token : 0;
                for (int32_t t = s.n_skip; t < s.n_tokens - hidden; ++t) {
                    if (s.first + t < args.first_seen(token)) {
                        continue;
                    }
                    double score = 0.0;
                    for (size_t c = 0; c < d; ++c) {
                        score += static_cast<double>(q[c]) * k[i][static_cast<size_t>(t) * d + c];
                    }
                    scores.push_back(score * args.scale);
                    values.push_back(v[i].data() + static_cast<size_t>(t) * d);
                }
            }
            const double largest = *std::max_element(scores.begin(), scores.end());
            double sum = 0.0;
            std::vector<double> out(d);
            for (size_t t = 0; t < scores.size(); ++t) {
                const double p = std::exp(scores[t] - largest);
                sum += p;
                for (size_t c = 0; c < d; ++c) {
                    out[c] += p * values[t][c];
                }
            }
            std::vector<float> result(d);
            for (size_t c = 0; c < d; ++c) {
                result[c] = static_cast<float>(out[c] / sum);
            }
            rotate_rows(result.data(), args.head_dim, args.v_rotation, 1);
            std::copy(result.begin(), result.end(), args.out + at);
        }
    }
}

}  // namespace livekv
