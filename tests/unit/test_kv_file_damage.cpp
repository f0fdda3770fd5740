#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include "error.h"
#include "kv/kv_check.h"
#include "kv/kv_pack.h"
#include "saved_sequence.h"
#include "store/kv_file.h"
#include "store/kv_file_names.h"
#include "xxh64.h"

using namespace livekv;
using namespace kv_saved;

namespace {

int leftovers(const std::string & path) {
    int n = 0;
    const std::filesystem::path p(path);
    for (const auto & entry : std::filesystem::directory_iterator(p.parent_path())) {
        if (entry.path().filename().string().rfind(p.filename().string() + ".tmp-", 0) == 0) {
            ++n;
        }
    }
    return n;
}

}  // namespace

TEST(xxh64_is_the_published_function) {
    const auto hash = [](const std::string & text, size_t piece) {
        xxh64 h;
        for (size_t i = 0; i < text.size(); i += piece) {
            const std::string part = text.substr(i, piece);
            h.update({reinterpret_cast<const uint8_t *>(part.data()), part.size()});
        }
        return h.digest();
    };
    CHECK_EQ(hash("", 1), 0xef46db3751d8e999u);
    CHECK_EQ(hash("a", 1), 0xd24ec4f1a98c6e5bu);
    CHECK_EQ(hash("abc", 2), 0x44bc2cf5ad770999u);
    CHECK_EQ(hash("xxhash", 3), 0x32dd38952c4bc720u);
    std::string longer;
    for (int i = 0; i < 300; ++i) {
        longer += static_cast<char>(i * 37);
    }
    for (const size_t piece : {1, 7, 31, 32, 33, 64, 299}) {
        CHECK_EQ(hash(longer, piece), hash(longer, 300));
    }
}

