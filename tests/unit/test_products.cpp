// Products with packed weights, at every CPU level, against double precision over what ggml says the file's blocks
// stand for and over rows rounded as kernels/products.h says.

#include <ggml.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <utility>

#include "check.h"
#include "kernels/cpu/kernels.h"
#include "kernels/products.h"
#include "weight_type_pairs.h"

using namespace livekv;

namespace {

std::vector<const cpu_kernels *> levels() {
    std::vector<const cpu_kernels *> all;
    for (const char * name : {"generic", "avx2", "avx512"}) {
        if (const cpu_kernels * k = find_cpu_kernels(name)) {
            all.push_back(k);
        }
    }
    return all;
}

std::vector<float> random_numbers(size_t n, uint32_t seed, float mean) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(mean, 1.0f);
    std::vector<float> x(n);
    for (float & v : x) {
        v = normal(rng);
    }
    return x;
}

struct matrix {
    packed_matrix packed;
    std::vector<uint8_t> bytes;
    std::vector<float> values;  // [n_out, n_in]
};

// values: [n_out, n_in]
matrix matrix_of(type_pair type, int64_t n_in, int64_t n_out, std::vector<float> values) {
    ggml_free(ggml_init({0, nullptr, true}));  // its tables of f16
    matrix m;
    m.values = std::move(values);
    std::vector<uint8_t> file(ggml_row_size(type.theirs, n_in) * static_cast<size_t>(n_out));
    ggml_quantize_chunk(type.theirs, m.values.data(), file.data(), 0, n_out, n_in, nullptr);
    ggml_get_type_traits(type.theirs)->to_float(file.data(), m.values.data(), n_in * n_out);
    m.packed = {type.ours, n_in, n_out, nullptr};
    m.bytes.resize(static_cast<size_t>(m.packed.n_strips()) * m.packed.strip_bytes() + 64);
    uint8_t * strips = m.bytes.data() + (64 - reinterpret_cast<uintptr_t>(m.bytes.data()) % 64);
    pack_strips(m.packed, file.data(), 0, m.packed.n_strips(), strips);
    m.packed.strips = strips;
    return m;
}

matrix random_matrix(type_pair type, int64_t n_in, int64_t n_out) {
    return matrix_of(type, n_in, n_out, random_numbers(static_cast<size_t>(n_in * n_out), 7, 0.3f));
}

std::vector<float> multiply(const cpu_kernels & kernels, const matrix & m, const std::vector<float> & x,
                            int64_t n_rows) {
    const int64_t n_in = m.packed.n_in;
    std::vector<uint8_t> rows(packed_row_bytes(n_in, n_rows));
    for (int64_t r = 0; r < n_rows; r += rows_a_tile) {
        kernels.pack_rows(x.data() + r * n_in, static_cast<size_t>(n_in), n_in, std::min(rows_a_tile, n_rows - r),
                          rows.data() + packed_row_bytes(n_in, r));
    }
    std::vector<float> y(static_cast<size_t>(n_rows * m.packed.n_out), std::numeric_limits<float>::quiet_NaN());
    kernels.multiply(m.packed, 0, m.packed.n_strips(), rows.data(), n_rows, y.data(),
                     static_cast<size_t>(m.packed.n_out));
    return y;
}

// Rows as 8 bits with a scale for every 32 say them.
std::vector<double> rounded(const std::vector<float> & x) {
    std::vector<double> all;
    for (size_t i = 0; i < x.size(); i += 32) {
        float largest = 0.0f;
        for (size_t k = 0; k < 32; ++k) {
            largest = std::max(largest, std::fabs(x[i + k]));
        }
        for (size_t k = 0; k < 32; ++k) {
            all.push_back(largest > 0.0f ? std::nearbyint(x[i + k] * (127.0f / largest)) * (largest / 127.0f) : 0.0f);
        }
    }
    return all;
}

void check_product(const cpu_kernels & kernels, const matrix & m, const std::vector<float> & x) {
    const int64_t n_in = m.packed.n_in;
    const int64_t n_rows = static_cast<int64_t>(x.size()) / n_in;
    const std::vector<double> x8 = rounded(x);
    const std::vector<float> y = multiply(kernels, m, x, n_rows);
    double worst = 0.0;
    for (int64_t r = 0; r < n_rows; ++r) {
        for (int64_t n = 0; n < m.packed.n_out; ++n) {
            double expected = 0.0;
            double size = 0.0;  // of the sum's terms
            for (int64_t i = 0; i < n_in; ++i) {
                const double term = x8[static_cast<size_t>(r * n_in + i)] * m.values[static_cast<size_t>(n * n_in + i)];
                expected += term;
                size += std::fabs(term);
            }
            const double error = std::fabs(y[static_cast<size_t>(r * m.packed.n_out + n)] - expected) / size;
            worst = error <= worst ? worst : error;
        }
    }
    CHECK(worst < 2e-6);
}

}  // namespace

