// Sequences of policy guided whose guide is at the prompt's end: pieces, forks, trims, files, batches, steps that fail,
// and what a prompt takes until it is complete.

#include <limits>

#include "error.h"
#include "failing_allocations.h"
#include "kv/level_block.h"
#include "policy/kv_spec.h"
#include "policy/saved_options.h"
#include "run/chunked_cache.h"
#include "saved_sequence.h"
#include "session/batch.h"

using namespace livekv;
using namespace kv_saved;

namespace {

session_params last_params(const std::string & more = ":propagate=cache:min-class=3") {
    session_params p;
    p.n_ctx = 400;
    p.n_threads = 2;
    p.kv = parse_kv_spec("guided:chunk-size=32:guide=last" + more);
    return p;
}

const chunked_cache & cache_of(const session & s) {
    return dynamic_cast<const chunked_cache &>(s.cache());
}

// What the layers hold, as bytes.
std::vector<uint8_t> held(const session & s) {
    std::vector<uint8_t> all;
    for (const kv_layer & layer : cache_of(s).layers()) {
        CHECK_EQ(layer.n_tokens(), s.n_tokens());
        for (const kv_chunk & c : layer.chunks) {
            for (const page * one : {c.k.bytes.get(), c.v.bytes.get(), c.state.get()}) {
                all.insert(all.end(), one->data(), one->data() + one->bytes());
            }
        }
    }
    return all;
}

// Tokens of the prompt that are told to be of one with so many more.
void read(session & s, std::span<const int32_t> tokens, int64_t n_to_come) {
    step(*s.get_engine(),
         std::vector<session_step>{
             {&s, tokens, static_cast<int64_t>(tokens.size()) - 1, token_origin::prompt, {}, n_to_come}});
}

bool is_complete(const session & s) {
    return !s.cache().judges_prompt();
}

// Of the prompt's tokens, by the last layer.
int64_t n_decided(const session & s) {
    const kv_report report = s.cache().report();
    return report.guided.back().n_tokens;
}

}  // namespace

TEST(a_prompt_in_pieces_is_the_prompt_in_one_call) {
    const std::vector<int32_t> tokens = some_tokens(150);
    for (const char * more : {"", ":propagate=cache:min-class=3:guide-tokens=40", ":level-bits=16,4,0"}) {
        session whole(four_layers(), last_params(more));
        const std::span<const float> logits = whole.prefill(tokens);
        for (const int64_t piece : {32, 64, 20}) {
            IN(more, " piece=", piece);
            session s(four_layers(), last_params(more));
            for (int64_t done = 0; done < 150; done += piece) {
                const int64_t n = std::min<int64_t>(piece, 150 - done);
                CHECK(!is_complete(s));
                read(s, std::span(tokens).subspan(static_cast<size_t>(done), static_cast<size_t>(n)), 150 - done - n);
            }
            CHECK(is_complete(s));
            if (piece == 20) {  // products of other numbers of rows may differ in the last digits
                CHECK_EQ(n_decided(s), 150);
                continue;
            }
            CHECK(held(s) == held(whole));
            CHECK(same_bits(s.last_logits(), logits));
        }
    }
}

TEST(what_was_said_of_the_prompts_length_may_change) {
    const std::vector<int32_t> tokens = some_tokens(150);
    session whole(four_layers(), last_params());
    whole.prefill(tokens);
    session s(four_layers(), last_params());
    read(s, std::span(tokens).first(96), 300);
    read(s, std::span(tokens).subspan(96), 0);
    CHECK(held(s) == held(whole));
    session stopped(four_layers(), last_params());
    const std::vector<int32_t> longer = some_tokens(300);
    stopped.prefill(longer, [](int64_t n_done) { return n_done < 96; });
    CHECK_EQ(stopped.n_tokens(), 96);
    CHECK(!is_complete(stopped));
    stopped.prefill(std::span(tokens).subspan(96));
    CHECK(held(stopped) == held(whole));
}