TEST(what_cannot_be_saved_or_loaded_says_why_and_changes_nothing) {
    const temporary_file file(".kv");
    session_params p = params_of();
    session s(four_layers(), p);
    CHECK_ERROR(s.save(file.path()), "the sequence is empty");
    s.prefill(some_tokens(150));
    s.save(file.path());
    const std::vector<uint8_t> good = read_bytes(file.path());

    p.kv = p.kv.for_policy("q8_0");
    session other_policy(four_layers(), p);
    other_policy.prefill(some_tokens(10));
    CHECK_ERROR(other_policy.save(file.path()), "only livekv, kvstream, guided and kivi caches");
    CHECK(read_bytes(file.path()) == good);
    CHECK_ERROR(other_policy.load(file.path()), "this one holds 10 tokens");
    other_policy.reset();
    other_policy.load(file.path());  // the file's policy replaces it
    CHECK_EQ(other_policy.params().kv.policy, "livekv");
    CHECK(go_on_alike(other_policy, s));

    session small(four_layers(), params_of(149));
    CHECK_ERROR(small.load(file.path()), "it holds 150 tokens, the context only 149");
    CHECK_EQ(small.n_tokens(), 0);
    CHECK_EQ(small.prefill(some_tokens(20)).size(), 259u);

    tiny_spec spec;
    spec.n_layer = 3;
    session three(tiny_model(spec), params_of());
    CHECK_ERROR(three.load(file.path()), "made with another model: its n_layer was 4, this one's is 3");
    spec = four_layer_spec();
    spec.edit_keys = [](gguf_context * g) { gguf_set_val_f32(g, "llama.rope.freq_base", 5e5f); };
    session other_rope(tiny_model(spec), params_of());
    CHECK_ERROR(other_rope.load(file.path()),
                "made with other rotary positions: rope_freq_base was 10000, here it is 500000");
    spec = four_layer_spec();
    spec.zeroed_tensor = "blk.2.ffn_up.weight";
    session other_weights(tiny_model(spec), params_of());
    CHECK_ERROR(other_weights.load(file.path()), "the shape is the same, the weights are not");
    spec = four_layer_spec();
    spec.edit_keys = [](gguf_context * g) {
        const int64_t key = gguf_find_key(g, "tokenizer.ggml.tokens");
        std::vector<std::string> tokens;
        for (size_t i = 0; i < gguf_get_arr_n(g, key); ++i) {
            tokens.emplace_back(gguf_get_arr_str(g, key, i));
        }
        tokens[2] = "<end>";
        std::vector<const char *> names;
        for (const std::string & token : tokens) {
            names.push_back(token.c_str());
        }
        gguf_set_arr_str(g, "tokenizer.ggml.tokens", names.data(), names.size());
    };
    session other_vocabulary(tiny_model(spec), params_of());
    CHECK_ERROR(other_vocabulary.load(file.path()), "the weights are the same, the vocabulary is not");
    session same_again(tiny_model(four_layer_spec()), params_of());
    same_again.load(file.path());
    CHECK_EQ(same_again.n_tokens(), 150);

    const temporary_file bad(".kv");
    session fresh(four_layers(), params_of());
    CHECK_ERROR(fresh.load(bad.path()), "No such file");
    write_bytes(bad.path(), std::vector<uint8_t>(100, 'x'));
    CHECK_ERROR(fresh.load(bad.path()), "not a GGUF file");
    write_tiny_model({}, bad.path());
    CHECK_ERROR(fresh.load(bad.path()), "not a saved cache");
    const auto patched = [&](const char * key, size_t after, uint8_t to) {
        std::vector<uint8_t> bytes = good;
        bytes[find(bytes, key) + std::strlen(key) + after] = to;
        return bytes;
    };
    write_bytes(bad.path(), patched("livekv.file_version", 4, 8));
    CHECK_ERROR(fresh.load(bad.path()), "written by a newer livekv (file version 8, this one reads 2 to 7)");
    write_bytes(bad.path(), patched("livekv.file_version", 4, 1));
    CHECK_ERROR(fresh.load(bad.path()), "written by an older livekv (file version 1, this one reads 2 to 7)");
    write_bytes(bad.path(), patched("livekv.option.sink-tokens", 12, '5'));
    CHECK_ERROR(fresh.load(bad.path()), "its checksum is wrong");
    std::vector<uint8_t> edited = patched("livekv.option.sink-tokens", 12, 'x');
    renew_checksum(edited);
    write_bytes(bad.path(), edited);
    CHECK_ERROR(fresh.load(bad.path()), ": sink-tokens: 'x' is not a whole number");
    edited = patched("livekv.block_version", 4, 9);
    renew_checksum(edited);
    write_bytes(bad.path(), edited);
    CHECK_ERROR(fresh.load(bad.path()), "its blocks have format version 9");
    CHECK_EQ(fresh.n_tokens(), 0);
}

TEST(saved_logits_that_are_not_numbers_are_refused) {
    const temporary_file file(".kv");
    session s(four_layers(), params_of());
    s.prefill(some_tokens(100));
    s.save(file.path());
    std::vector<uint8_t> bytes = read_bytes(file.path());
    const std::span<const float> logits = s.last_logits();
    const auto * first = reinterpret_cast<const uint8_t *>(logits.data());
    const auto at = std::search(bytes.begin(), bytes.end(), first, first + logits.size_bytes());
    if (at == bytes.end()) {
        fail("the file does not hold the logits");
    }
    const float bad = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(&*at + 4 * sizeof(float), &bad, sizeof(bad));
    renew_checksum(bytes);
    write_bytes(file.path(), bytes);
    session other(four_layers(), params_of());
    CHECK_ERROR(other.load(file.path()), "its logits are not numbers");
    CHECK_EQ(other.n_tokens(), 0);
}

