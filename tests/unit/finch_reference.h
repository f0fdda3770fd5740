#pragma once

// A small LLaMA in double precision whose cache is Finch's: what the engine's is held against. Keys, before RoPE, and
// values are rounded to the f16 that both store. What a layer keeps is the scalar reference's choice (finch_layer.h).

#include <memory>

#include "double_llama.h"
#include "kv/finch_layer.h"

namespace finch_reference {

using namespace livekv;
using double_llama::row;

class sequence : double_llama::model_parts {
  public:
    sequence(const model & m, const finch_method & method)
        : model_parts(m), method_(method), caches_(w_.layers.size()) {}

    // The context in chunks, each with the question behind it, then the question; the last token's logits.
    row read(const std::vector<int32_t> & context, const std::vector<int32_t> & question, int64_t chunk_size) {
        for (int64_t il = 0; il < hp_.n_layer; ++il) {
            rope_params rope = hp_.rope(il, false);
            const finch_layer::shape shape = {hp_.n_head(il), hp_.n_head_kv(il), hp_.head_dim(il)};
            layers_.push_back(
                std::make_unique<finch_layer>(method_, shape, rope, std::ssize(context), std::ssize(question)));
        }
        for (size_t done = 0; done < context.size();) {
            const size_t n = std::min(static_cast<size_t>(chunk_size), context.size() - done);
            std::vector<int32_t> tokens(context.begin() + static_cast<std::ptrdiff_t>(done),
                                        context.begin() + static_cast<std::ptrdiff_t>(done + n));
            tokens.insert(tokens.end(), question.begin(), question.end());
            std::vector<row> x = embedded(tokens);
            for (int64_t il = 0; il < hp_.n_layer; ++il) {
                x = layer(il, x, n);
            }
            n_positions_ = layers_.front()->n_kept();
            done += n;
        }
        row last;
        for (const int32_t token : question) {
            last = append(token);
        }
        return last;
    }

    // A token that stays.
    row append(int32_t token) {
        std::vector<row> x = embedded({token});
        for (int64_t il = 0; il < hp_.n_layer; ++il) {
            x = layer(il, x, 0);
        }
        ++n_positions_;
        return logits(x.back());
    }

    // Of the last chunk, each layer's.
    std::vector<std::vector<int32_t>> kept_tokens = {};

  private:
    struct cache {
        std::vector<std::vector<row>> k;  // [n_head_kv][n], turned
        std::vector<std::vector<row>> v;
    };

    std::vector<row> embedded(const std::vector<int32_t> & tokens) const {
        std::vector<row> x;
        for (const int32_t token : tokens) {
            x.push_back(row_of(w_.token_embd, token));
        }
        return x;
    }

    // n_chunk: of x, the first rows, a chunk's, behind which the question is; 0: tokens that stay.
    std::vector<row> layer(int64_t il, const std::vector<row> & x, size_t n_chunk) {
        cache & c = caches_[static_cast<size_t>(il)];
        const auto n_kv = static_cast<size_t>(hp_.n_head_kv(il));
        const auto d = static_cast<size_t>(hp_.head_dim(il));
        c.k.resize(n_kv);
        c.v.resize(n_kv);
        const size_t n_question = n_chunk > 0 ? x.size() - n_chunk : 0;
        std::vector<float> q(static_cast<size_t>(hp_.n_head(il)) * n_question * d);
        std::vector<float> k_question(n_kv * n_question * d);
        std::vector<float> k(n_kv * n_chunk * d);
        std::vector<float> v(n_kv * n_chunk * d);
        // Of row i among n, heads first.
        const auto put = [&](std::vector<float> & to, const row & from, size_t head, size_t n, size_t i) {
            std::copy(from.begin(), from.end(), to.begin() + static_cast<std::ptrdiff_t>((head * n + i) * d));
        };
        std::vector<row> out;
        for (size_t i = 0; i < x.size(); ++i) {
            projections of = project(il, x[i]);
            const auto position = static_cast<int32_t>(n_positions_ + static_cast<int64_t>(i));
            for (size_t head = 0; head < n_kv; ++head) {
                row key = stored(of.k, head, d);
                const row value = stored(of.v, head, d);
                if (i < n_chunk) {
                    put(k, key, head, n_chunk, i);
                    put(v, value, head, n_chunk, i);
                } else if (n_chunk > 0) {
                    put(k_question, key, head, n_question, i - n_chunk);
                }
                turn(key, position, hp_.head_dim(il));
                c.k[head].push_back(key);
                c.v[head].push_back(value);
            }
            for (size_t head = 0; n_chunk > 0 && i >= n_chunk && head < of.q.size() / d; ++head) {
                const auto from = of.q.begin() + static_cast<std::ptrdiff_t>(head * d);
                put(q, row(from, from + static_cast<std::ptrdiff_t>(d)), head, n_question, i - n_chunk);
            }
            turn(of.q, position, hp_.head_dim(il));
            out.push_back(behind(il, x[i], attention(c.k, c.v, of.q, d)));
        }
        if (n_chunk > 0) {
            condense(il, {q, k_question, k, v});
        }
        return out;
    }

    void condense(int64_t il, const finch_layer::rows & rows) {
        finch_layer & of = *layers_[static_cast<size_t>(il)];
        kept_tokens.resize(static_cast<size_t>(hp_.n_layer));
        kept_tokens[static_cast<size_t>(il)] = of.add(rows).kept_tokens;
        cache & c = caches_[static_cast<size_t>(il)];
        const auto n = static_cast<size_t>(of.n_kept());
        const auto d = static_cast<size_t>(hp_.head_dim(il));
        const std::vector<float> keys = of.keys();
        const std::vector<float> values = of.values();
        for (size_t head = 0; head < c.k.size(); ++head) {
            c.k[head].clear();
            c.v[head].clear();
            for (size_t i = 0; i < n; ++i) {
                const auto at = static_cast<std::ptrdiff_t>((head * n + i) * d);
                const auto end = at + static_cast<std::ptrdiff_t>(d);
                c.k[head].emplace_back(keys.begin() + at, keys.begin() + end);
                c.v[head].emplace_back(values.begin() + at, values.begin() + end);
            }
        }
    }

    finch_method method_;
    std::vector<std::unique_ptr<finch_layer>> layers_;  // [n_layer]
    std::vector<cache> caches_;                         // [n_layer]
    int64_t n_positions_ = 0;
};

}  // namespace finch_reference
