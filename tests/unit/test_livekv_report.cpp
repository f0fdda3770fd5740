// What a layer of the livekv cache says of its bytes and errors.

#include "check.h"
#include "driven_layer.h"
#include "tiny_sequences.h"

using namespace livekv;

TEST(reported_bytes_are_those_of_the_pages) {
    for (const bool keep : {false, true}) {
        chunk_plan plan = plan_of();
        plan.warmup_keep = keep;
        plan.method.outlier_ratio = 0.05;
        driven_layer l(plan);
        l.grow_to(5 * chunk, chunk);
        const kv_report r = l.report();
        const std::vector<kv_segment> s = l.segments();
        size_t pages = 0;
        size_t exact = 0;
        for (size_t i = 1; i + 1 < s.size(); ++i) {
            const size_t rows = 2 * chunk * plan.row();
            pages += (s[i].k_blocks ? 2 * s[i].k_block_bytes : rows) + 2 * s[i].v_block_bytes;
            exact += s[i].k_blocks ? 0 : rows;
        }
        CHECK_EQ(r.bytes.warm_up, exact);
        CHECK_EQ(r.bytes.codes + r.bytes.scales + r.bytes.outliers + r.bytes.padding, pages - exact);
        CHECK_EQ(r.bytes.sinks, 2 * 2 * 4 * plan.row());
        CHECK_EQ(r.bytes.statistics, 5 * plan.row() * sizeof(float));
        CHECK_EQ(r.bytes.tail, 0u);
        CHECK_EQ(r.bytes.total(), pages + r.bytes.sinks + r.bytes.statistics);
        const size_t sealed_keys = keep ? 3 : 5;
        CHECK_EQ(static_cast<size_t>(r.n_sealed), (sealed_keys + 5) * chunk * plan.row());
        CHECK_EQ(r.bytes.codes, static_cast<size_t>(r.n_sealed) / 2);
        CHECK_EQ(static_cast<size_t>(r.n_outliers), sealed_keys * plan.row() * 1 + 5 * chunk * 2 * 2);
    }
}

TEST(sixteen_thousand_tokens_stay_in_the_budget) {
    // 32 layers, 3 of them bypass layers of 8 bits; kv heads are alike.
    chunk_plan plan = plan_of();
    plan.n_head_kv = 1;
    plan.head_dim = 128;
    plan.chunk_size = 512;
    chunk_plan bypass = plan;
    bypass.bypass = true;
    bypass.warmup_chunks = 0;
    bypass.method.k_bits = bypass.method.v_bits = 8;
    bypass.method.scale_method = kv_method::scale::range;
    bypass.method.key_group = 128;
    bypass.method.outlier_ratio = 0.0;
    double bytes[2];
    size_t passing = 0;
    for (const bool is_bypass : {false, true}) {
        driven_layer l(is_bypass ? bypass : plan);
        l.grow_to(16384, 512);
        bytes[is_bypass] = static_cast<double>(l.bytes());
        passing = l.passing_bytes();  // one for all layers
    }
    const double n_values = 2.0 * 32 * 16384 * 128;
    const double by_default = 8.0 * (29 * bytes[0] + 3 * bytes[1] + static_cast<double>(passing)) / n_values;
    const double without_bypass = 8.0 * (32 * bytes[0] + static_cast<double>(passing)) / n_values;
    std::printf("  %.3f bits a value, %.3f without bypass layers\n", by_default, without_bypass);
    CHECK(by_default <= 4.90);
    CHECK(without_bypass <= 4.50);
}

TEST(measured_errors_are_those_of_the_blocks) {
    chunk_plan plan = plan_of(0);
    plan.measure_error = true;
    plan.method.sink_tokens = 0;
    driven_layer l(plan);
    l.grow_to(8 * chunk, chunk);
    const kv_report r = l.report();
    CHECK_EQ(r.layers.size(), 1u);
    CHECK(r.layers[0].k_snr_db > 15.0 && r.layers[0].k_snr_db < 22.0);
    CHECK(r.layers[0].v_snr_db > 19.0 && r.layers[0].v_snr_db < 23.0);
    CHECK(r.n_saturated > 0);  // keys beyond the running maximum
}

TEST(without_a_ratio_there_is_no_signal_to_noise) {
    chunk_plan plan = plan_of(2);
    plan.measure_error = true;
    const auto errors = [](const driven_layer & layer) {
        const kv_report r = layer.report();
        CHECK_EQ(r.layers.size(), 1u);
        return r.layers.at(0);
    };
    driven_layer l(plan);
    CHECK(!errors(l).k_snr_db && !errors(l).v_snr_db);
    l.grow_to(chunk, chunk);  // values are sealed, keys wait for the warm-up's end
    CHECK(!errors(l).k_snr_db && errors(l).v_snr_db);
    l.grow_to(4 * chunk, chunk);
    CHECK(errors(l).k_snr_db && errors(l).v_snr_db);

    plan.seals = false;
    driven_layer raw(plan);
    raw.grow_to(4 * chunk, chunk);
    CHECK(!errors(raw).k_snr_db && !errors(raw).v_snr_db);

    tiny_spec spec;  // keys and values of 0 are sealed without any error
    spec.zeroed_tensor = "blk.1.attn_k.weight";
    spec.edit_values = [](const std::string & name, std::vector<float> & values) {
        if (name == "blk.0.attn_v.weight") {
            std::fill(values.begin(), values.end(), 0.0f);
        }
    };
    session_params p = tiny_sequences::params_of("livekv", 32);
    p.kv.measure_error = true;
    p.kv.warmup_chunks = 0;
    session s(tiny_sequences::tiny_model(spec), p);
    s.prefill(tiny_sequences::some_tokens(128));
    const std::vector<kv_report::layer_error> layers = s.cache().report().layers;
    CHECK(layers.at(0).k_snr_db && !layers.at(0).v_snr_db);
    CHECK(!layers.at(1).k_snr_db && layers.at(1).v_snr_db);
}

TEST_MAIN
