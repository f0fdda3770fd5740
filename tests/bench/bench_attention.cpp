// bench_attention: attention over sealed blocks of one layer, one thread, every CPU level: time, bytes a second and
// operations a second, for decode and for a chunk of queries; and what sealing costs. Checked against the
// double-precision reference first.
//
//   bench_attention [tokens 16384] [bits 4] [key group 128] [zero point 1] [outlier ratio 0.01] [head_dim 128] [outlier
//   ratio of values: as keys] [key channels in classes of width 0, which take outlier ratio 0]

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include "kernels/attention_job.h"
#include "kernels/attention_ref.h"
#include "kernels/seal.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"
#include "memory/host_pool.h"

using namespace livekv;

namespace {

constexpr int32_t n_head = 16;
constexpr int32_t n_head_kv = 4;
constexpr int32_t chunk = 512;

struct settings {
    int32_t n_tokens = 16384;
    int32_t head_dim = 128;
    kv_method method;
};

// The thread's own time: what others do on the machine is not in it.
double seconds(const std::function<void()> & work) {
    const auto now = [] {
        timespec t{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    };
    const double start = now();
    work();
    return now() - start;
}

struct timing {
    double fastest;  // what the work takes where others leave caches and memory alone
    double median;
};

timing time_of(const std::function<void()> & work) {
    std::vector<double> runs;
    for (double total = 0.0; total < 0.6 || runs.size() < 5; total += runs.back()) {
        runs.push_back(seconds(work));
    }
    std::sort(runs.begin(), runs.end());
    return {runs.front(), runs[runs.size() / 2]};
}

class sequence {
  public:
    sequence(const settings & s, const cpu_kernels & kernels) : s_(s) {
        std::mt19937 rng(3);
        std::normal_distribution<float> normal;
        const size_t row = static_cast<size_t>(n_head_kv * s.head_dim);
        rows_.resize(chunk * row);
        for (uint16_t & x : rows_) {
            x = f32_to_f16(normal(rng));
        }
        tail_.assign(rows_.begin(), rows_.begin() + static_cast<int64_t>(64 * row));
        q2_.resize(static_cast<size_t>(s.head_dim));
        for (float & x : q2_) {
            x = std::exp(2.0f * normal(rng));  // widths of 2 to 6 bits
        }
        q_.resize(static_cast<size_t>(64 * n_head * s.head_dim));
        for (float & x : q_) {
            x = normal(rng);
        }
        out_.resize(q_.size());
        k_bytes_ = kv_map(block_header(s.method, kv_side::key, chunk, s.head_dim)).bytes;
        v_bytes_ = kv_map(block_header(s.method, kv_side::value, chunk, s.head_dim)).bytes;
        const int32_t n_chunks = s.n_tokens / chunk;
        chunk_sealer sealer(s.method, kernels);
        for (int32_t i = 0; i < n_chunks; ++i) {
            uint8_t * const at = static_cast<uint8_t *>(host_pool::take(chunk_bytes()));  // as the cache does
            blocks_.push_back(at);
            kv_segment segment;
            segment.n_tokens = chunk;
            segment.k_blocks = at;
            segment.v_blocks = at + n_head_kv * k_bytes_;
            segment.k_block_bytes = k_bytes_;
            segment.v_block_bytes = v_bytes_;
            if (i == 0) {
                seal_s_ = seconds([&] { seal(sealer, at); });
            } else {
                std::copy_n(blocks_[0], chunk_bytes(), at);
            }
            segments_.push_back(segment);
        }
        kv_segment tail;
        tail.k_rows = tail.v_rows = tail_.data();
        segments_.push_back(tail);
    }
    ~sequence() {
        for (uint8_t * p : blocks_) {
            host_pool::give_back(p, chunk_bytes());
        }
    }
    sequence(const sequence &) = delete;
    sequence & operator=(const sequence &) = delete;

    void seal(chunk_sealer & sealer, uint8_t * at) {
        for (int32_t head = 0; head < n_head_kv; ++head) {
            const chunk_rows rows{rows_.data() + head * s_.head_dim, static_cast<size_t>(n_head_kv * s_.head_dim),
                                  chunk, s_.head_dim, 0};
            key_statistics statistics(s_.method, s_.head_dim);
            sealer.split_keys(rows);
            statistics.update(sealer.high(), sealer.low());
            uint8_t * const keys = at + static_cast<size_t>(head) * k_bytes_;
            if (s_.method.key_classes) {
                sealer.seal_keys(statistics, {q2_, {}}, keys);
            } else {
                sealer.seal_keys(statistics, keys);
            }
            sealer.seal_values(rows, at + n_head_kv * k_bytes_ + static_cast<size_t>(head) * v_bytes_);
        }
    }

    attention_args args(int32_t n_new) {
        segments_.back().n_tokens = n_new;
        attention_args a;
        a.q = q_.data();
        a.out = out_.data();
        a.n_tokens = n_new;
        a.n_head = n_head;
        a.n_head_kv = n_head_kv;
        a.head_dim = s_.head_dim;
        a.scale = 1.0f / std::sqrt(static_cast<float>(s_.head_dim));
        a.segments = segments_.data();
        a.n_segments = static_cast<int64_t>(segments_.size());
        return a;
    }

    std::vector<float> & out() { return out_; }
    double seal_s() const { return seal_s_; }
    size_t bytes() const { return blocks_.size() * chunk_bytes(); }

  private:
    size_t chunk_bytes() const { return n_head_kv * (k_bytes_ + v_bytes_); }

    settings s_;
    std::vector<uint16_t> rows_;
    std::vector<uint16_t> tail_;
    std::vector<float> q2_;
    std::vector<float> q_;
    std::vector<float> out_;
    std::vector<uint8_t *> blocks_;  // a chunk's each
    std::vector<kv_segment> segments_;
    size_t k_bytes_ = 0;
    size_t v_bytes_ = 0;
    double seal_s_ = 0.0;
};

double nmse(const std::vector<float> & a, const std::vector<float> & reference, size_t n) {
    double error = 0.0;
    double energy = 0.0;
    for (size_t i = 0; i < n; ++i) {
        error += (a[i] - reference[i]) * static_cast<double>(a[i] - reference[i]);
        energy += static_cast<double>(reference[i]) * reference[i];
    }
    return error / energy;
}

}  // namespace

int main(int argc, char ** argv) {
    settings s;
    const auto number = [&](int i, double otherwise) { return argc > i ? std::atof(argv[i]) : otherwise; };
    s.n_tokens = static_cast<int32_t>(number(1, 16384)) / chunk * chunk;
    s.method.k_bits = s.method.v_bits = static_cast<int32_t>(number(2, 4));
    s.method.scale_method = kv_method::scale::range;
    s.method.key_group = static_cast<int32_t>(number(3, 128));
    s.method.zero_point = number(4, 1) != 0;
    s.method.outlier_ratio = number(5, 0.01);
    s.head_dim = static_cast<int32_t>(number(6, 128));
    s.method.v_outlier_ratio = number(7, s.method.outlier_ratio);
    s.method.key_classes = number(8, 0) != 0;
    std::printf(
        "%d tokens, %d heads, %d kv heads, head_dim %d, %d bits, key group %d, zero point %d, outliers %g, classes %d; "
        "1 thread\n",
        s.n_tokens, n_head, n_head_kv, s.head_dim, s.method.k_bits, s.method.key_group, s.method.zero_point,
        s.method.outlier_ratio, s.method.key_classes);
    std::printf(
        "| level | queries | NMSE | ms | fastest, ms | GB/s of blocks | GOPS | seal a chunk, ms "
        "|\n|---|---:|---:|---:|---:|---:|---:|---:|\n");
    for (const char * name : {"generic", "avx2", "avx512"}) {
        const cpu_kernels * kernels = find_cpu_kernels(name);
        if (!kernels) {
            continue;
        }
        sequence seq(s, *kernels);
        attention_job job(*kernels, 1, s.head_dim);
        for (const int32_t n_new : {1, 64}) {
            const attention_args args = seq.args(n_new);
            double error = NAN;
            if (n_new == 1) {
                attention_reference(args);
                const std::vector<float> reference = seq.out();
                job.prepare({&args, 1});
                job.run(0, args.q, args.out);
                error = nmse(seq.out(), reference, static_cast<size_t>(n_head * s.head_dim));
            }
            const timing t = time_of([&] {
                job.prepare({&args, 1});
                job.run(0, args.q, args.out);
            });
            const double ops = 4.0 * n_new * n_head * static_cast<double>(s.n_tokens) * s.head_dim;
            std::printf("| %s | %d | %.1e | %.3f | %.3f | %.2f | %.1f | %.2f |\n", name, n_new, error, 1e3 * t.median,
                        1e3 * t.fastest, 1e-9 * static_cast<double>(seq.bytes()) / t.median, 1e-9 * ops / t.median,
                        1e3 * seq.seal_s());
            std::fflush(stdout);
        }
    }
}
