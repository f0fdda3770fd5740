// Files of every version there was, as they were written then, and options that came and went since.

#include <cmath>
#include <functional>

#include "error.h"
#include "kv/f16.h"
#include "policy/saved_options.h"
#include "run/chunked_cache.h"
#include "saved_sequence.h"

using namespace livekv;
using namespace kv_saved;

namespace {

std::string recorded(const char * name) {
    return std::string(LIVEKV_ROOT) + "/tests/fixtures/" + name;
}

// The session that was recorded: 90 tokens of a prompt, 20 of another text one by one.
session_params recorded_params() {
    session_params p;
    p.n_ctx = 400;
    p.n_threads = 1;
    p.kv.chunk_size = 32;
    p.kv.bits = kv_bits(5, 3);
    p.kv.outlier_ratio = 0.02;
    p.kv.key_group = 32;
    return p;
}

// A session whose key channels have widths of their own, with sealed chunks, keys still exact, and a tail.
std::unique_ptr<session> session_of_classes(const std::shared_ptr<const model> & m) {
    session_params p;
    p.n_ctx = 400;
    p.n_threads = 1;
    p.kv.chunk_size = 32;
    p.kv.key_group = 32;
    p.kv.key_alloc = kv_key_alloc::block;
    p.kv.outlier_ratio = 0.0;
    auto s = std::make_unique<session>(m, p);
    s->prefill(some_tokens(90));
    decode(*s, 20, 4);
    return s;
}

// Its file, but with layers as change leaves them.
std::vector<uint8_t> file_with(const session & s, const std::function<void(kv_layer &)> & change) {
    const auto & cache = dynamic_cast<const chunked_cache &>(s.cache());
    std::vector<kv_layer> layers = cache.layers_on_host();
    for (kv_layer & layer : layers) {
        change(layer);
    }
    const model & m = s.get_model();
    const temporary_file file(".kv");
    write_kv_file(file.path(), m.fingerprint(/*is_long=*/false), texts_of(cache.options()), layers, s.tokens(),
                  s.last_logits());
    return read_bytes(file.path());
}

std::vector<float> logits_after(session & s) {
    const std::span<const float> logits = s.prefill(some_tokens(70, 5));
    return {logits.begin(), logits.end()};
}

}  // namespace

TEST(a_file_of_version_2_goes_on_as_the_session_that_wrote_it) {
    const auto m = tiny_model();
    session fresh(m, recorded_params());
    fresh.prefill(some_tokens(90));
    decode(fresh, 20, 4);
    session loaded(m, session_params());
    loaded.load(recorded("cache-v2.kv"));
    CHECK(std::ranges::equal(loaded.tokens(), fresh.tokens()));
    CHECK_EQ(loaded.params().kv.bits.k, 5);
    CHECK_EQ(loaded.params().kv.bits.v, 3);
    // Recorded on another machine: what ggml computes there differs in the last digits, and codes tip over.
    CHECK(tiny_sequences::nmse(logits_after(loaded), logits_after(fresh)) < 1e-3);
}

TEST(a_trimmed_file_of_version_2_holds_what_was_left) {
    session loaded(tiny_model(), session_params());
    loaded.load(recorded("cache-v2-trimmed.kv"));  // within a sealed chunk: its block is still there
    CHECK_EQ(loaded.n_tokens(), 85);
    CHECK(std::ranges::equal(loaded.tokens(), std::span<const int32_t>(some_tokens(90)).first(85)));
    loaded.trim(70);  // states of inner chunks are not in it: what is not known is computed again
    CHECK_EQ(loaded.n_tokens(), 70);
    CHECK_EQ(logits_after(loaded).size(), 259u);
}

