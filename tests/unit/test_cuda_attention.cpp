// Attention by the device's kernels, on the device or emulated thread by thread, against the double-precision reference
// over the same blocks.

#include <tuple>

#include "cuda_sequences.h"
#include "kernels/cpu/rotate_rows.h"
#include "kernels/cuda/simt.h"

using namespace livekv;
using device::attention_kernel;

namespace {

// Queries, keys, values and weights are rounded to f16 for the tensor cores: each adds about 1e-7 of the energy.
constexpr double half_nmse = 1e-5;
// The plain kernel rounds nothing but its sums in f32.
constexpr double plain_nmse = 1e-9;

struct worst_of {
    double step = 0.0;
    double rows = 0.0;
    double plain = 0.0;
};

worst_of check_all(device_sequence & seq, const sequence_setup & s, double limit = half_nmse,
                   double plain_limit = plain_nmse) {
    const std::vector<float> expected = seq.reference();
    worst_of w;
    const auto one = [&](attention_kernel kernel, double allowed) {
        const double e = nmse(seq.run(kernel), expected);
        if (!(e <= allowed)) {
            check::report(__FILE__, __LINE__,
                          std::string(kernel == attention_kernel::plain  ? "plain"
                                      : kernel == attention_kernel::step ? "step"
                                                                         : "rows") +
                              ": NMSE " + check::text(e) + ", allowed " + check::text(allowed));
        }
        return e;
    };
    w.plain = one(attention_kernel::plain, plain_limit);
    if (device::has_fast_attention(s.head_dim, key_width(s.method), s.method.v_bits)) {
        w.step = one(attention_kernel::step, limit);
        w.rows = one(attention_kernel::rows, limit);
    }
    return w;
}

kv_method default_method() {
    kv_method m;
    m.scale_method = kv_method::scale::ema_clipped;
    m.key_group = 128;
    m.zero_point = true;
    m.outlier_ratio = 0.005;
    m.v_outlier_ratio = 0.0;
    return m;
}

kv_method class_method(int32_t bits, int32_t quarters = 0) {
    kv_method m = default_method();
    m.k_bits = bits;
    m.key_quarters = quarters;
    m.key_classes = true;
    m.outlier_ratio = 0.0;
    return m;
}

}  // namespace

TEST(a_key_far_ahead_of_the_others_gives_its_value) {
    // One-hot keys and a huge query: the answer needs no computation.
    sequence_setup s;
    s.n_head = s.n_head_kv = 1;
    s.q_size = 400.0f;
    device_sequence seq(s);
    seq.add(40, false, false);
    check_all(seq, s, 1e-3, 1e-6);  // the best two scores may be close: their difference is worth a rounding step
}

TEST(rows_alone) {
    for (const int32_t n : {1, 2, 31, 32, 33, 100}) {
        IN("n=", n);
        sequence_setup s;
        device_sequence seq(s);
        seq.add(n, false, false);
        check_all(seq, s);
    }
}

TEST(blocks_of_every_width_and_awkward_length) {
    worst_of worst;
    for (const int32_t head_dim : {64, 128}) {
        for (const auto & [k_bits, v_bits] : {std::pair{4, 4}, {5, 4}, {4, 3}, {8, 8}, {2, 5}}) {
            for (const bool zero_point : {false, true}) {
                for (const int32_t n : {1, 4, 15, 17, 31, 33, 65, 103, 160}) {
                    IN("head_dim=", head_dim, " k_bits=", k_bits, " v_bits=", v_bits, " zero_point=", zero_point,
                       " n=", n);
                    sequence_setup s;
                    s.n_head = 4;
                    s.n_head_kv = 1;
                    s.head_dim = head_dim;
                    s.method.k_bits = k_bits;
                    s.method.v_bits = v_bits;
                    s.method.scale_method = kv_method::scale::range;
                    s.method.zero_point = zero_point;
                    s.method.key_group = 64;
                    s.method.outlier_ratio = n % 2 ? 0.02 : 0.0;
                    device_sequence seq(s);
                    seq.add(n, true, true);
                    seq.add(3, false, false);
                    const worst_of w = check_all(seq, s);
                    worst = {std::max(worst.step, w.step), std::max(worst.rows, w.rows),
                             std::max(worst.plain, w.plain)};
                }
            }
        }
    }
    std::printf("     worst NMSE: step %.1e, rows %.1e, plain %.1e\n", worst.step, worst.rows, worst.plain);
}

