// Saved sequences of policy guided: they come back as they were, and what is wrong in one is found before it is read.

#include <limits>
#include <random>

#include "kv/level_block.h"
#include "policy/kv_spec.h"
#include "run/chunked_cache.h"
#include "saved_sequence.h"

using namespace livekv;
using namespace kv_saved;

namespace {

// With propagate cache where more does not say otherwise.
session_params guided_params(const std::string & more = "") {
    session_params p;
    p.n_ctx = 400;
    p.n_threads = 1;
    const char * const drops = more.find(":propagate=") == std::string::npos ? ":propagate=cache" : "";
    p.kv = parse_kv_spec("guided:chunk-size=32:min-class=3" + more + drops);
    return p;
}

const kv_layer & layer_of(const session & s, size_t il) {
    return dynamic_cast<const chunked_cache &>(s.cache()).layers()[il];
}

// Where these bytes are in a file.
size_t place_of(const std::vector<uint8_t> & file, const void * from, size_t n) {
    const auto * first = static_cast<const uint8_t *>(from);
    const auto at = std::search(file.begin(), file.end(), first, first + n);
    CHECK(at != file.end());
    return static_cast<size_t>(at - file.begin());
}

}  // namespace

TEST(what_is_wrong_with_levels_or_weights_is_said_and_changes_nothing) {
    const temporary_file file(".kv");
    session s(four_layers(), guided_params());
    s.prefill(some_tokens(90));
    decode(s, 3, 4);  // behind some of the prompt in the tail
    s.save(file.path());
    const std::vector<uint8_t> good = read_bytes(file.path());
    const kv_layer & layer = layer_of(s, 1);
    const auto refused = [&](const char * why, const auto & change) {
        std::vector<uint8_t> bytes = good;
        change(bytes);
        renew_checksum(bytes);
        write_bytes(file.path(), bytes);
        session other(four_layers(), guided_params());
        CHECK_ERROR(other.load(file.path()), why);
        CHECK_EQ(other.n_tokens(), 0);
    };
    const page & v = *layer.chunks[1].v.bytes;
    const size_t v_at = place_of(good, v.data(), v.bytes());
    const size_t block_bytes = v.bytes() / static_cast<size_t>(layer.n_head_kv);
    const size_t places = kv_map(*layer.chunks[1].v.header).places;
    refused("chunk 1 of layer 1: its heads do not have the same tokens on each level",
            [&](std::vector<uint8_t> & bytes) {
                uint8_t * const of_head = bytes.data() + v_at + block_bytes + places;
                for (int i = 1; i < 32; ++i) {
                    if (of_head[i] != of_head[0]) {
                        std::swap(of_head[i], of_head[0]);
                        return;
                    }
                }
                CHECK(false);
            });
    refused("tensor 'blk.1.v': its levels do not have the tokens that are of them",
            [&](std::vector<uint8_t> & bytes) { bytes[v_at + places] ^= 1; });
    refused("tensor 'blk.1.v' has",
            [&](std::vector<uint8_t> & bytes) { bytes[v_at + offsetof(kv_block_header, lines_high)] = 1; });
    const size_t w_at = place_of(good, layer.tail_weights.data(), sizeof(float) * static_cast<size_t>(layer.n_tail));
    for (const float weight : {1.5f, -0.5f, -2.0f, -3.5f, std::numeric_limits<float>::quiet_NaN()}) {
        refused("tensor 'blk.1.tail.w': a weight is not in 0..1",
                [&](std::vector<uint8_t> & bytes) { std::memcpy(bytes.data() + w_at, &weight, sizeof(weight)); });
    }
    write_bytes(file.path(), good);
    std::vector<kv_layer_format> formats;
    for (const chunk_plan & plan : plan_chunks(guided_params(":key-axis=token").kv, s.get_engine()->shape(400))) {
        formats.push_back(format_of(plan));
    }
    CHECK_ERROR(kv_file(file.path()).layers(formats),
                "chunk 0 of layer 0: the scales of its keys are not what the options ask for");
}

TEST(first_tokens_are_in_every_layer) {
    const temporary_file file(".kv");
    session s(four_layers(), guided_params(":propagate=layers"));
    s.prefill(some_tokens(20));
    s.save(file.path());
    std::vector<uint8_t> bytes = read_bytes(file.path());
    const kv_layer & layer = layer_of(s, 3);
    CHECK(layer.n_tail_rows() < layer.n_tail);
    const size_t at = place_of(bytes, layer.tail_weights.data(), sizeof(float) * static_cast<size_t>(layer.n_tail));
    const float absent = -2.0f;
    const auto put = [&](size_t token) { std::memcpy(bytes.data() + at + 4 * token, &absent, sizeof(absent)); };
    put(2);
    renew_checksum(bytes);
    write_bytes(file.path(), bytes);
    session other(four_layers(), guided_params());
    CHECK_ERROR(other.load(file.path()),
                "tensor 'blk.3.tail.w': one of the first tokens, which are exact, is not there");
    CHECK_EQ(other.n_tokens(), 0);
    std::memcpy(bytes.data() + at + 8, layer.tail_weights.data() + 2, sizeof(absent));
    put(19);
    renew_checksum(bytes);
    write_bytes(file.path(), bytes);
    CHECK_ERROR(other.load(file.path()), "blk.3.tail.k");  // it has a row more than tokens
}

TEST(a_file_changed_on_purpose_is_refused_or_harmless) {
    const temporary_file file(".kv");
    std::mt19937 random(2);
    int n_loaded = 0;
    int n_refused = 0;
    for (const char * more : {"", ":propagate=layers"}) {
        session s(four_layers(), guided_params(more));
        s.prefill(some_tokens(90));
        decode(s, 10, 4);
        s.save(file.path());
        const std::vector<uint8_t> good = read_bytes(file.path());
        for (size_t i = 4000; i < good.size(); i += 97) {
            std::vector<uint8_t> bytes = good;
            bytes[i] ^= static_cast<uint8_t>(1 << random() % 8);
            renew_checksum(bytes);
            write_bytes(file.path(), bytes);
            try {
                session other(four_layers(), guided_params());
                other.load(file.path());
                ++n_loaded;
                other.cache().dump(1);
                other.prefill(some_tokens(40, 6));  // reads every chunk, seals another
            } catch (const error &) {
                ++n_refused;
            }
        }
    }
    std::printf("  %d loaded, %d refused\n", n_loaded, n_refused);
    CHECK(n_loaded > 20 && n_refused > 20);
}

TEST(a_restored_sequence_goes_on_bit_for_bit) {
    const temporary_file file(".kv");
    for (const char * more : {"", ":key-axis=token:level-bits=16,4,0", ":protect=off:budget=bits:guide-norm=zscore",
                              ":propagate=layers:guide-tokens=1", ":propagate=layers:protect=off:later-ratio=0.1"}) {
        for (const int n : {1, 20, 32, 100, 128}) {
            IN(more, " n=", n);
            session s(four_layers(), guided_params(more));
            s.prefill(some_tokens(n));
            decode(s, 7, 4);
            s.save(file.path());
            session other(four_layers(), guided_params());
            other.load(file.path());
            const auto copy = s.fork();
            CHECK(same_bits(other.last_logits(), s.last_logits()));
            CHECK(go_on_alike(other, s));
            const temporary_file again(".kv");
            const temporary_file same(".kv");
            s.save(again.path());
            other.save(same.path());
            CHECK(read_bytes(again.path()) == read_bytes(same.path()));
            copy->prefill(some_tokens(100, 77));
            CHECK_EQ(copy->n_tokens(), n + 107);
        }
    }
}

TEST_MAIN
