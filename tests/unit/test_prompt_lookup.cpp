// Drafts from what a text said before, and that verifying them changes no token and no bit of what follows.

#include <algorithm>
#include <string>
#include <vector>

#include "check.h"
#include "session/generate.h"
#include "session/prompt_lookup.h"
#include "tiny_sequences.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

std::vector<int32_t> drafted(prompt_lookup & l, int64_t room = 100) {
    const std::span<const int32_t> d = l.draft(room);
    return {d.begin(), d.end()};
}

void observe(prompt_lookup & l, const std::vector<int32_t> & tokens) {
    for (const int32_t t : tokens) {
        l.observe(t);
    }
}

// Behind a prompt that says the same twice.
generate_result written(session & s, const generate_params & params, std::string & text) {
    std::vector<int32_t> prompt = some_tokens(40);
    prompt.insert(prompt.end(), prompt.begin() + 1, prompt.end());
    generate_callbacks callbacks;
    callbacks.on_text = [&](std::string_view piece) { return text += piece, true; };
    return generate(s, prompt, params, callbacks);
}

}  // namespace

TEST(a_draft_is_what_came_last_behind_the_same_three_tokens) {
    prompt_lookup l(8);
    observe(l, {1, 2, 3, 4, 5, 1, 2, 3});
    CHECK(drafted(l) == std::vector<int32_t>({4, 5}));
    CHECK(drafted(l, 1) == std::vector<int32_t>({4}));
    CHECK(drafted(l, 0).empty() && drafted(l, -1).empty());
    observe(l, {7, 7, 7, 1, 2, 3});
    CHECK(drafted(l) == std::vector<int32_t>({7, 7}));
    l.observe(9);
    CHECK(drafted(l).empty());
}

TEST(drafts_grow_while_they_are_right_and_stop_for_a_while_when_they_are_not) {
    prompt_lookup l(9);
    const std::vector<int32_t> again = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    observe(l, again);
    observe(l, again);
    observe(l, {1, 2, 3});
    std::vector<size_t> lengths;
    for (int i = 0; i < 4; ++i) {
        lengths.push_back(drafted(l).size());
        l.learn(static_cast<int64_t>(lengths.back()), static_cast<int64_t>(lengths.back()));
    }
    CHECK(lengths == std::vector<size_t>({2, 5, 9, 9}));
    int64_t n_wrong = 0;
    for (; !drafted(l).empty(); ++n_wrong) {
        l.learn(static_cast<int64_t>(drafted(l).size()), 0);
    }
    CHECK(n_wrong >= 1 && n_wrong <= 4);  // what was gained is not all lost
    int64_t first_pause = 0;
    int64_t second_pause = 0;
    for (int64_t * pause : {&first_pause, &second_pause}) {
        for (; drafted(l).empty(); ++*pause) {
            l.observe(again[static_cast<size_t>(3 + *pause) % again.size()]);
        }
        for (; !drafted(l).empty();) {
            l.learn(1, 0);
        }
    }
    CHECK(first_pause >= 32 && second_pause >= 2 * 32);
}