TEST(a_file_of_version_4_has_states_in_32_bits_and_goes_on_from_them_in_16) {
    const auto m = tiny_model();
    const std::unique_ptr<session> saved = session_of_classes(m);
    int n_states = 0;
    std::vector<uint8_t> bytes = file_with(*saved, [&](kv_layer & layer) {
        CHECK(layer.state_is_f16);
        layer.state_is_f16 = false;
        for (kv_chunk & c : layer.chunks) {
            const size_t n = c.state->bytes() / sizeof(uint16_t);
            CHECK_EQ(n, 2 * layer.row());
            auto wide = std::make_shared<page>(host_memory(), n * sizeof(float));
            for (size_t i = 0; i < n; ++i) {  // moved by a third of the way to a neighbour among f16's numbers
                const uint16_t half = c.state->as<uint16_t>()[i];
                const int neighbour = half == 0 || i % 2 == 0 ? half + 1 : half - 1;
                const float x = f16_to_f32(half);
                wide->as<float>()[i] = x + (f16_to_f32(static_cast<uint16_t>(neighbour)) - x) / 3.0f;
            }
            c.state = wide;
            ++n_states;
        }
    });
    CHECK(n_states > 3);
    const temporary_file file(".kv");
    session loaded(m, saved->params());
    write_bytes(file.path(), bytes);
    CHECK_ERROR(loaded.load(file.path()), "blk.0.states' has type f32, expected f16");
    const std::string key = kv_names::version;
    bytes[find(bytes, key) + key.size() + sizeof(uint32_t)] = 4;
    renew_checksum(bytes);
    write_bytes(file.path(), bytes);
    loaded.load(file.path());
    CHECK(go_on_alike(*saved, loaded));
}

TEST(states_in_16_bits_that_are_no_numbers_or_below_zero_are_refused) {
    const auto m = tiny_model();
    const std::unique_ptr<session> saved = session_of_classes(m);
    for (const uint16_t broken : {0x7c00, 0xfc00, 0x7e00, 0x8001, 0xbc00}) {
        IN("f16 ", broken);
        const temporary_file file(".kv");
        write_bytes(file.path(), file_with(*saved, [&](kv_layer & layer) {
                        auto state = layer.chunks.back().state->copy(host_memory());
                        state->as<uint16_t>()[state->bytes() / sizeof(uint16_t) - 1] = broken;
                        layer.chunks.back().state = std::move(state);
                    }));
        session loaded(m, saved->params());
        CHECK_ERROR(loaded.load(file.path()), "the statistics of layer 0 are not numbers that keys can have");
    }
}

TEST(an_option_that_came_later_means_what_it_was_when_the_file_was_written) {
    const auto read = [&](uint32_t version) {
        int64_t first = 1;
        bool later = true;
        option_table table;
        table.integer("first", first, 0, 10, "there from the start");
        table.toggle("later", later, "came with version 3");
        table.since(3, "off");
        read_saved_options(table, {{"first", "7"}}, version);
        CHECK_EQ(first, 7);
        return later;
    };
    CHECK_EQ(read(2), false);
    CHECK_ERROR(read(3), "its option 'later' is missing");
}

TEST(files_from_before_error_feedback_had_none) {
    kv_options options;
    options.key_alloc = kv_key_alloc::block;
    options.outlier_ratio = 0.0;
    kv_texts texts = texts_of(options);
    CHECK_EQ(texts.erase("key-feedback"), 1u);
    CHECK(options_from(texts, 4).key_feedback == kv_key_feedback::off);
    CHECK_ERROR(options_from(texts, 5), "its option 'key-feedback' is missing");
}

TEST(files_from_before_kivi_had_no_residual) {
    kv_texts texts = texts_of({});
    CHECK_EQ(texts.erase("residual"), 1u);
    CHECK_EQ(options_from(texts, 5).residual, kv_options().residual);
    CHECK_ERROR(options_from(texts, 6), "its option 'residual' is missing");
}

TEST(options_of_a_policy_that_is_not_saved_are_in_no_file) {
    kv_texts texts = texts_of({});
    CHECK_EQ(texts.count("retain-rate"), 0u);
    CHECK_EQ(options_from(texts, 6).retain_rate, kv_options().retain_rate);
    texts["kv"] = "fastkv";
    CHECK_EQ(options_from(texts, 6).policy, std::string("fastkv"));
}

TEST(an_option_that_is_gone_is_refused_unless_it_was_off) {
    const option_table none;
    read_saved_options(none, {{"scale-search", "off"}, {"tail-chunks", "0"}}, 2);
    CHECK_ERROR(read_saved_options(none, {{"scale-search", "on"}}, 2), "the option scale-search on, which is gone");
    CHECK_ERROR(read_saved_options(none, {{"tail-chunks", "2"}}, 2), "the option tail-chunks 2, which is gone");
    CHECK_ERROR(read_saved_options(none, {{"new", "x"}}, 2), "the option new x, which this livekv does not have");
}

TEST_MAIN
