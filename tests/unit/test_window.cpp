// Layers that see a window: what lies behind it is given back, and whatever is done to a sequence, it goes on as a new
// one of the same tokens would.

#include <algorithm>

#include "check.h"
#include "engine/engine.h"
#include "error.h"
#include "tiny_sequences.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

constexpr int64_t chunk = 32;
constexpr int64_t n_ctx = 700;

std::shared_ptr<const model> windowed(uint32_t window) {
    tiny_spec spec;
    spec.arch = "gemma3";
    spec.n_layer = 4;  // the second and the fourth see all
    spec.window = window;
    spec.n_ctx = 1024;
    spec.tied = true;
    return tiny_model(spec);
}

session_params params_of(const std::string & kv = "livekv") {
    return tiny_sequences::params_of(kv, chunk, n_ctx);
}

std::vector<float> evaluated(session & s, const std::vector<int32_t> & tokens) {
    std::vector<float> all;
    s.eval(tokens, 0,
           [&](int64_t, int64_t, std::span<const float> rows) { all.insert(all.end(), rows.begin(), rows.end()); });
    return all;
}

int64_t n_given_back(const session & s, int64_t il) {
    const std::vector<kv_kind> kinds = s.cache().dump(il).k.kind;
    return std::count(kinds.begin(), kinds.end(), kv_kind::given_back);
}

// What comes next in s and in a new session of its tokens, bit for bit.
void goes_on_as_new(session & s) {
    session fresh(s.get_engine(), s.params());
    const std::vector<int32_t> tokens(s.tokens().begin(), s.tokens().end());
    if (!tokens.empty()) {
        fresh.prefill(tokens);
    }
    const std::vector<int32_t> more = some_tokens(3 * chunk + 5, 9);
    CHECK(same_bits(evaluated(s, more), evaluated(fresh, more)));
}

}  // namespace

TEST(the_layers_of_a_file_see_what_it_says) {
    const auto m = windowed(24);
    for (int64_t il = 0; il < 4; ++il) {
        CHECK_EQ(m->hp.window(il), il % 2 == 0 ? 24 : 0);
    }
    CHECK(m->hp.rope(0).base == 10000.0f && m->hp.ropes.size() == 2);
}

TEST(sealed_windows_come_close_to_exact_ones_of_any_length) {
    const std::vector<int32_t> tokens = some_tokens(300);
    for (const uint32_t window : {1, 5, 24, 32, 33, 100, 299, 1000}) {
        IN("window=", window);
        const auto m = windowed(window);
        session exact(m, params_of("f16"));
        session_params p = params_of();
        p.kv.bits = 8;
        session sealed(m, p);
        const std::vector<float> expected = evaluated(exact, tokens);
        CHECK(nmse(evaluated(sealed, tokens), expected) < 1e-3);
        if (window < 100) {  // which is not what every token sees
            session whole(windowed(1000), params_of("f16"));
            CHECK(nmse(evaluated(whole, tokens), expected) > 1e-2);
        }
    }
}

TEST(what_lies_behind_the_window_is_given_back_and_counted) {
    const auto m = windowed(24);
    session s(m, params_of());
    s.prefill(some_tokens(chunk * 20 + 7));
    for (int64_t il = 0; il < 4; ++il) {
        // The window and a chunk more, in whole chunks.
        CHECK_EQ(n_given_back(s, il), il % 2 == 0 ? 18 * chunk : 0);
    }
    const kv_report r = s.cache().report();
    CHECK_EQ(r.n_given_back, 2 * 18 * chunk * m->hp.n_embd_kv(0) * 2);
    session all(windowed(1000), params_of());
    all.prefill(some_tokens(chunk * 20 + 7));
    const kv_report whole = all.cache().report();
    CHECK_EQ(whole.n_given_back, 0);
    CHECK(r.n_sealed + r.n_given_back == whole.n_sealed);
    CHECK(r.bytes.codes * 20 == whole.bytes.codes * 11);  // two layers of four hold 2 chunks of 20
}