TEST(prompts_of_any_length_work) {
    for (const int n : {1, 3, 31, 32, 33, 64, 65}) {
        for (const char * more : {"", ":level-bits=8,4,0:propagate=cache", ":protect=off:theta-m=0.5:theta-h=0.9"}) {
            IN("n=", n, more);
            session s(four_layers(), last_params(more));
            s.prefill(some_tokens(n));
            CHECK(is_complete(s));
            const kv_report report = s.cache().report();
            for (const kv_guided_layer & layer : report.guided) {
                CHECK_EQ(layer.n_tokens, n);
                CHECK(layer.n_kept >= 1 && layer.n_kept <= n);
            }
            decode(s, 40, 5);
            CHECK_EQ(s.n_tokens(), n + 40);
            CHECK_EQ(n_decided(s), n);
        }
    }
}

TEST(text_behind_the_prompt_has_the_bits_of_the_first_level) {
    session s(four_layers(), last_params());
    s.prefill(some_tokens(50));
    s.prefill(some_tokens(40, 9));
    decode(s, 24, 5);
    const std::vector<kv_chunk> & chunks = cache_of(s).layers()[2].chunks;
    CHECK_EQ(chunks.size(), 4u);
    CHECK_EQ(chunks[1].n_stored, 18);
    for (size_t i = 2; i < chunks.size(); ++i) {
        const uint8_t * const block = chunks[i].k.bytes->data();
        CHECK_EQ(tokens_of_level(block, 0, 32), 32);
        CHECK_EQ(level_of_block(block, 0).bits, 8);
    }
    session generated(four_layers(), last_params());  // and so has a text that begins with generated tokens
    decode(generated, 40, 5);
    generated.prefill(some_tokens(40, 9));
    CHECK_EQ(level_of_block(cache_of(generated).layers()[2].chunks[0].k.bytes->data(), 0).bits, 8);
    CHECK_EQ(generated.cache().report().guided_peak_bytes, 0u);
}

TEST(what_is_wanted_follows_the_prompt) {
    const std::vector<int32_t> tokens = some_tokens(120);
    session s(four_layers(), last_params());
    session prompt(four_layers(), last_params());
    prompt.prefill(std::span(tokens).first(70));
    prompt.prefill(std::span(tokens).subspan(70));
    int64_t n_rows = 0;
    s.eval(tokens, 70, [&](int64_t, int64_t n, std::span<const float>) { n_rows += n; });
    CHECK_EQ(n_rows, 50);
    CHECK_EQ(n_decided(s), 70);
    CHECK(held(s) == held(prompt));
}

TEST(the_peak_is_said_and_is_what_was_held) {
    const std::vector<int32_t> tokens = some_tokens(300);
    session s(four_layers(), last_params(":propagate=cache:min-class=3:guide-tokens=8"));
    size_t largest = 0;
    s.prefill(tokens, [&](int64_t n_done) {
        largest = std::max(largest, s.cache().bytes());
        CHECK(n_done < 300 ? s.cache().report().guided_peak_bytes == 0 : is_complete(s));
        return true;
    });
    const size_t peak = s.cache().report().guided_peak_bytes;
    const size_t now = s.cache().bytes();
    // Until the layers take them, what was held and what is kept are there at once, with the guide's queries and sums.
    const hparams & hp = s.get_model().hp;
    const int64_t n_floats = hp.n_head(0) * (8 * hp.head_dim(0) + 300);
    const size_t expected = largest + now + sizeof(float) * static_cast<size_t>(n_floats);
    CHECK(now < largest);
    IN("peak=", peak, " expected=", expected);
    CHECK(peak > expected - expected / 50 && peak < expected + expected / 50);
    decode(s, 5, 4);
    CHECK_EQ(s.cache().report().guided_peak_bytes, peak);
    const auto copy = s.fork();
    CHECK_EQ(copy->cache().report().guided_peak_bytes, peak);
    s.trim(0);
    CHECK_EQ(s.cache().report().guided_peak_bytes, 0u);
}

TEST(nothing_grows_with_the_square_of_the_prompt) {
    struct taken {
        double peak;  // beyond what was held before the last pass, for each token
        size_t workspace;
    };
    const auto read_so_many = [](int n) {
        session_params p = last_params(":guide-tokens=8");
        p.n_ctx = 3000;
        session s(four_layers(), p);
        size_t held_bytes = 0;
        s.prefill(some_tokens(n), [&](int64_t) {
            held_bytes = std::max(held_bytes, s.cache().bytes());
            return true;
        });
        const size_t peak = s.cache().report().guided_peak_bytes;
        return taken{static_cast<double>(peak - held_bytes) / n, s.get_engine()->workspace_bytes()};
    };
    const taken few = read_so_many(512);
    const taken many = read_so_many(2048);
    CHECK(many.peak < 1.1 * few.peak);
    CHECK(many.workspace < 2 * few.workspace);  // spans of a longer context, up to so many
}

