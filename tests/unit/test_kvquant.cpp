// Blocks of policy kvquant hold the codes and outliers of its scalar reference, and attention over them on every CPU
// level this machine runs is that of the double-precision reference. A layer's chunks hold what the calibration says.

#include <cmath>
#include <cstring>
#include <random>

#include "attention_setups.h"
#include "check.h"
#include "driven_layer.h"
#include "kvquant_rows.h"
#include "policy/kvquant_seal.h"
#include "random_rows.h"
#include "temporary_folder.h"

using namespace livekv;

namespace {

constexpr double exact_nmse = 1e-6;  // nothing is rounded but sums in f32, and turns

// A calibration of one layer whose thresholds cut off every key beyond 1.5.
kv_calibration some_calibration(int32_t bits, int64_t n_head_kv, int64_t head_dim) {
    kv_calibration c;
    c.bits = bits;
    kv_calibration::layer layer{n_head_kv, head_dim, {}, {}, {}};
    layer.keys.assign(static_cast<size_t>(n_head_kv * head_dim), {-1.5f, 1.5f});
    for (int32_t i = 0; i < 1 << bits; ++i) {
        layer.k_codebook.push_back(-1.0f + 2.0f * static_cast<float>(i) / static_cast<float>((1 << bits) - 1));
    }
    layer.v_codebook = layer.k_codebook;
    c.layers.push_back(layer);
    return c;
}

kv_shape one_layer() {
    kv_shape shape;
    shape.n_ctx = 100000;
    shape.layers.resize(1);
    shape.layers[0].n_head = 4;
    shape.layers[0].n_head_kv = 2;
    shape.layers[0].head_dim = 40;
    shape.layers[0].rope.n_rot = 40;
    return shape;
}

kv_options some_options(const std::string & path, int64_t bits) {
    kv_options o;
    o.policy = "kvquant";
    o.bits = bits;
    o.chunk_size = chunk;
    o.calibration = path;
    return o;
}

}  // namespace

TEST(a_block_holds_what_the_reference_says) {
    std::mt19937 rng(3);
    for (const row_kind kind : all_row_kinds) {
        for (const int32_t bits : {2, 3, 4}) {
            for (const kv_side side : {kv_side::key, kv_side::value}) {
                for (const int64_t n : {1, 15, 32, 70, 130}) {
                    for (const int64_t d : {16, 40, 264}) {
                        IN(name_of(kind), " bits=", bits, " side=", static_cast<int>(side), " n=", n, " d=", d);
                        const int64_t n_sinks = n > 15 ? 1 : 0;
                        const std::vector<float> x = random_rows(kind, n, d, rng);
                        const kvquant_rows q = quantized_rows(side, bits, x, d, n_sinks);
                        const int64_t n_outlying = kvquant_outlying(q.tokens, d, n_sinks);
                        const kv_block_header h =
                            kv_codebook_header(side, static_cast<int32_t>(n), static_cast<int32_t>(d), bits,
                                               static_cast<uint32_t>(n_outlying + 3));
                        const std::vector<uint8_t> block = kvquant_block(h, x, q.tokens, q.ranges, q.codebook, n_sinks);
                        CHECK_EQ(block.size(), kv_map(h).bytes);
                        CHECK_EQ(kvquant_outliers_of(block.data()), n_outlying);
                        const sealed_chunk sealed = read_block(block.data());
                        CHECK_EQ(static_cast<int64_t>(sealed.outlier_index.size()), n_outlying);
                        const std::vector<float> stored = unpack_block(block.data());
                        bool same = true;
                        bool near = true;
                        for (size_t i = static_cast<size_t>(n_sinks * d); i < x.size(); ++i) {
                            const size_t at =
                                side == kv_side::key ? i % static_cast<size_t>(d) : i / static_cast<size_t>(d);
                            const float size = std::fabs(q.ranges[at].middle()) + q.ranges[at].half();
                            same = same && sealed.codes[i] == q.tokens.codes[i];
                            same = same && (!q.tokens.outlier[i] || stored[i] == x[i]);
                            near = near && std::fabs(stored[i] - q.tokens.reconstruction[i]) <= 2e-3f * size + 1e-6f;
                        }
                        CHECK(same);
                        CHECK(near);
                    }
                }
            }
        }
    }
}

