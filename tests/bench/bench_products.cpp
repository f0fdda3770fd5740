// bench_products: products of rows with packed weights, one thread, every CPU level and type: operations a second for
// many rows and for one, and what packing a row costs. Each result is compared with the plain level's first.
//
//   bench_products [n_in 1024] [n_out 2816] [rows 512] [type, as ggml names it: all]

#include <ggml.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/products.h"
#include "weight_type_pairs.h"

using namespace livekv;

namespace {

// The fastest of several runs by the thread's own time: what others do on the machine is not in it.
double fastest(const std::function<void()> & work) {
    const auto now = [] {
        timespec t{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    };
    double least = INFINITY;
    double total = 0.0;
    for (int run = 0; run < 5 || total < 0.4; ++run) {
        const double start = now();
        work();
        const double took = now() - start;
        least = std::min(least, took);
        total += took;
    }
    return least;
}

struct shape {
    int64_t n_in = 1024;
    int64_t n_out = 2816;
    int64_t n_rows = 512;
};

std::vector<float> random_numbers(int64_t n, uint32_t seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(n));
    for (float & v : x) {
        v = normal(rng);
    }
    return x;
}

// A random matrix and rows, and what each level makes of them.
class products {
  public:
    products(type_pair type, const shape & s) : s_(s), x_(random_numbers(s.n_rows * s.n_in, 2)) {
        const std::vector<float> values = random_numbers(s.n_in * s.n_out, 1);
        std::vector<uint8_t> file(ggml_row_size(type.theirs, s.n_in) * static_cast<size_t>(s.n_out));
        ggml_quantize_chunk(type.theirs, values.data(), file.data(), 0, s.n_out, s.n_in, nullptr);
        w_ = {type.ours, s.n_in, s.n_out, nullptr};
        bytes_.resize(static_cast<size_t>(w_.n_strips()) * w_.strip_bytes() + 64);
        uint8_t * strips = bytes_.data() + (64 - reinterpret_cast<uintptr_t>(bytes_.data()) % 64);
        pack_strips(w_, file.data(), 0, w_.n_strips(), strips);
        w_.strips = strips;
        rows_.resize(packed_row_bytes(s.n_in, s.n_rows));
        y_.resize(static_cast<size_t>(s.n_rows * s.n_out));
    }

    void pack(const cpu_kernels & kernels, int64_t n_rows) {
        for (int64_t r = 0; r < n_rows; r += rows_a_tile) {
            kernels.pack_rows(x_.data() + r * s_.n_in, static_cast<size_t>(s_.n_in), s_.n_in,
                              std::min(rows_a_tile, n_rows - r), rows_.data() + packed_row_bytes(s_.n_in, r));
        }
    }

    // As many rows at a time as the graph's node takes (model/arch/multiply.cpp).
    void multiply(const cpu_kernels & kernels, int64_t n_rows) {
        const int64_t tiles = (512 << 10) / static_cast<int64_t>(packed_row_bytes(s_.n_in, rows_a_tile));
        const int64_t at_once = std::max<int64_t>(1, tiles) * rows_a_tile;
        for (int64_t r = 0; r < n_rows; r += at_once) {
            kernels.multiply(w_, 0, w_.n_strips(), rows_.data() + packed_row_bytes(s_.n_in, r),
                             std::min(at_once, n_rows - r), y_.data() + r * s_.n_out, static_cast<size_t>(s_.n_out));
        }
    }

    // Of the first rows_a_tile rows.
    std::vector<float> result(const cpu_kernels & kernels) {
        const int64_t n = std::min(rows_a_tile, s_.n_rows);
        pack(kernels, n);
        multiply(kernels, n);
        return {y_.begin(), y_.begin() + n * s_.n_out};
    }

  private:
    shape s_;
    std::vector<float> x_;
    packed_matrix w_;
    std::vector<uint8_t> bytes_, rows_;
    std::vector<float> y_;
};

// The largest difference over the largest number.
double difference(const std::vector<float> & a, const std::vector<float> & b) {
    double worst = 0.0;
    double largest = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        worst = std::max(worst, std::fabs(static_cast<double>(a[i]) - b[i]));
        largest = std::max(largest, std::fabs(static_cast<double>(b[i])));
    }
    return worst / largest;
}

}  // namespace

int main(int argc, char ** argv) {
    shape s;
    int64_t * const numbers[] = {&s.n_in, &s.n_out, &s.n_rows};
    for (int i = 1; i < argc && i < 4; ++i) {
        *numbers[i - 1] = std::atoll(argv[i]);
    }
    if (s.n_in < 256 || s.n_in % 256 || s.n_out < 1 || s.n_rows < 1) {
        std::fprintf(stderr, "bench_products: n_in is a multiple of 256, n_out and rows are 1 or more\n");
        return 1;
    }
    ggml_free(ggml_init({0, nullptr, true}));  // its tables of f16
    std::printf("n_in %lld, n_out %lld, %lld rows\n", static_cast<long long>(s.n_in), static_cast<long long>(s.n_out),
                static_cast<long long>(s.n_rows));
    bool known = false;
    for (const type_pair & type : type_pairs) {
        if (argc > 4 && std::strcmp(argv[4], ggml_type_name(type.theirs)) != 0) {
            continue;
        }
        known = true;
        products p(type, s);
        const std::vector<float> plain = p.result(generic_kernels);
        for (const char * name : {"avx2", "avx512"}) {
            const cpu_kernels * kernels = find_cpu_kernels(name);
            if (!kernels) {
                continue;
            }
            const double off = difference(p.result(*kernels), plain);
            if (!(off < 1e-5)) {
                std::fprintf(stderr, "bench_products: %s %s is %g off\n", name, ggml_type_name(type.theirs), off);
                return 1;
            }
            const double pack_s = fastest([&] { p.pack(*kernels, s.n_rows); });
            const double many_s = fastest([&] { p.multiply(*kernels, s.n_rows); });
            p.pack(*kernels, 1);
            const double one_s = fastest([&] { p.multiply(*kernels, 1); });
            const double operations = 2.0 * static_cast<double>(s.n_in * s.n_out);
            std::printf("%-6s %-5s %6.1f GOP/s, one row %6.1f, packing a row %.2f us\n", name,
                        ggml_type_name(type.theirs), 1e-9 * operations * static_cast<double>(s.n_rows) / many_s,
                        1e-9 * operations / one_s, 1e6 * pack_s / static_cast<double>(s.n_rows));
        }
    }
    if (!known) {
        std::fprintf(stderr, "bench_products: no kernels for %s\n", argv[4]);
        return 1;
    }
}
