#pragma once

// A layer of the livekv cache without a model: passes of random rows, and what they left.

#include <cmath>
#include <string>
#include <vector>

#include "check.h"
#include "kv/kv_pack.h"
#include "random_rows.h"
#include "run/layer_step.h"
#include "store/kv_report.h"

constexpr int64_t chunk = 32;

// Chunks of 32 tokens, two heads of an odd 40 channels.
inline livekv::chunk_plan plan_of(int64_t warmup_chunks = 2) {
    livekv::chunk_plan p;
    p.n_head_kv = 2;
    p.head_dim = 40;
    p.chunk_size = chunk;
    p.warmup_chunks = warmup_chunks;
    return p;
}

// Keys and values of a position depend on it and on the text alone, not on the passes that bring them.
inline std::vector<float> row_of(uint32_t text, int64_t position, bool key, size_t n) {
    std::mt19937 rng(text * 1000003u + static_cast<uint32_t>(position) * 2 + key);
    std::vector<float> row(n);
    for (float & x : row) {
        x = livekv::f16_to_f32(livekv::f32_to_f16(random_value(row_kind::normal, 0, rng)));
    }
    return row;
}

class driven_layer {
  public:
    explicit driven_layer(const livekv::chunk_plan & plan)
        : plan_(plan), layer_(livekv::make_layer(plan, false)), step_(layer_, plan_) {}

    driven_layer fork() const {
        driven_layer copy(plan_);
        copy.layer_ = layer_;
        copy.texts_ = texts_;
        return copy;
    }
    driven_layer(driven_layer && other) : driven_layer(other.plan_) {
        layer_ = std::move(other.layer_);
        texts_ = std::move(other.texts_);
    }

    // Everything of a pass but its commit.
    void pass(int64_t n, uint32_t text = 1) {
        begin(n, passing_);
        compute(n, text);
    }
    void begin(int64_t n, livekv::raw_rows & passing) {
        step_.begin(n, layer_.n_tail + n == plan_.chunk_size, true);
        if (step_.passes_through()) {
            passing.reserve(static_cast<size_t>(n) * row(), livekv::host_memory());
            step_.use_rows(passing.k.data(), passing.v.data());
        }
    }
    void compute(int64_t n, uint32_t text) {
        for (int64_t i = 0; i < n; ++i) {
            const int64_t position = layer_.n_tokens() + i;
            CHECK(livekv::host_step::store(step_, kernels_, i, row_of(text, position, true, row()).data(),
                                           row_of(text, position, false, row()).data()));
        }
        for (int64_t job = livekv::host_step::n_seal_jobs(step_) - 1; job >= 0; --job) {  // in any order
            livekv::host_step::seal(step_, kernels_, job, {});
        }
    }

    // Up to n_tokens, at most step at a time and never beyond a chunk's end.
    void grow_to(int64_t n_tokens, int64_t step, uint32_t text = 1) {
        while (layer_.n_tokens() < n_tokens) {
            const int64_t n = std::min({step, n_tokens - layer_.n_tokens(), plan_.chunk_size - layer_.n_tail});
            pass(n, text);
            commit(text);
        }
    }

    void commit(uint32_t text) {
        step_.commit();
        texts_.resize(static_cast<size_t>(layer_.n_tokens()), text);
    }

    void trim(int64_t n) {
        layer_.trim(n);
        texts_.resize(static_cast<size_t>(n));
    }

    // What the next pass would read, without that pass's own token.
    std::vector<livekv::kv_segment> segments() {
        step_.begin(1, false, true);
        const auto seen = host_.segments(step_);
        std::vector<livekv::kv_segment> all(seen.begin(), seen.end());
        all.back().n_tokens -= 1;
        return all;
    }

    // All bytes of it: equal for equal caches.
    std::string contents() {
        std::string all;
        for (const livekv::kv_segment & s : segments()) {
            all += std::to_string(s.n_tokens) + ',' + std::to_string(s.n_skip) + ';';
            const size_t raw = static_cast<size_t>(s.n_tokens) * row() * 2;
            const auto append = [&](const void * p, size_t n) { all.append(static_cast<const char *>(p), n); };
            s.k_blocks ? append(s.k_blocks, 2 * s.k_block_bytes) : append(s.k_rows, raw);
            s.v_blocks ? append(s.v_blocks, 2 * s.v_block_bytes) : append(s.v_rows, raw);
        }
        return all;
    }

    // Largest share of a token's energy by which what is stored differs from what was given, over all tokens; infinite
    // when tokens are missing.
    double worst_error(bool key) {
        const size_t d = static_cast<size_t>(plan_.head_dim);
        size_t position = 0;
        double worst = 0.0;
        for (const livekv::kv_segment & s : segments()) {
            const uint8_t * blocks = key ? s.k_blocks : s.v_blocks;
            const uint16_t * rows = key ? s.k_rows : s.v_rows;
            std::vector<std::vector<float>> unpacked;
            for (size_t head = 0; blocks && head < 2; ++head) {
                unpacked.push_back(livekv::unpack_block(blocks + head * (key ? s.k_block_bytes : s.v_block_bytes)));
            }
            for (size_t t = static_cast<size_t>(s.n_skip); t < static_cast<size_t>(s.n_tokens); ++t, ++position) {
                const std::vector<float> expected =
                    row_of(texts_[position], static_cast<int64_t>(position), key, row());
                double error = 0.0;
                double power = 0.0;
                for (size_t i = 0; i < row(); ++i) {
                    const float got = blocks ? unpacked[i / d][t * d + i % d] : livekv::f16_to_f32(rows[t * row() + i]);
                    error += (static_cast<double>(got) - expected[i]) * (static_cast<double>(got) - expected[i]);
                    power += static_cast<double>(expected[i]) * expected[i];
                }
                worst = std::max(worst, error / power);
            }
        }
        return position == texts_.size() ? worst : INFINITY;
    }

    livekv::kv_layer & layer() { return layer_; }
    const livekv::chunk_plan & plan() const { return plan_; }
    livekv::kv_report report() const {
        livekv::kv_report r;
        livekv::add_layer(r, layer_, plan_.bypass);
        return r;
    }
    size_t bytes() const { return report().bytes.total(); }
    size_t passing_bytes() const { return passing_.bytes(); }

  private:
    size_t row() const { return plan_.row(); }

    const livekv::cpu_kernels & kernels_ = *livekv::find_cpu_kernels("generic");
    livekv::chunk_plan plan_;
    livekv::kv_layer layer_;
    livekv::layer_step step_;
    livekv::host_step host_;
    livekv::raw_rows passing_;
    std::vector<uint32_t> texts_;  // by position
};