TEST(a_trim_however_far_leaves_what_a_new_sequence_would_hold) {
    const auto m = windowed(40);
    for (const int64_t n : {int64_t(0), int64_t(1), chunk, 5 * chunk, 8 * chunk - 3, 9 * chunk, 9 * chunk + 1,
                            10 * chunk - 1, 10 * chunk, 10 * chunk + 3}) {
        IN("n=", n);
        session s(m, params_of());
        s.prefill(some_tokens(10 * chunk + 7));
        s.trim(n);
        CHECK_EQ(s.n_tokens(), n);
        goes_on_as_new(s);
    }
}

TEST(a_trim_of_less_than_a_chunk_computes_less_than_two) {
    session s(windowed(40), params_of());
    s.prefill(some_tokens(10 * chunk + 7));
    CHECK_EQ(s.cache().exact_trim(10 * chunk + 1), 10 * chunk + 1);
    CHECK_EQ(s.cache().exact_trim(10 * chunk - 5), 9 * chunk);
    CHECK_EQ(s.cache().exact_trim(5 * chunk), 0);
}

TEST(forks_part_and_files_restore_windows) {
    const auto m = windowed(40);
    session s(m, params_of());
    s.prefill(some_tokens(9 * chunk + 7));
    const std::unique_ptr<session> fork = s.fork();
    const temporary_file file(".kv");
    s.save(file.path());
    session restored(s.get_engine(), params_of());
    restored.load(file.path());
    CHECK_EQ(n_given_back(restored, 0), n_given_back(s, 0));
    CHECK(n_given_back(s, 0) > 0);
    const std::vector<int32_t> more = some_tokens(2 * chunk, 5);
    const std::vector<float> expected = evaluated(s, more);
    CHECK(same_bits(evaluated(*fork, more), expected));
    CHECK(same_bits(evaluated(restored, more), expected));
    restored.trim(4 * chunk);
    goes_on_as_new(restored);
    session other(windowed(41), params_of());
    CHECK_ERROR(other.load(file.path()), "made with another model");
}

TEST(prompts_that_begin_alike_share_what_their_windows_need) {
    const auto m = windowed(40);
    const auto shared = std::make_shared<engine>(m, 2, size_t(1) << 24);
    const std::vector<int32_t> tokens = some_tokens(9 * chunk + 7);
    session first(shared, params_of());
    first.prefill(tokens);
    session second(shared, params_of());
    second.prefill(tokens);
    CHECK_EQ(second.n_reused(), 9 * chunk);
    CHECK_EQ(n_given_back(second, 0), n_given_back(first, 0));
    goes_on_as_new(second);
    std::vector<int32_t> parts(tokens.begin(), tokens.begin() + 4 * chunk + 3);
    session third(shared, params_of());
    third.prefill(parts);
    CHECK_EQ(third.n_reused(), 4 * chunk);
    goes_on_as_new(third);
}

TEST(what_windows_gave_back_is_kept_for_others_within_the_budget) {
    const auto m = windowed(40);
    const std::vector<int32_t> tokens = some_tokens(18 * chunk + 7);
    const auto plain = std::make_shared<engine>(m, 1);
    session alone(plain, params_of());
    alone.prefill(tokens);
    size_t a_chunk = 0;  // of all layers
    {
        session s(plain, params_of());
        s.prefill(std::span(tokens).first(4 * chunk));
        a_chunk = s.cache().bytes() / 4;
    }
    for (const size_t n_chunks : {0, 3, 100}) {
        IN("chunks ", n_chunks);
        const size_t budget = std::max<size_t>(1, n_chunks * a_chunk);
        const auto e = std::make_shared<engine>(m, 1, budget);
        session first(e, params_of());
        bool within = true;
        first.prefill(tokens, [&](int64_t) { return within = within && e->prefix_idle_bytes() <= budget; });
        CHECK(within);
        CHECK_EQ(first.n_tokens(), static_cast<int64_t>(tokens.size()));
        session second(e, params_of());
        second.prefill(tokens);
        CHECK_EQ(second.n_reused() > 0, n_chunks > 0);
        CHECK_EQ(second.n_reused() == 18 * chunk, n_chunks == 100);
        CHECK(e->prefix_idle_bytes() <= budget);
        for (session * s : {&first, &second}) {
            CHECK_EQ(s->cache().bytes(), alone.cache().bytes());
            goes_on_as_new(*s);
        }
    }
}

TEST_MAIN