TEST(outliers_of_all_tiles_are_found_again) {
    // A token of nothing but outliers, tiles without any, and one at either end.
    const int64_t n = 130;
    const int64_t d = 16;
    std::vector<float> x(static_cast<size_t>(n * d), 0.5f);
    for (const size_t i : {size_t{16}, size_t{17}, size_t{31 * 16 + 15}, size_t{96 * 16}, x.size() - 1}) {
        x[i] = -7.0f;
    }
    std::fill_n(x.begin() + 100 * 16, 16, 9.0f);
    const std::vector<kvquant_range> ranges(static_cast<size_t>(d), {-1.0f, 1.0f});
    const std::vector<float> codebook = {-1.0f, 0.0f, 0.5f, 1.0f};
    const kvquant_tokens tokens = kvquant_quantize(x, d, ranges, true, codebook, 0);
    CHECK_EQ(kvquant_outlying(tokens, d, 0), 21);
    CHECK_EQ(kvquant_outlying(tokens, d, 2), 19);
    const kv_block_header h = kv_codebook_header(kv_side::key, n, d, 2, 21);
    CHECK(unpack_block(kvquant_block(h, x, tokens, ranges, codebook, 0).data()) == x);
}

TEST(room_for_outliers_beyond_16_bits) {
    const kv_block_header h = kv_codebook_header(kv_side::value, 4096, 2048, 4, 5000000);
    CHECK_EQ(kv_map(h).n_outlying, 5000000);
}

TEST(blocks_beside_rows_before_and_after_their_turn) {
    for (const int32_t bits : {2, 3, 4}) {
        IN("bits=", bits);
        for_each_turn([&](sequence_setup s) {
            s.kvquant_bits = bits;
            s.heavy_channel = 12;
            s.zero_channel = 7;
            random_sequence seq(s);
            seq.add(1, false, false);
            seq.add(96, true, true, 1);
            seq.add(33, true, true);
            seq.add(70, true, true, 0, 96);
            seq.add(40, false, false);
            check_worst(seq, exact_nmse);
        });
    }
}

TEST(grouped_queries_head_sizes_and_awkward_lengths) {
    for_awkward_shapes([](sequence_setup s, int32_t n) {
        const rope_tiles tiles(rope_of(rope_order::neox, s.head_dim));
        s.turns = &tiles.turns();
        s.kvquant_bits = 2 + n % 3;
        random_sequence seq(s);
        seq.add(n, true, true);
        seq.add(std::max(n, s.n_new), false, false);
        check_worst(seq, exact_nmse);
    });
}

TEST(long_contexts_in_spans_and_windows) {
    const rope_tiles tiles(rope_of(rope_order::normal, 64));
    check_long_contexts(exact_nmse, [&](sequence_setup & s) {
        s.turns = &tiles.turns();
        s.kvquant_bits = 3;
    });
}