TEST(a_fork_goes_on_bit_for_bit) {
    const std::vector<int32_t> tokens = some_tokens(150);
    session s(four_layers(), last_params());
    read(s, std::span(tokens).first(100), 50);
    const auto copy = s.fork();  // of a prompt that is not complete
    CHECK(!is_complete(*copy));
    s.prefill(std::span(tokens).subspan(100));
    CHECK(!is_complete(*copy));
    copy->prefill(std::span(tokens).subspan(100));
    CHECK(held(s) == held(*copy));
    CHECK(go_on_alike(s, *copy));
}

TEST(a_trim_behind_the_prompt_is_exact_and_one_into_it_reads_it_anew) {
    const std::vector<int32_t> tokens = some_tokens(100);
    const std::vector<int32_t> more = some_tokens(80, 9);
    session s(four_layers(), last_params());
    session other(four_layers(), last_params());
    for (session * x : {&s, &other}) {
        x->prefill(tokens);
        for (const int32_t token : more) {
            x->append(token);
        }
    }
    CHECK_EQ(s.exact_trim(150), 132);  // the prompt's last chunk ends with it
    s.trim(132);
    for (size_t i = 32; i < more.size(); ++i) {
        s.append(more[i]);
    }
    CHECK(held(s) == held(other));
    s.trim(100);
    CHECK(is_complete(s));
    for (const int64_t n : {99, 96, 64, 1}) {
        CHECK_EQ(s.exact_trim(n), 0);
    }
    s.trim(60);
    CHECK(!is_complete(s));
    CHECK_ERROR(s.append(5),
                "the prompt in a cache of policy guided is not complete: it has 60 tokens, and generated text does not "
                "follow them");
    CHECK_EQ(s.n_tokens(), 60);
    s.trim(32);
    s.prefill(std::span(tokens).subspan(32));
    session fresh(four_layers(), last_params());
    fresh.prefill(tokens);
    CHECK(held(s) == held(fresh));
    CHECK(same_bits(s.last_logits(), fresh.last_logits()));
    s.trim(0);
    s.prefill(tokens);
    CHECK(held(s) == held(fresh));
}

TEST(a_saved_prompt_goes_on_bit_for_bit_once_it_is_complete) {
    const temporary_file file(".kv");
    const std::vector<int32_t> tokens = some_tokens(130);
    for (const char * more : {":propagate=cache:min-class=3", ":key-axis=token:level-bits=16,4,0",
                              ":propagate=cache:protect=off:budget=bits:guide-norm=zscore"}) {
        for (const int n : {1, 20, 32, 100}) {
            IN(more, " n=", n);
            session s(four_layers(), last_params(more));
            read(s, std::span(tokens).first(static_cast<size_t>(n)), 30);
            CHECK_ERROR(s.save(file.path()), "its prompt is not complete");
            read(s, std::span(tokens).subspan(static_cast<size_t>(n), 30), 0);
            decode(s, 7, 4);
            s.save(file.path());
            session other(four_layers(), last_params(""));
            other.load(file.path());
            CHECK(is_complete(other));
            CHECK_EQ(other.exact_trim(n + 29), 0);
            CHECK_EQ(other.exact_trim(n + 30), n + 30);
            CHECK(same_bits(other.last_logits(), s.last_logits()));
            CHECK(go_on_alike(other, s));
            const temporary_file again(".kv");
            const temporary_file same(".kv");
            s.save(again.path());
            other.save(same.path());
            CHECK(read_bytes(again.path()) == read_bytes(same.path()));
        }
    }
}

TEST(files_from_before_there_was_a_choice_have_the_guide_first) {
    const temporary_file file(".kv");
    session s(four_layers(), last_params());
    s.prefill(some_tokens(40));
    s.save(file.path());
    kv_texts texts = kv_file(file.path()).options();
    CHECK(texts.at("guide") == "last");
    texts.erase("guide");
    CHECK(options_from(texts, 6).guide == guided_method::guide_at::first);
    CHECK_ERROR(options_from(texts, 7), "its option 'guide' is missing");
}

