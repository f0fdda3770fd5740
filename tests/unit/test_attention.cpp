// Attention over blocks and rows, every CPU level this machine runs, against the double-precision reference over the
// same blocks; and the running softmax.

#include <cmath>
#include <cstring>
#include <random>

#include "check.h"
#include "error.h"
#include "kernels/attention_job.h"
#include "kernels/attention_ref.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"

using namespace livekv;

namespace {

// Queries and softmax weights are rounded to 8 bits, which loses up to 1e-4 of the output's energy; where both keys and
// values are f16 rows nothing is rounded but sums in f32.
constexpr double rounded_nmse = 1e-4;
constexpr double exact_nmse = 1e-6;

struct setup {
    int32_t n_head = 4;
    int32_t n_head_kv = 2;
    int32_t head_dim = 64;
    int32_t n_new = 1;
    int32_t rotation = 0;
    kv_method method;
    float k_size = 1.0f;  // standard deviation of keys
    float q_size = 1.0f;
    int32_t zero_channel = -1;   // all zeros in keys and values
    int32_t heavy_channel = -1;  // 30 times as large, with a mean
};

std::vector<const cpu_kernels *> levels() {
    std::vector<const cpu_kernels *> all;
    for (const char * name : {"generic", "avx2", "avx512"}) {
        if (const cpu_kernels * k = find_cpu_kernels(name)) {
            all.push_back(k);
        }
    }
    return all;
}

// A random sequence stored in segments, with the memory they point to.
class sequence {
  public:
    explicit sequence(const setup & s) : s_(s) {}

    // n tokens in blocks of the keys, values or both; what is not is rows. block_tokens: sealed; n: of them visible.
    void add(int32_t n, bool k_blocks, bool v_blocks, int32_t n_skip = 0, int32_t block_tokens = 0) {
        block_tokens = block_tokens ? block_tokens : n;
        kv_segment segment;
        segment.n_tokens = n;
        segment.n_skip = n_skip;
        fill(true, k_blocks, block_tokens, n_skip, segment);
        fill(false, v_blocks, block_tokens, n_skip, segment);
        segments_.push_back(segment);
    }

    attention_args args(std::vector<float> & out) {
        if (q_.empty()) {
            std::normal_distribution<float> normal(0.0f, s_.q_size);
            q_.resize(static_cast<size_t>(s_.n_new * s_.n_head * s_.head_dim));
            for (float & x : q_) {
                x = normal(rng_);
            }
        }
        out.assign(q_.size(), NAN);
        attention_args a;
        a.q = q_.data();
        a.out = out.data();
        a.n_tokens = s_.n_new;
        a.n_head = s_.n_head;
        a.n_head_kv = s_.n_head_kv;
        a.head_dim = s_.head_dim;
        a.k_rotation = s_.rotation;
        a.v_rotation = s_.rotation / 2;
        a.scale = 1.0f / std::sqrt(static_cast<float>(s_.head_dim));
        a.segments = segments_.data();
        a.n_segments = static_cast<int64_t>(segments_.size());
        return a;
    }