TEST(keys_in_classes_of_width) {
    worst_of worst;
    for (const int32_t head_dim : {8, 40, 64, 128, 264}) {
        for (const auto & [bits, quarters, v_bits] :
             {std::tuple{4, 0, 4}, {3, 0, 3}, {2, 1, 2}, {5, 3, 4}, {2, 0, 5}}) {
            for (const int32_t n : {1, 15, 17, 33, 103, 160}) {
                if (!device::has_fast_attention(head_dim, bits_by_class, v_bits) && n > 33) {
                    continue;  // the plain kernel alone
                }
                IN("head_dim=", head_dim, " bits=", bits, " quarters=", quarters, " v_bits=", v_bits, " n=", n);
                sequence_setup s;
                s.n_head = 4;
                s.n_head_kv = 1;
                s.head_dim = head_dim;
                s.method = class_method(bits, quarters);
                s.method.v_bits = v_bits;
                s.method.key_group = n % 2 ? 64 : 128;
                s.method.v_outlier_ratio = n == 33 ? 0.02 : 0.0;
                s.heavy_channel = n % 4 ? 3 : -1;
                for (int32_t c = 0; c < head_dim; ++c) {
                    s.q_channels.push_back(std::exp2(-0.2f * static_cast<float>(c * 7 % 37)));
                }
                device_sequence seq(s);
                seq.add(n, true, true);
                seq.add(40, true, false);
                seq.add(33, false, true);
                seq.add(20, true, true, 0, 64);  // trimmed
                seq.add(3, false, false);
                const worst_of w = check_all(seq, s);
                worst = {std::max(worst.step, w.step), std::max(worst.rows, w.rows), std::max(worst.plain, w.plain)};
            }
        }
    }
    std::printf("     worst NMSE: step %.1e, rows %.1e, plain %.1e\n", worst.step, worst.rows, worst.plain);
}

// So many heads that few spans fill the GPU: a warp of decode goes from group to group and from block to block.
TEST(a_warp_goes_through_many_classes) {
    for (const int32_t head_dim : {64, 128}) {
        for (const int32_t group : {32, 64}) {
            IN("head_dim=", head_dim, " group=", group);
            sequence_setup s;
            s.n_head = s.n_head_kv = 8;
            s.head_dim = head_dim;
            s.method = class_method(3, 1);
            s.method.key_group = group;
            s.heavy_channel = 5;
            device_sequence seq(s);
            seq.add_sinks(4);
            for (const int32_t n : {64, 40, 70, 160, 64, 96}) {
                seq.add(n, n != 70, true);
            }
            seq.add(20, false, false);
            check_all(seq, s);
        }
    }
}

TEST(keys_of_every_width_there_is) {
    for (const int32_t head_dim : {64, 128}) {
        IN("head_dim=", head_dim);
        sequence_setup s;
        s.head_dim = head_dim;
        s.n_new = 3;
        s.method = class_method(4, 1);
        s.method.key_group = 32;
        s.every_width = true;
        device_sequence seq(s);
        seq.add(150, true, true);
        seq.add(45, true, true);
        seq.add(4, false, false);
        check_all(seq, s);
    }
}

// Channels far from 0, as biases make them: what all keys of a channel have in common takes no part in the weights.
TEST(offsets_of_key_channels_cost_nothing) {
    double without[2] = {};
    for (const float offset : {0.0f, 60.0f, 300.0f}) {
        IN("offset=", offset);
        sequence_setup s;
        s.head_dim = 128;
        s.n_new = 5;
        s.method = class_method(4);
        s.offset_channels = 9;
        s.offset = offset;
        device_sequence seq(s);
        seq.add(160, true, true);
        seq.add(9, false, false);
        const std::vector<float> expected = seq.reference();
        for (const attention_kernel kernel : {attention_kernel::step, attention_kernel::rows}) {
            const double e = nmse(seq.run(kernel), expected);
            double & least = without[kernel == attention_kernel::rows];
            least = offset == 0.0f ? e : least;
            std::printf("     offset %g: NMSE %.1e\n", static_cast<double>(offset), e);
            CHECK(e < 4.0 * least);
        }
    }
}

TEST(every_query_group_and_head_dim) {
    for (int32_t group = 1; group <= 8; ++group) {
        for (const int32_t head_dim : {8, 40, 64, 72, 128, 256, 264}) {
            IN("group=", group, " head_dim=", head_dim);
            sequence_setup s;
            s.n_head_kv = 2;
            s.n_head = 2 * group;
            s.head_dim = head_dim;
            s.method = default_method();
            s.method.outlier_ratio = 0.02;
            device_sequence seq(s);
            seq.add(96, true, true);
            seq.add(33, false, false);
            check_all(seq, s);
        }
    }
}