TEST(a_layer_seals_by_its_calibration_whatever_the_passes) {
    const temporary_folder folder;
    const std::string path = folder.file("c");
    for (const int32_t bits : {2, 4}) {
        const kv_calibration calibration = some_calibration(bits, 2, 40);
        write_kv_calibration(path, calibration);
        const chunk_plan plan = plan_chunks(some_options(path, bits), one_layer()).front();
        CHECK(plan.turns && plan.state_floats() == 0);
        std::string whole;
        for (const int64_t step : {32, 7, 1}) {
            driven_layer l(plan);
            l.grow_to(2 * chunk + 5, step);
            CHECK_EQ(l.layer().chunks.size(), 2u);
            CHECK_EQ(l.layer().chunks[0].n_sinks, 1);
            CHECK_EQ(l.layer().chunks[1].n_sinks, 0);
            CHECK(whole.empty() || l.contents() == whole);
            whole = l.contents();
            CHECK(l.worst_error(true) < (bits == 2 ? 0.3 : 0.02));
            CHECK(l.worst_error(false) < (bits == 2 ? 0.6 : 0.04));
            int64_t n_beyond = 0;  // of the keys, but the first token's
            for (int64_t t = 1; t < 2 * chunk; ++t) {
                const std::vector<float> row = row_of(1, t, true, plan.row());
                n_beyond += std::count_if(row.begin(), row.end(), [](float x) { return std::fabs(x) > 1.5f; });
            }
            const kv_report r = l.report();
            CHECK_EQ(r.n_outliers, n_beyond);  // of 80 values a token none is cut off: rint(0.005 * 79) is 0
            const size_t raw = 2 * 2 * 2 * 40;
            CHECK_EQ(r.bytes.sinks, raw);
            CHECK_EQ(r.bytes.codes, static_cast<size_t>(2 * chunk * 2 * 80 * bits / 8));
        }
        driven_layer l(plan);
        l.grow_to(3 * chunk, chunk);
        const std::string before = l.contents();
        driven_layer other = l.fork();
        other.grow_to(4 * chunk + 1, 9);
        CHECK(l.contents() == before);
        other.trim(exact_trim(plan, other.layer(), 2 * chunk + 5));
        CHECK_EQ(other.layer().n_tokens(), 2 * chunk);
        other.grow_to(3 * chunk, 5);
        CHECK(other.contents() == before);
    }
}

TEST(a_calibration_of_another_shape_or_width_is_refused) {
    const temporary_folder folder;
    const std::string path = folder.file("c");
    write_kv_calibration(path, some_calibration(3, 2, 40));
    CHECK_ERROR(plan_chunks(some_options(path, 4), one_layer()), "kv_bits: 4, but '");
    CHECK_ERROR(plan_chunks(some_options(path, 4), one_layer()), "' is a calibration for 3 bits");
    kv_shape shape = one_layer();
    shape.model = [] { return model_facts{{"n_layer", "1"}}; };
    CHECK_ERROR(plan_chunks(some_options(path, 3), shape),
                "a calibration of another model: it says nothing of n_layer");
    kv_calibration named = some_calibration(3, 2, 40);
    named.model = {{"n_layer", "2"}};
    write_kv_calibration(path, named);
    CHECK_ERROR(plan_chunks(some_options(path, 3), shape), "its n_layer was 2, this one's is 1");
    named.model = {{"n_layer", "1"}};
    write_kv_calibration(path, named);
    plan_chunks(some_options(path, 3), shape);
    named.model.emplace_back("weights", "abc");
    write_kv_calibration(path, named);
    CHECK_ERROR(plan_chunks(some_options(path, 3), shape), "of which more is said than of this one");
    shape.model = [] { return model_facts{{"n_layer", "1"}, {"weights", "abd"}}; };
    CHECK_ERROR(plan_chunks(some_options(path, 3), shape), "its weights differ");
    write_kv_calibration(path, some_calibration(3, 2, 48));
    CHECK_ERROR(plan_chunks(some_options(path, 3), one_layer()), "its layers have other shapes");
    CHECK_ERROR(plan_chunks(some_options(folder.file("none"), 3), one_layer()), "cannot open");
    CHECK_ERROR(some_options("", 3).check(), "calibration: the cache kvquant needs one");
    CHECK_ERROR(some_options("x", 5).check(), "kv_bits: the cache kvquant has 2, 3 or 4 bits");
}

TEST(errors_are_measured_of_what_is_sealed) {
    const temporary_folder folder;
    const std::string path = folder.file("c");
    double before = 0.0;
    for (const int32_t bits : {2, 4}) {
        write_kv_calibration(path, some_calibration(bits, 2, 40));
        kv_options o = some_options(path, bits);
        o.measure_error = true;
        driven_layer l(plan_chunks(o, one_layer()).front());
        l.grow_to(2 * chunk, chunk);
        const kv_report r = l.report();
        CHECK(r.layers.size() == 1 && r.layers[0].k_snr_db && r.layers[0].v_snr_db);
        CHECK(*r.layers[0].k_snr_db > before + 8.0);
        before = *r.layers[0].k_snr_db;
    }
}

TEST_MAIN