  private:
    void fill(bool keys, bool blocks, int32_t n, int32_t n_sinks, kv_segment & segment) {
        std::normal_distribution<float> normal(0.0f, keys ? s_.k_size : 1.0f);
        const size_t d = static_cast<size_t>(s_.head_dim);
        std::vector<uint16_t> rows(static_cast<size_t>(n * s_.n_head_kv) * d);
        for (size_t i = 0; i < rows.size(); ++i) {
            const int32_t c = static_cast<int32_t>(i % d);
            const float x = normal(rng_);
            rows[i] = f32_to_f16(c == s_.zero_channel ? 0.0f : c == s_.heavy_channel ? 20.0f + 10.0f * x : x);
        }
        if (!blocks) {
            memory_.emplace_back(rows.size() * 2);
            std::memcpy(memory_.back().data(), rows.data(), rows.size() * 2);
            (keys ? segment.k_rows : segment.v_rows) = reinterpret_cast<const uint16_t *>(memory_.back().data());
            return;
        }
        std::vector<uint8_t> all;
        for (int32_t head = 0; head < s_.n_head_kv; ++head) {
            std::vector<float> chunk;
            for (size_t t = 0; t < static_cast<size_t>(n); ++t) {
                for (size_t c = 0; c < d; ++c) {
                    chunk.push_back(
                        f16_to_f32(rows[(t * static_cast<size_t>(s_.n_head_kv) + static_cast<size_t>(head)) * d + c]));
                }
            }
            const kv_block_header h = block_header(s_.method, keys ? kv_side::key : kv_side::value, n, s_.head_dim);
            key_statistics statistics(s_.method, s_.head_dim);
            observe_keys(s_.method, statistics, chunk, n_sinks);
            const std::vector<uint8_t> block =
                pack_block(h, keys ? seal_keys(s_.method, statistics, chunk, s_.head_dim, n_sinks)
                                   : seal_values(s_.method, chunk, s_.head_dim, n_sinks));
            all.insert(all.end(), block.begin(), block.end());
        }
        memory_.push_back(all);
        (keys ? segment.k_blocks : segment.v_blocks) = memory_.back().data();
        (keys ? segment.k_block_bytes : segment.v_block_bytes) = all.size() / static_cast<size_t>(s_.n_head_kv);
    }

    setup s_;
    std::mt19937 rng_{11};
    std::vector<std::vector<uint8_t>> memory_;
    std::vector<kv_segment> segments_;
    std::vector<float> q_;
};

std::vector<float> run(sequence & seq, const cpu_kernels & level, int32_t n_threads = 1) {
    std::vector<float> out;
    const attention_args args = seq.args(out);
    attention_job job(level, n_threads, args.head_dim);
    job.prepare(args);
    for (int32_t t = 0; t < n_threads; ++t) {
        job.run(t, args.q, args.out);
    }
    return out;
}

double nmse(const std::vector<float> & a, const std::vector<float> & reference) {
    double error = 0.0;
    double energy = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        error += std::pow(static_cast<double>(a[i]) - reference[i], 2);
        energy += std::pow(static_cast<double>(reference[i]), 2);
    }
    return error / energy;
}

// The worst of all levels.
double worst_nmse(sequence & seq) {
    std::vector<float> reference;
    attention_reference(seq.args(reference));
    double worst = 0.0;
    for (const cpu_kernels * level : levels()) {
        const double e = nmse(run(seq, *level), reference);
        worst = std::isfinite(e) ? std::max(worst, e) : INFINITY;
    }
    return worst;
}

#define CHECK_BELOW(value, limit)                                                                                   \
    do {                                                                                                            \
        const double v_ = (value);                                                                                  \
        if (!(v_ <= (limit)))                                                                                       \
            check::report(__FILE__, __LINE__, #value " is " + check::text(v_) + ", allowed " + check::text(limit)); \
    } while (0)

}  // namespace

TEST(rows_alone_are_exact) {
    for (const int32_t n : {1, 2, 31, 32, 33, 100, 515}) {
        setup s;
        sequence seq(s);
        seq.add(n, false, false);
        CHECK_BELOW(worst_nmse(seq), exact_nmse);
    }
}

TEST(blocks_of_every_width_and_awkward_length) {
    double worst = 0.0;
    for (const int32_t bits : {2, 3, 4, 5, 8}) {
        for (const bool zero_point : {false, true}) {
            for (const int32_t n : {1, 4, 15, 16, 17, 31, 32, 33, 63, 64, 65, 103, 512}) {
                setup s;
                s.n_head = 32;
                s.n_head_kv = 8;
                s.method.k_bits = s.method.v_bits = bits;
                s.method.scale_method = kv_method::scale::range;
                s.method.zero_point = zero_point;
                s.method.key_group = 64;
                sequence seq(s);
                seq.add(n, true, true);
                seq.add(3, false, false);
                const double e = worst_nmse(seq);
                CHECK_BELOW(e, bits == 8 ? exact_nmse : rounded_nmse);
                worst = std::max(worst, e);
            }
        }
    }
    std::printf("     worst NMSE %.2e\n", worst);
}

