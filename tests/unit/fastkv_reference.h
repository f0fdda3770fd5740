#pragma once

// A small LLaMA in double precision whose cache is FastKV's: what the engine's is held against. Only keys and values
// are rounded, to the f16 that both store.

#include "double_llama.h"
#include "kv/kv_fastkv.h"

namespace fastkv_reference {

using namespace livekv;
using double_llama::row;

class sequence : double_llama::model_parts {
  public:
    sequence(const model & m, const fastkv_method & method, int64_t tsp_layer)
        : model_parts(m), method_(method), tsp_layer_(tsp_layer), caches_(w_.layers.size()) {}

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

    std::vector<row> layer(int64_t il, const std::vector<row> & x, const std::vector<int32_t> & positions) {
        cache & c = caches_[static_cast<size_t>(il)];
        const auto n_kv = static_cast<size_t>(hp_.n_head_kv(il));
        const auto d = static_cast<size_t>(hp_.head_dim(il));
        c.k.resize(n_kv);
        c.v.resize(n_kv);
        c.q.clear();
        std::vector<row> out;
        for (size_t i = 0; i < x.size(); ++i) {
            projections of = project(il, x[i]);
            turn(of.q, positions[i], hp_.head_dim(il));
            turn(of.k, positions[i], hp_.head_dim(il));
            for (size_t head = 0; head < n_kv; ++head) {
                c.k[head].push_back(stored(of.k, head, d));
                c.v[head].push_back(stored(of.v, head, d));
            }
            c.q.push_back(of.q);
            out.push_back(behind(il, x[i], attention(c.k, c.v, of.q, d)));
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

    fastkv_method method_;
    int64_t tsp_layer_;
    std::vector<cache> caches_;  // [n_layer]
    int32_t n_tokens_ = 0;
};

}  // namespace fastkv_reference
