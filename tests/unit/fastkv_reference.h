#pragma once

// A small LLaMA in double precision whose cache is FastKV's, written to be read: what the engine's is held against.
// Only keys and values are rounded, to the f16 that both store.

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/model.h"
#include "kv/f16.h"
#include "kv/kv_fastkv.h"

namespace fastkv_reference {

using namespace livekv;
using row = std::vector<double>;

class sequence {
  public:
    sequence(const model & m, const fastkv_method & method, int64_t tsp_layer)
        : hp_(m.hp), w_(m.tensors), method_(method), tsp_layer_(tsp_layer), caches_(w_.layers.size()) {}

    // The prompt, all of it; the last token's logits.
    row read(const std::vector<int32_t> & tokens) {
        std::vector<row> x;
        std::vector<int32_t> positions;
        for (const int32_t token : tokens) {
            x.push_back(row_of(w_.token_embd, token));
            positions.push_back(n_tokens_++);
        }
        for (int64_t il = 0; il < hp_.n_layer; ++il) {
            x = layer(il, x, positions);
            const fastkv_choice chosen = choose(il, tsp_layer_ < il);
            keep(il, chosen);
            if (il == tsp_layer_) {
                going_on = chosen.going_on;
                std::vector<row> fewer;
                std::vector<int32_t> theirs;
                for (const int32_t i : going_on) {
                    fewer.push_back(x[static_cast<size_t>(i)]);
                    theirs.push_back(positions[static_cast<size_t>(i)]);
                }
                x = fewer;
                positions = theirs;
            }
        }
        return logits(x.back());
    }

    // A token after the prompt.
    row append(int32_t token) {
        std::vector<row> x = {row_of(w_.token_embd, token)};
        for (int64_t il = 0; il < hp_.n_layer; ++il) {
            x = layer(il, x, {n_tokens_});
        }
        ++n_tokens_;
        return logits(x.back());
    }

    std::vector<int32_t> going_on;

  private:
    // Of one layer: a kv head's rows, each head's tokens its own.
    struct cache {
        std::vector<std::vector<row>> k;  // [n_head_kv][n]
        std::vector<std::vector<row>> v;
        std::vector<row> q;  // of the pass, [n_head * head_dim]
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

    std::vector<row> layer(int64_t il, const std::vector<row> & x, const std::vector<int32_t> & positions) {
        const layer_weights & w = w_.layers[static_cast<size_t>(il)];
        cache & c = caches_[static_cast<size_t>(il)];
        const auto n_kv = static_cast<size_t>(hp_.n_head_kv(il));
        const auto d = static_cast<size_t>(hp_.head_dim(il));
        c.k.resize(n_kv);
        c.v.resize(n_kv);
        c.q.clear();
        std::vector<row> out;
        for (size_t i = 0; i < x.size(); ++i) {
            const row h = normed(x[i], w.attn_norm);
            row q = times(w.wq, h);
            row k = times(w.wk, h);
            const row v = times(w.wv, h);
            turn(q, positions[i], hp_.head_dim(il));
            turn(k, positions[i], hp_.head_dim(il));
            for (size_t head = 0; head < n_kv; ++head) {
                row of_k;
                row of_v;
                for (size_t e = head * d; e < (head + 1) * d; ++e) {
                    of_k.push_back(f16_to_f32(f32_to_f16(static_cast<float>(k[e]))));
                    of_v.push_back(f16_to_f32(f32_to_f16(static_cast<float>(v[e]))));
                }
                c.k[head].push_back(of_k);
                c.v[head].push_back(of_v);
            }
            c.q.push_back(q);
            row y = times(w.wo, attention(c, q, d));
            for (size_t e = 0; e < y.size(); ++e) {
                y[e] += x[i][e];
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
            out.push_back(y);
        }
        return out;
    }

    // Of the newest token, over all rows.
    static row attention(const cache & c, const row & q, size_t d) {
        const size_t group = q.size() / d / c.k.size();
        row out(q.size());
        for (size_t head = 0; head < q.size() / d; ++head) {
            const std::vector<row> & k = c.k[head / group];
            const std::vector<row> & v = c.v[head / group];
            std::vector<double> weights;
            for (const row & key : k) {
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
            for (size_t t = 0; t < k.size(); ++t) {
                for (size_t e = 0; e < d; ++e) {
                    out[head * d + e] += weights[t] / sum * v[t][e];
                }
            }
        }
        return out;
    }

    fastkv_choice choose(int64_t il, bool is_later) const {
        const cache & c = caches_[static_cast<size_t>(il)];
        const int64_t d = hp_.head_dim(il);
        const size_t n = c.k.front().size();
        const size_t n_window = std::min<size_t>(n, fastkv_window);
        std::vector<float> q;
        std::vector<float> k;
        for (size_t head = 0; head < static_cast<size_t>(hp_.n_head(il)); ++head) {
            for (size_t i = n - n_window; i < n; ++i) {
                const auto from = c.q[i].begin() + static_cast<std::ptrdiff_t>(head) * d;
                q.insert(q.end(), from, from + d);
            }
        }
        for (const std::vector<row> & of_head : c.k) {
            for (const row & key : of_head) {
                k.insert(k.end(), key.begin(), key.end());
            }
        }
        const float scale = 1.0f / std::sqrt(static_cast<float>(d));
        return fastkv_choose(method_, q, k, hp_.n_head(il), hp_.n_head_kv(il), d, scale, is_later);
    }

    void keep(int64_t il, const fastkv_choice & chosen) {
        cache & c = caches_[static_cast<size_t>(il)];
        for (std::vector<std::vector<row>> * side : {&c.k, &c.v}) {
            for (size_t head = 0; head < side->size(); ++head) {
                std::vector<row> rows;
                for (const int32_t i : chosen.kept[head]) {
                    rows.push_back((*side)[head][static_cast<size_t>(i)]);
                }
                (*side)[head] = rows;
            }
        }
    }

    row logits(const row & x) const { return times(w_.output, normed(x, w_.output_norm)); }

    const hparams & hp_;
    const weights & w_;
    fastkv_method method_;
    int64_t tsp_layer_;
    std::vector<cache> caches_;  // [n_layer]
    int32_t n_tokens_ = 0;
};

}  // namespace fastkv_reference