TEST(many_queries_see_only_what_is_before_them) {
    for (const int32_t n_new : {2, 3, 17, 64, 70}) {
        for (const int32_t before : {0, 1, 30}) {
            IN("n_new=", n_new, " before=", before);
            sequence_setup s;
            s.n_new = n_new;
            s.method = default_method();
            device_sequence seq(s);
            seq.add(64, true, true);
            seq.add(before + n_new, false, false);
            check_all(seq, s);
        }
    }
}

TEST(sinks_warm_up_keys_and_shortened_blocks) {
    for (const int32_t n_new : {1, 5}) {
        IN("n_new=", n_new);
        sequence_setup s;
        s.n_new = n_new;
        s.method = default_method();
        s.method.v_outlier_ratio = 0.02;
        device_sequence seq(s);
        seq.add_sinks(4);
        seq.add(64, false, true, 4);  // warm-up: exact keys, sealed values, the sinks left out
        seq.add(64, true, true);
        seq.add(37, true, true, 0, 64);  // trimmed
        seq.add(40, true, false);
        seq.add(20, false, false);
        check_all(seq, s);
    }
}

TEST(long_contexts_are_cut_into_spans_and_joined) {
    sequence_setup s;
    s.n_head = 4;
    s.n_head_kv = 1;
    s.head_dim = 128;
    s.method = default_method();
    device_sequence seq(s);
    for (int32_t i = 0; i < 4; ++i) {
        seq.add(512, true, true);
    }
    seq.add(70, false, false);
    check_all(seq, s);
    CHECK(seq.run(attention_kernel::step) == seq.run(attention_kernel::step));
    CHECK(seq.run(attention_kernel::rows) == seq.run(attention_kernel::rows));
}

TEST(rotated_storage_gives_the_same_attention) {
    for (const int32_t head_dim : {64, 96, 128}) {
        IN("head_dim=", head_dim);
        sequence_setup s;
        s.head_dim = head_dim;
        s.rotation = head_dim == 96 ? 32 : head_dim;
        s.method = default_method();
        device_sequence seq(s);
        seq.add(64, true, true);
        seq.add(9, false, false);
        check_all(seq, s);
    }
}

TEST(extreme_values_stay_finite_and_close) {
    for (const float size : {1e-3f, 30.0f}) {
        IN("size=", size);
        sequence_setup s;
        s.k_size = size;
        s.method = default_method();
        device_sequence seq(s);
        seq.add(64, true, true);
        seq.add(9, false, false);
        check_all(seq, s, size > 1.0f ? 1e-2 : half_nmse, size > 1.0f ? 1e-4 : plain_nmse);
    }
    for (const float q_size : {0.0f, 1e-20f, 1e20f, 3e38f}) {
        IN("q_size=", q_size);
        sequence_setup s;
        s.q_size = q_size;
        s.method = default_method();
        device_sequence seq(s);
        seq.add(64, true, true);
        seq.add(9, false, false);
        for (const attention_kernel kernel :
             {attention_kernel::plain, attention_kernel::step, attention_kernel::rows}) {
            for (const float x : seq.run(kernel)) {
                CHECK(std::isfinite(x));
            }
        }
    }
}

TEST(rows_are_stored_as_the_cpu_stores_them) {
    std::mt19937 rng(4);
    for (const int32_t d : {8, 40, 64, 128}) {
        IN("head_dim=", d);
        constexpr int32_t n = 5;
        constexpr int32_t heads = 2;
        const size_t size = static_cast<size_t>(n * heads * d);
        std::vector<float> x[2] = {random_rows(row_kind::heavy_tailed, n * heads, d, rng),
                                   random_rows(row_kind::subnormal, n * heads, d, rng)};
        x[0][1] *= 1.001f;  // not a number of f16
        const device_buffer from[2] = {device_buffer(x[0]), device_buffer(x[1])};
        const device_buffer to[2] = {device_buffer(2 * size), device_buffer(2 * size)};
        auto * const bad = static_cast<uint32_t *>(device::allocate_on_host(sizeof(uint32_t)));
        *bad = UINT32_MAX;
        device_store args;
        args.n_tokens = n;
        args.n_head_kv = heads;
        args.head_dim = d;
        args.bad = bad;
        for (int32_t i = 0; i < 2; ++i) {
            args.sides[i] = {from[i].as<float>(), static_cast<size_t>(heads * d), to[i].as<uint16_t>(), i * 8};
        }
        device::store_rows(args, nullptr);
        for (int32_t i = 0; i < 2; ++i) {
            std::vector<uint16_t> expected;
            for (size_t first = 0; first < size; first += static_cast<size_t>(d)) {
                rotate_rows(x[i].data() + first, d, i * 8, 1);
            }
            for (const float v : x[i]) {
                expected.push_back(f32_to_f16(v));
            }
            CHECK(to[i].read<uint16_t>() == expected);
        }
        CHECK_EQ(*bad, UINT32_MAX);
        std::vector<float> broken = x[0];
        broken[static_cast<size_t>(3 * heads * d)] = 1e6f;
        const device_buffer broken_rows(broken);
        args.sides[0].from = broken_rows.as<float>();
        device::store_rows(args, nullptr);
        device::wait(nullptr);
        CHECK_EQ(*bad, 3u);
        device::release_on_host(bad);
    }
}