TEST(sequences_share_steps_also_with_prompts_that_wait) {
    const auto e = std::make_shared<engine>(four_layers(), 2);
    std::vector<session_params> params = {last_params(), last_params(""), last_params(":level-bits=16,4,0")};
    params.push_back(params.front());
    params.back().kv = parse_kv_spec("livekv:chunk-size=32");
    params.push_back(params.back());
    params.back().kv = parse_kv_spec("f16:chunk-size=32");
    std::vector<std::unique_ptr<session>> together;
    std::vector<std::unique_ptr<session>> alone;
    std::vector<session_step> batch;
    std::vector<std::vector<int32_t>> prompts;
    for (size_t i = 0; i < params.size(); ++i) {
        together.push_back(std::make_unique<session>(e, params[i]));
        alone.push_back(std::make_unique<session>(e, params[i]));
        prompts.push_back(some_tokens(40 + 30 * static_cast<int>(i), static_cast<uint32_t>(i + 5)));
    }
    for (size_t i = 0; i < params.size(); ++i) {
        batch.push_back(
            {together[i].get(), prompts[i], static_cast<int64_t>(prompts[i].size()) - 1, token_origin::prompt, {}});
    }
    step(*e, batch);
    for (size_t i = 0; i < params.size(); ++i) {
        const std::span<const float> expected = alone[i]->prefill(prompts[i]);
        const std::span<const float> made = together[i]->last_logits();
        CHECK(tiny_sequences::nmse({made.begin(), made.end()}, {expected.begin(), expected.end()}) < 1e-6);
        CHECK(is_complete(*together[i]));
    }
}

TEST(a_step_that_fails_leaves_what_was) {
    const std::vector<int32_t> tokens = some_tokens(150);
    session untouched(four_layers(), last_params());
    untouched.prefill(tokens);
    if (!allocations::can_fail) {
        SKIP("a sanitizer has an allocator of its own");
    }
    int n_failed = 0;
    for (int64_t at = 0; at < 20000; at += 41) {
        session s(four_layers(), last_params());
        read(s, std::span(tokens).first(128), 22);
        const size_t bytes = s.cache().bytes();
        if (!allocations::fails_at(at, [&] { s.prefill(std::span(tokens).subspan(128)); })) {
            break;
        }
        ++n_failed;
        CHECK(!is_complete(s));
        CHECK_EQ(s.n_tokens(), 128);
        CHECK(s.cache().bytes() < bytes + bytes / 4);  // room for more tokens
        s.prefill(std::span(tokens).subspan(128));
        CHECK(held(s) == held(untouched));
    }
    CHECK(n_failed > 5);
}

TEST(a_guide_longer_than_the_prompt_is_refused_and_changes_nothing) {
    session s(four_layers(), last_params(":guide-tokens=100"));
    CHECK_ERROR(s.prefill(some_tokens(99)), "guide-tokens: 100 are more than the prompt's 99");
    CHECK_EQ(s.n_tokens(), 0);
    read(s, std::span<const int32_t>(some_tokens(64)), 36);
    CHECK_ERROR(s.prefill(some_tokens(20)), "guide-tokens: 100 are more than the prompt's 84");
    CHECK_EQ(s.n_tokens(), 64);
    s.prefill(some_tokens(36));
    CHECK(is_complete(s));
    s.prefill(some_tokens(5));  // behind the prompt
    CHECK_EQ(n_decided(s), 100);
}

TEST(a_bad_number_is_named_by_its_place) {
    tiny_spec spec = four_layer_spec();
    spec.edit_values = [](const std::string & name, std::vector<float> & values) {
        if (name == "blk.3.attn_q.weight") {
            values[5] = std::numeric_limits<float>::infinity();
        }
    };
    session s(tiny_sequences::tiny_model(spec), last_params());
    CHECK_ERROR(s.prefill(some_tokens(100)), "layer 3");
    CHECK_EQ(s.n_tokens(), 0);
}

TEST(tokens_cannot_be_let_go_to_later_layers_that_have_read_them) {
    session_params p = last_params();
    p.kv.propagate = guided_method::propagation::layers;
    CHECK_ERROR(session(four_layers(), p), "propagate: with guide last it is off or cache");
}

TEST_MAIN