TEST(a_damaged_file_is_always_refused) {
    const std::vector<uint8_t> good = saved_file(four_layers());
    const temporary_file file(".kv");
    session s(four_layers(), params_of());
    std::mt19937 random(1);
    size_t n_loaded = 0;
    const auto try_load = [&](std::span<const uint8_t> bytes) {
        write_bytes(file.path(), bytes);
        try {
            s.load(file.path());
            ++n_loaded;
            s.reset();
        } catch (const error &) {
        }
    };
    for (size_t i = 0; i < good.size(); i += i < 4000 ? 3 : 197) {
        std::vector<uint8_t> bytes = good;
        bytes[i] ^= static_cast<uint8_t>(1 << random() % 8);
        try_load(bytes);
    }
    for (size_t n = 0; n < good.size(); n += n < 4000 ? 13 : 997) {
        try_load(std::span(good).first(n));
    }
    CHECK_EQ(n_loaded, 0u);
    try_load(good);
    CHECK_EQ(n_loaded, 1u);
}

TEST(a_file_changed_on_purpose_is_refused_or_harmless) {
    const std::vector<uint8_t> good = saved_file(four_layers());
    const temporary_file file(".kv");
    std::mt19937 random(2);
    int n_loaded = 0;
    int n_refused = 0;
    const auto try_run = [&](std::vector<uint8_t> bytes) {
        renew_checksum(bytes);
        write_bytes(file.path(), bytes);
        try {
            session s(four_layers(), params_of());
            s.load(file.path());
            ++n_loaded;
            s.prefill(some_tokens(40, 6));  // reads every chunk, seals another
        } catch (const error &) {
            ++n_refused;
        }
    };
    // Metadata and tensor list byte by byte, the rest in steps; then whole words, where sizes and offsets live.
    for (size_t i = 60; i < good.size(); i += i < 8000 ? 9 : 151) {
        std::vector<uint8_t> bytes = good;
        bytes[i] ^= static_cast<uint8_t>(1 << random() % 8);
        try_run(bytes);
    }
    for (int i = 0; i < 500; ++i) {
        std::vector<uint8_t> bytes = good;
        const size_t at = 64 + random() % (good.size() - 72);
        const uint32_t words[] = {0, 0xffffffff, 0x7fffffff, 0x80000000, 0x7c007c00, static_cast<uint32_t>(random())};
        std::memcpy(bytes.data() + at / 4 * 4, &words[random() % 6], 4);
        try_run(bytes);
    }
    std::printf("  %d loaded, %d refused\n", n_loaded, n_refused);
    CHECK(n_loaded > 100 && n_refused > 100);
}

TEST(a_block_is_checked_before_a_kernel_reads_it) {
    kv_method method;
    method.outlier_ratio = 0.05;
    for (const kv_side side : {kv_side::key, kv_side::value}) {
        const kv_block_header h = block_header(method, side, 50, 64);
        const kv_block_map map = kv_map(h);
        std::vector<uint8_t> good(map.bytes);
        std::memcpy(good.data(), &h, sizeof(h));
        for (int32_t i = 0; i < map.n_outlying; ++i) {  // three for each of 50 tokens, two for each of 64 channels
            const uint16_t place =
                static_cast<uint16_t>(side == kv_side::value ? i % h.n_outliers : i / 64 << 11 | i % 64);
            std::memcpy(good.data() + map.index + static_cast<size_t>(i * map.index_bytes), &place,
                        static_cast<size_t>(map.index_bytes));
        }
        if (side == kv_side::key) {
            const uint32_t tiles[] = {0, 128, 128};
            std::memcpy(good.data() + map.tiles, tiles, sizeof(tiles));
        }
        CHECK_EQ(problem_of_block(good.data(), h), "");
        const auto problem_with = [&](size_t at, std::vector<uint8_t> change) {
            std::vector<uint8_t> bad = good;
            std::copy(change.begin(), change.end(), bad.begin() + static_cast<int64_t>(at));
            return problem_of_block(bad.data(), h);
        };
        for (size_t at = 0; at < sizeof(h); ++at) {
            CHECK(problem_with(at, {0xff}) != "");
        }
        CHECK(problem_with(map.scales, {0x00, 0x7c}) != "");        // infinite
        CHECK(problem_with(map.outliers + 2, {0x01, 0x7e}) != "");  // not a number
        if (side == kv_side::key) {
            CHECK(problem_with(map.index, {64, 0}) != "");     // channel 64
            CHECK(problem_with(map.index + 2, {0, 0}) != "");  // the same place twice
            CHECK(problem_with(map.tiles, {1, 0, 0, 0}) != "");
            CHECK(problem_with(map.tiles + 4, {129, 0, 0, 0}) != "");
            CHECK(problem_with(map.tiles + 4, {100, 0, 0, 0}) == "");  // the rest moves to the second tile
            CHECK(problem_with(map.tiles + 8, {127, 0, 0, 0}) != "");
        } else {
            CHECK(problem_with(map.index + 2, {64}) != "");
            CHECK(problem_with(map.index + 1, {0}) != "");
        }
    }
}