TEST(products_agree_with_double_precision) {
    for (const cpu_kernels * kernels : levels()) {
        for (const type_pair & type : type_pairs) {
            const int64_t span = format_of(type.ours).span;
            for (const int64_t n_in : {span, 3 * span}) {
                for (const int64_t n_out : {1, 16, 39}) {
                    const matrix m = random_matrix(type, n_in, n_out);
                    for (const int64_t n_rows : {1, 2, 3, 7, 8, 13, 16}) {
                        IN(kernels->name, " ", ggml_type_name(type.theirs), " ", n_in, " to ", n_out, ", rows ",
                           n_rows);
                        check_product(*kernels, m, random_numbers(static_cast<size_t>(n_rows * n_in), 11, 0.2f));
                    }
                }
            }
        }
    }
}

// Where sums have 16 bits, these are the largest.
TEST(the_largest_codes_times_the_largest_bytes_fit) {
    for (const cpu_kernels * kernels : levels()) {
        for (const type_pair & type : type_pairs) {
            for (const float first : {-1.0f, 1.0f}) {  // of 16; where all are equal, some types have codes of 0
                for (const float others : {-1.0f, 1.0f}) {
                    std::vector<float> values(16 * 256, others);
                    for (size_t i = 0; i < values.size(); i += 16) {
                        values[i] = first;
                    }
                    const matrix m = matrix_of(type, 256, 16, values);
                    for (const float x : {-1.0f, 1.0f}) {
                        IN(kernels->name, " ", ggml_type_name(type.theirs), " ", first, " ", others, " times ", x);
                        check_product(*kernels, m, std::vector<float>(8 * 256, x));
                    }
                }
            }
        }
    }
}

TEST(a_row_does_not_depend_on_the_others) {
    for (const cpu_kernels * kernels : levels()) {
        for (const type_pair & type : type_pairs) {
            IN(kernels->name, " ", ggml_type_name(type.theirs));
            const matrix m = random_matrix(type, 256, 32);
            const std::vector<float> x = random_numbers(13 * 256, 5, 0.0f);
            const std::vector<float> all = multiply(*kernels, m, x, 13);
            for (size_t r = 0; r < 13; ++r) {
                const std::vector<float> one = multiply(
                    *kernels, m,
                    {x.begin() + static_cast<ptrdiff_t>(256 * r), x.begin() + static_cast<ptrdiff_t>(256 * r + 256)},
                    1);
                CHECK(std::memcmp(one.data(), all.data() + 32 * r, 32 * sizeof(float)) == 0);
            }
        }
    }
}

TEST(what_is_not_a_number_stays_none_in_its_row_and_a_row_of_zeros_gives_zeros) {
    for (const cpu_kernels * kernels : levels()) {
        for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                                -std::numeric_limits<float>::infinity()}) {
            IN(kernels->name, " ", bad);
            const matrix m = random_matrix(type_pairs[5], 256, 16);
            std::vector<float> x = random_numbers(3 * 256, 5, 0.0f);
            x[256 + 77] = bad;
            std::fill(x.begin() + 512, x.end(), 0.0f);
            const std::vector<float> y = multiply(*kernels, m, x, 3);
            for (size_t n = 0; n < 16; ++n) {
                CHECK(std::isfinite(y[n]));
                CHECK(std::isnan(y[16 + n]));
                CHECK(y[32 + n] == 0.0f);
            }
        }
    }
}

TEST(the_vector_levels_give_the_same_bits) {
    const cpu_kernels * a = find_cpu_kernels("avx2");
    const cpu_kernels * b = find_cpu_kernels("avx512");
    if (!a || !b) {
        SKIP("this machine runs fewer than two");
    }
    for (const type_pair & type : type_pairs) {
        IN(ggml_type_name(type.theirs));
        const matrix m = random_matrix(type, 512, 48);
        const std::vector<float> x = random_numbers(5 * 512, 3, 0.0f);
        CHECK(multiply(*a, m, x, 5) == multiply(*b, m, x, 5));
    }
}

TEST_MAIN