TEST(every_query_group_and_head_dim) {
    for (int32_t group = 1; group <= 8; ++group) {
        for (const int32_t head_dim : {8, 40, 64, 72, 128, 256, 264}) {
            setup s;
            s.n_head_kv = 8;
            s.n_head = 8 * group;
            s.head_dim = head_dim;
            s.method.outlier_ratio = 0.02;
            sequence seq(s);
            seq.add(96, true, true);
            seq.add(33, false, false);
            CHECK_BELOW(worst_nmse(seq), rounded_nmse);
        }
    }
}

TEST(many_queries_see_only_what_is_before_them) {
    for (const int32_t n_new : {2, 3, 16, 17, 64}) {
        for (const int32_t before : {0, 1, 30}) {
            setup s;
            s.n_new = n_new;
            sequence seq(s);
            seq.add(64, true, true);
            seq.add(before + n_new, false, false);
            CHECK_BELOW(worst_nmse(seq), rounded_nmse);
        }
    }
}

TEST(sinks_warm_up_keys_and_shortened_blocks) {
    setup s;
    s.n_new = 5;
    sequence seq(s);
    seq.add(4, false, false);     // sinks
    seq.add(64, false, true, 4);  // warm-up: exact keys, sealed values, the sinks left out
    seq.add(64, true, true);
    seq.add(37, true, true, 0, 64);  // trimmed
    seq.add(40, true, false);
    seq.add(20, false, false);
    CHECK_BELOW(worst_nmse(seq), rounded_nmse);
}

TEST(long_contexts_are_cut_into_spans_and_joined) {
    setup s;
    s.n_head = s.n_head_kv = 1;
    sequence seq(s);
    for (int32_t i = 0; i < 12; ++i) {
        seq.add(512, true, true);
    }
    seq.add(7, false, false);
    CHECK_BELOW(worst_nmse(seq), rounded_nmse);
    for (const cpu_kernels * level : levels()) {
        CHECK(run(seq, *level, 1) == run(seq, *level, 4));
    }
}

TEST(rotated_storage_gives_the_same_attention) {
    for (const int32_t head_dim : {64, 96, 128}) {
        setup s;
        s.head_dim = head_dim;
        s.rotation = head_dim == 96 ? 32 : head_dim;
        sequence seq(s);
        seq.add(64, true, true);
        seq.add(9, false, false);
        CHECK_BELOW(worst_nmse(seq), rounded_nmse);
    }
}

TEST(extreme_values_stay_finite_and_close) {
    for (const float size : {1e-6f, 1e-3f, 30.0f}) {
        setup s;
        s.k_size = size;
        sequence seq(s);
        seq.add(64, true, true);
        seq.add(9, false, false);
        CHECK_BELOW(worst_nmse(seq),
                    size > 1.0f ? 1e-2 : rounded_nmse);  // huge scores: a rounding step is worth a whole nat
    }
    for (const float q_size : {0.0f, 1e-20f, 1e20f, 3e38f}) {
        setup s;
        s.q_size = q_size;
        sequence seq(s);
        seq.add(64, true, true);
        seq.add(9, false, false);
        for (const cpu_kernels * level : levels()) {
            for (const float x : run(seq, *level)) {
                CHECK(std::isfinite(x));
            }
        }
    }
}

TEST(a_zero_channel_and_a_heavy_one) {
    for (const bool zero_point : {false, true}) {
        setup s;
        s.zero_channel = 5;
        s.heavy_channel = 9;
        s.q_size = 0.3f;
        s.method.scale_method = kv_method::scale::range;
        s.method.zero_point = zero_point;
        sequence seq(s);
        seq.add(128, true, true);
        seq.add(9, false, false);
        CHECK_BELOW(worst_nmse(seq), 1e-3);  // the heavy channel's step of 1/127 is felt by its 31 neighbours
    }
}

TEST_MAIN