TEST(a_write_that_fails_leaves_the_old_file_and_no_other) {
    const temporary_file file(".kv");
    session s(four_layers(), params_of());
    s.prefill(some_tokens(100));
    s.save(file.path());
    const std::vector<uint8_t> before = read_bytes(file.path());
    s.prefill(some_tokens(100, 9));
    rlimit old_limit = {};
    ::getrlimit(RLIMIT_FSIZE, &old_limit);
    const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
    for (const rlim_t limit : {rlim_t{0}, rlim_t{1000}, rlim_t{before.size()}}) {  // a disk that fills up at that size
        rlimit full = old_limit;
        full.rlim_cur = limit;
        ::setrlimit(RLIMIT_FSIZE, &full);
        CHECK_ERROR(s.save(file.path()), "cannot write '" + file.path() + "': File too large");
        ::setrlimit(RLIMIT_FSIZE, &old_limit);
        CHECK(read_bytes(file.path()) == before);
        CHECK_EQ(leftovers(file.path()), 0);
    }
    ::signal(SIGXFSZ, old_handler);
    s.save(file.path());
    CHECK(read_bytes(file.path()) != before);
    CHECK_ERROR(s.save(file.path() + "/no/such/folder"), "cannot write");
    CHECK_ERROR(s.save("/dev/null"), "it is not a file");
}

TEST(a_link_stays_a_link) {
    const temporary_file file(".kv");
    const temporary_file link(".link");
    session s(four_layers(), params_of());
    s.prefill(some_tokens(10));
    s.save(file.path());
    std::filesystem::create_symlink(file.path(), link.path());
    s.prefill(some_tokens(10));
    s.save(link.path());
    CHECK(std::filesystem::is_symlink(link.path()));
    CHECK_EQ(kv_file(file.path()).tokens().size(), 20u);
}

TEST(a_killed_writer_leaves_the_old_file_or_the_new_one) {
    const temporary_file file(".kv");
    session a(four_layers(), params_of());
    session b(four_layers(), params_of());
    a.prefill(some_tokens(300));
    b.prefill(some_tokens(70, 9));
    a.save(file.path());
    std::mt19937 random(3);
    int n_a = 0;
    int n_b = 0;
    int n_torn = 0;
    for (int round = 0; round < 40; ++round) {
        const pid_t writer = ::fork();
        if (writer == 0) {
            for (;;) {
                b.save(file.path());
                a.save(file.path());
            }
        }
        ::usleep(static_cast<useconds_t>(random() % 20000));
        ::kill(writer, SIGKILL);
        ::waitpid(writer, nullptr, 0);
        n_torn += leftovers(file.path());
        const kv_file found(file.path());
        n_a += std::ranges::equal(found.tokens(), a.tokens());
        n_b += std::ranges::equal(found.tokens(), b.tokens());
    }
    std::printf("  killed 40 writers, %d of them while writing: found %d and %d\n", n_torn, n_a, n_b);
    CHECK_EQ(n_a + n_b, 40);
    a.save(file.path());
    CHECK_EQ(leftovers(file.path()), 0);
}

TEST_MAIN