TEST(rows_with_what_is_no_number_are_found) {
    constexpr int32_t n = 5;
    constexpr int32_t n_values = 150;
    auto * const bad = static_cast<uint32_t *>(device::allocate_on_host(sizeof(uint32_t)));
    const auto first_bad = [&](const std::vector<float> & values, float largest) {
        const device_buffer from(values);
        device_rows rows;
        rows.from = from.as<float>();
        rows.stride = n_values + 10;
        rows.n_rows = n;
        rows.n_values = n_values;
        rows.largest = largest;
        rows.first = 100;
        rows.bad = bad;
        *bad = UINT32_MAX;
        device::check_rows(rows, nullptr);
        device::wait(nullptr);
        return *bad;
    };
    const std::vector<float> good(n * (n_values + 10), -8.0f);
    CHECK_EQ(first_bad(good, 8.0f), UINT32_MAX);
    for (const float value : {NAN, -INFINITY, 8.001f, -8.001f}) {
        std::vector<float> broken = good;
        broken[n_values] = value;  // between two rows
        CHECK_EQ(first_bad(broken, 8.0f), UINT32_MAX);
        broken[4 * (n_values + 10)] = value;
        CHECK_EQ(first_bad(broken, 8.0f), 104u);
        broken[2 * (n_values + 10) + n_values - 1] = value;
        CHECK_EQ(first_bad(broken, 8.0f), 102u);
    }
    device::release_on_host(bad);
}

#if !defined(__CUDACC__)
TEST(the_order_of_threads_does_not_matter) {
    for (const auto & [head_dim, k_bits, v_bits, outliers] :
         {std::tuple{128, 4, 4, 0.005}, {64, 5, 4, 0.0}, {64, 8, 8, 0.02}, {64, bits_by_class, 4, 0.0}}) {
        IN("head_dim=", head_dim, " k_bits=", k_bits, " v_bits=", v_bits);
        sequence_setup s;
        s.n_head = s.n_head_kv = 4;  // so that few spans fill the GPU, and a warp has several tiles
        s.n_new = 3;
        s.head_dim = head_dim;
        const bool by_class = k_bits == bits_by_class;
        s.rotation = head_dim == 64 && !by_class ? 32 : 0;
        s.method = by_class ? class_method(3, 1) : default_method();
        s.method.k_bits = by_class ? 3 : k_bits;
        s.method.v_bits = v_bits;
        s.method.key_group = 32;
        s.method.outlier_ratio = outliers;
        s.method.v_outlier_ratio = 0.02;
        device_sequence seq(s);
        seq.add_sinks(4);
        seq.add(288, true, true, 4);
        seq.add(33, false, true);
        seq.add(50, true, true);
        seq.add(20, false, false);
        for (const attention_kernel kernel :
             {attention_kernel::step, attention_kernel::rows, attention_kernel::plain}) {
            if (kernel == attention_kernel::plain && k_bits != 4) {
                continue;  // slow, and the same for every width
            }
            const std::vector<float> forward = seq.run(kernel);
            IN("kernel ", static_cast<int>(kernel));
            for (const simt::emulated::order o : simt::emulated::all_orders) {
                IN("order ", static_cast<int>(o));
                simt::emulated::set_order(o);
                CHECK(seq.run(kernel) == forward);
            }
            simt::emulated::set_order(simt::emulated::order::forward);
            simt::emulated::set_late_writes(true);
            CHECK(seq.run(kernel) == forward);
            simt::emulated::set_late_writes(false);
        }
    }
}
#endif

TEST_MAIN