// Every draft a session takes, right or wrong, at every place in chunks and beyond windows, with one thread and two.
TEST(a_pass_over_a_draft_gives_what_passes_of_one_token_give) {
    for (const char * arch : {"llama", "gemma3"}) {
        for (const uint32_t n_head_kv : {1u, 2u}) {
            tiny_spec spec;
            spec.arch = arch;
            spec.n_head_kv = n_head_kv;
            spec.n_ctx = 4096;
            spec.matrix_type = GGML_TYPE_Q8_0;
            if (spec.arch == "gemma3") {
                spec.n_layer = 4;
                spec.window = 24;
                spec.tied = true;
            }
            const auto m = tiny_model(spec);
            for (const char * policy : {"livekv", "kvstream", "kivi"}) {
                IN(arch, " ", n_head_kv, " ", policy);
                const session_params params = params_of(policy, 64, 4000);
                session one(m, params);
                session some(one.get_engine(), params);
                const size_t n_prompt = spec.arch == "llama" ? 2900 : 90;  // so long that attention is cut into spans
                const std::vector<int32_t> tokens = some_tokens(static_cast<int>(n_prompt) + 330, 7);
                const auto prompt = std::span<const int32_t>(tokens).first(n_prompt);
                one.prefill(prompt);
                some.prefill(prompt);
                int64_t n_passes = 0;
                for (size_t at = prompt.size(); at < tokens.size(); ++n_passes) {
                    const auto room =
                        std::min<int64_t>(some.room_for_draft(), static_cast<int64_t>(tokens.size() - at));
                    if (room < 2) {
                        some.append(tokens[at]);
                        one.append(tokens[at++]);
                        continue;
                    }
                    std::vector<int32_t> draft(tokens.begin() + static_cast<int64_t>(at),
                                               tokens.begin() + static_cast<int64_t>(at) + room);
                    const int64_t n_kept = 1 + n_passes % room;
                    for (int64_t i = n_kept; i < room; ++i) {
                        draft[static_cast<size_t>(i)] = 5;
                    }
                    const auto logits = some.append_drafted(draft);
                    const size_t n_vocab = logits.size() / draft.size();
                    for (int64_t i = 0; i < n_kept; ++i) {
                        CHECK(same_bits(one.append(tokens[at++]),
                                        logits.subspan(static_cast<size_t>(i) * n_vocab, n_vocab)));
                    }
                    some.keep_drafted(n_kept);
                    CHECK_EQ(some.n_tokens(), one.n_tokens());
                    CHECK(same_bits(some.last_logits(), one.last_logits()));
                }
                CHECK(n_passes < 330 / 2);
                CHECK(std::ranges::equal(some.tokens(), one.tokens()));
                CHECK(same_bits(some.append(9), one.append(9)));
                CHECK_EQ(some.cache().bytes(), one.cache().bytes());
            }
        }
    }
}

TEST(a_text_is_the_same_with_lookup_for_each_reason_to_stop) {
    tiny_spec spec;
    spec.matrix_type = GGML_TYPE_Q8_0;
    spec.edit_values = [](const std::string & name, std::vector<float> & values) {
        if (name.find("attn_output") != std::string::npos || name.find("ffn_down") != std::string::npos) {
            values.assign(values.size(), 0.0f);  // each token alone says which comes next: greedy texts go in circles
        }
    };
    const auto m = tiny_model(spec);
    for (const double temperature : {0.0, 0.2}) {
        for (const int64_t n_predict : {1, 2, 7, 150, -1}) {
            generate_params params;
            params.n_predict = n_predict;
            params.ignore_eos = true;
            params.sampling.temperature = temperature;
            params.sampling.seed = 11;
            std::vector<std::string> texts;
            std::vector<generate_result> results;
            std::vector<int32_t> held;
            for (const int64_t n_lookup : {0, 1, 4, 31}) {
                IN("temperature ", temperature, ", ", n_predict, " tokens, lookup ", n_lookup);
                params.n_lookup = n_lookup;
                session s(m, params_of("livekv", 64, 300));
                std::string text;
                results.push_back(written(s, params, text));
                texts.push_back(text);
                const generate_result & r = results.back();
                CHECK_EQ(texts.back(), texts.front());
                CHECK_EQ(r.n_generated, results.front().n_generated);
                CHECK(r.reason == results.front().reason && r.logits_hash == results.front().logits_hash);
                CHECK_EQ(r.last_token, results.front().last_token);
                if (n_lookup == 0) {
                    held.assign(s.tokens().begin(), s.tokens().end());
                    CHECK_EQ(r.n_drafted, 0);
                }
                CHECK(std::ranges::equal(s.tokens(), held));
                CHECK(r.n_accepted <= r.n_drafted && r.n_accepted < r.n_generated);
            }
            if (temperature == 0.0 && n_predict == 150) {
                CHECK(results.back().n_accepted > 50);
                for (size_t end = 40; end < 80; end += 13) {  // a stop string that ends within a draft
                    params.stop = {texts.front().substr(end, 3)};
                    std::vector<std::string> stopped;
                    for (const int64_t n_lookup : {0, 31}) {
                        params.n_lookup = n_lookup;
                        session s(m, params_of("livekv", 64, 300));
                        std::string text;
                        written(s, params, text);
                        stopped.push_back(text + " " + std::to_string(s.n_tokens()));
                    }
                    CHECK_EQ(stopped[0], stopped[1]);
                }
            }
        }
    }
}

TEST_MAIN
