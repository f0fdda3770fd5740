#pragma once

// A small LLaMA in double precision, written to be read: what caches of the engine that keep some tokens are held
// against. What it keeps of them is its heirs' concern.

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/model.h"
#include "kv/f16.h"

namespace double_llama {

using namespace livekv;
using row = std::vector<double>;

class model_parts {
  protected:
    explicit model_parts(const model & m) : hp_(m.hp), w_(m.tensors) {}

    // A token's rows of a layer, before RoPE.
    struct projections {
        row q;
        row k;
        row v;
    };

    static row row_of(const ggml_tensor * t, int64_t i) {
        const auto * from = static_cast<const float *>(t->data) + i * t->ne[0];
        return {from, from + t->ne[0]};
    }

    static row times(const ggml_tensor * matrix, const row & x) {
        row y;
        for (int64_t i = 0; i < matrix->ne[1]; ++i) {
            const row weights = row_of(matrix, i);
            double sum = 0.0;
            for (size_t c = 0; c < x.size(); ++c) {
                sum += weights[c] * x[c];
            }
            y.push_back(sum);
        }
        return y;
    }

    row normed(const row & x, const ggml_tensor * weight) const {
        double squares = 0.0;
        for (const double value : x) {
            squares += value * value;
        }
        const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + hp_.norm_rms_eps);
        row y = row_of(weight, 0);
        for (size_t c = 0; c < x.size(); ++c) {
            y[c] *= x[c] * scale;
        }
        return y;
    }

    // RoPE over neighbouring channels.
    void turn(row & x, int32_t position, int64_t head_dim) const {
        for (size_t c = 0; c < x.size(); c += 2) {
            const double pair = static_cast<double>(c % static_cast<size_t>(head_dim));
            const double angle = position * std::pow(10000.0, -pair / static_cast<double>(head_dim));
            const double a = x[c];
            const double b = x[c + 1];
            x[c] = a * std::cos(angle) - b * std::sin(angle);
            x[c + 1] = a * std::sin(angle) + b * std::cos(angle);
        }
    }

    projections project(int64_t il, const row & x) const {
        const layer_weights & w = w_.layers[static_cast<size_t>(il)];
        const row h = normed(x, w.attn_norm);
        return {times(w.wq, h), times(w.wk, h), times(w.wv, h)};
    }

    // What a token's row becomes behind attention.
    row behind(int64_t il, const row & x, const row & attended) const {
        const layer_weights & w = w_.layers[static_cast<size_t>(il)];
        row y = times(w.wo, attended);
        for (size_t e = 0; e < y.size(); ++e) {
            y[e] += x[e];
        }
        const row f = normed(y, w.ffn_norm);
        row gate = times(w.ffn_gate, f);
        const row up = times(w.ffn_up, f);
        for (size_t e = 0; e < gate.size(); ++e) {
            gate[e] *= up[e] / (1.0 + std::exp(-gate[e]));
        }
        const row down = times(w.ffn_down, gate);
        for (size_t e = 0; e < y.size(); ++e) {
            y[e] += down[e];
        }
        return y;
    }

    // A head's part of a row, as f16 has it.
    static row stored(const row & x, size_t head, size_t d) {
        row y;
        for (size_t e = head * d; e < (head + 1) * d; ++e) {
            y.push_back(f16_to_f32(f32_to_f16(static_cast<float>(x[e]))));
        }
        return y;
    }

    // Of a token's queries over all rows, [n_head_kv][n].
    static row attention(const std::vector<std::vector<row>> & k, const std::vector<std::vector<row>> & v,
                         const row & q, size_t d) {
        const size_t group = q.size() / d / k.size();
        row out(q.size());
        for (size_t head = 0; head < q.size() / d; ++head) {
            const std::vector<row> & keys = k[head / group];
            const std::vector<row> & values = v[head / group];
            std::vector<double> weights;
            for (const row & key : keys) {
                double score = 0.0;
                for (size_t e = 0; e < d; ++e) {
                    score += q[head * d + e] * key[e];
                }
                weights.push_back(score / std::sqrt(static_cast<double>(d)));
            }
            const double largest = *std::ranges::max_element(weights);
            double sum = 0.0;
            for (double & weight : weights) {
                sum += weight = std::exp(weight - largest);
            }
            for (size_t t = 0; t < keys.size(); ++t) {
                for (size_t e = 0; e < d; ++e) {
                    out[head * d + e] += weights[t] / sum * values[t][e];
                }
            }
        }
        return out;
    }

    row logits(const row & x) const { return times(w_.output, normed(x, w_.output_norm)); }

    const hparams & hp_;
    const weights & w_;
};

}  // namespace double_llama
