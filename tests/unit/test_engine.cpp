// Sequences of one engine: trimmed exactly, and advanced together.

#include <algorithm>

#include "check.h"
#include "engine/engine.h"
#include "error.h"
#include "saved_sequence.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

std::vector<uint8_t> saved(session & s) {
    const temporary_file file(".kv");
    s.save(file.path());
    return kv_saved::read_bytes(file.path());
}

int32_t best_of(std::span<const float> logits) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::vector<int32_t> greedy(session & s, const std::vector<int32_t> & prompt, int n) {
    std::vector<int32_t> ids = {best_of(s.prefill(prompt))};
    while (static_cast<int>(ids.size()) < n) {
        ids.push_back(best_of(s.append(ids.back())));
    }
    return ids;
}

}  // namespace

TEST(a_trimmed_sequence_goes_on_as_a_new_one_byte_for_byte) {
    const auto m = tiny_model();
    const std::vector<int32_t> tokens = some_tokens(300);
    const std::vector<int32_t> more = some_tokens(150, 8);
    struct row {
        const char * name;
        std::function<void(kv_options &)> edit;
    };
    const std::vector<row> rows = {
        {"as shipped", [](kv_options &) {}},
        {"long warm-up", [](kv_options & o) { o.warmup_chunks = 4; }},
        {"warm-up kept", [](kv_options & o) { o.warmup_keep = true; }},
        {"no warm-up", [](kv_options & o) { o.warmup_chunks = 0; }},
        {"running range", [](kv_options & o) { o.scale_method = kv_method::scale::ema_minmax; }},
        {"a layer of 16 bits",
         [](kv_options & o) {
             o.bypass_layers = 1;
             o.bypass_type = kv_bypass::f16;
         }},
        {"f16", [](kv_options & o) { o = o.for_policy("f16"); }},
    };
    for (const auto & [name, edit] : rows) {
        session_params p = params_of("livekv", 32, 600);
        edit(p.kv);
        // What stays of the open chunk is not computed again: 10 of its 12 tokens, as attention takes few rows (a
        // level's n_rows_tile) another way than many, whose last digits differ.
        for (const int64_t n : {0, 1, 3, 31, 32, 33, 50, 64, 90, 96, 128, 160, 200, 288, 298, 300}) {
            session trimmed(m, p);
            trimmed.prefill(tokens);
            trimmed.trim(n);
            CHECK_EQ(trimmed.n_tokens(), n);
            session fresh(m, p);
            if (n > 0) {
                fresh.prefill(std::span(tokens).first(static_cast<size_t>(n)));
            }
            if (!same_bits(trimmed.prefill(more), fresh.prefill(more)) ||
                (p.kv.policy == "livekv" && saved(trimmed) != saved(fresh))) {
                check::report(__FILE__, __LINE__, std::string(name) + ", trimmed to " + std::to_string(n));
            }
        }
    }
}

TEST(a_trim_that_fails_changes_nothing) {
    const auto m = tiny_model();
    session s(m, params_of("livekv", 32));
    s.prefill(some_tokens(200));
    const std::vector<uint8_t> before = saved(s);
    CHECK_ERROR(s.trim(201), "n <= n_tokens()");
    CHECK(saved(s) == before);
}

TEST(texts_in_a_batch_are_those_of_each_alone) {
    const auto shared = std::make_shared<engine>(tiny_model(), 2);
    struct text {
        std::string policy;
        int n_prompt;
        int64_t chunk;
    };
    const std::vector<text> texts = {{"livekv", 5, 32}, {"livekv", 70, 32},  {"f16", 40, 64},      {"livekv", 129, 64},
                                     {"q8_0", 90, 32},  {"livekv", 200, 32}, {"q4_0_rot", 33, 32}, {"livekv", 64, 64}};
    constexpr int n_new = 40;
    std::vector<std::vector<int32_t>> alone;
    std::vector<std::unique_ptr<session>> together;
    std::vector<std::unique_ptr<kv_cache>> caches;
    std::vector<std::vector<int32_t>> prompts;
    for (size_t i = 0; i < texts.size(); ++i) {
        session_params p = params_of(texts[i].policy, texts[i].chunk);
        if (texts[i].policy == "q4_0_rot") {
            p.kv = p.kv.for_policy("q4_0");  // heads of 32 cannot be rotated in runs of 64
        }
        prompts.push_back(some_tokens(texts[i].n_prompt, static_cast<uint32_t>(i + 3)));
        session s(shared, p);
        alone.push_back(greedy(s, prompts.back(), n_new));
        caches.push_back(shared->make_cache(p.kv, p.n_ctx));
    }
    // Prompts, a chunk of each a step, and generated tokens of those that are through go side by side.
    const size_t n_vocab = static_cast<size_t>(shared->get_model()->hp.n_vocab);
    std::vector<std::vector<int32_t>> ids(texts.size());
    std::vector<size_t> n_read(texts.size(), 0);
    std::vector<std::vector<float>> logits(texts.size(), std::vector<float>(n_vocab));
    for (bool busy = true; busy;) {
        std::vector<batch_item> batch;
        std::vector<size_t> who;
        for (size_t i = 0; i < texts.size(); ++i) {
            batch_item item;
            item.cache = caches[i].get();
            item.logits = logits[i].data();
            if (n_read[i] < prompts[i].size()) {
                const size_t n = std::min({prompts[i].size() - n_read[i], static_cast<size_t>(texts[i].chunk),
                                           static_cast<size_t>(caches[i]->max_new())});
                item.tokens = std::span(prompts[i]).subspan(n_read[i], n);
                n_read[i] += n;
                item.end_of_prompt = n_read[i] == prompts[i].size();
                item.n_outputs = item.end_of_prompt ? 1 : 0;
            } else if (static_cast<int>(ids[i].size()) < n_new) {
                item.tokens = {&ids[i].back(), 1};
                item.origin = token_origin::generated;
                item.n_outputs = 1;
            } else {
                continue;
            }
            batch.push_back(item);
            who.push_back(i);
        }
        busy = !batch.empty();
        if (busy) {
            shared->step(batch);
        }
        for (size_t k = 0; k < batch.size(); ++k) {
            if (batch[k].n_outputs == 1) {
                ids[who[k]].push_back(best_of(logits[who[k]]));
            }
        }
    }
    for (size_t i = 0; i < texts.size(); ++i) {
        IN("text ", i);
        CHECK(ids[i] == alone[i]);
        CHECK_EQ(caches[i]->n_tokens(), static_cast<int64_t>(prompts[i].size()) + n_new - 1);
    }
}

TEST(a_step_that_fails_leaves_every_sequence) {
    const auto shared = std::make_shared<engine>(tiny_model(), 1);
    const auto a = shared->make_cache(kv_options(), 100);
    const auto b = shared->make_cache(kv_options(), 10);
    const std::vector<int32_t> tokens = some_tokens(20);
    std::vector<batch_item> batch(2);
    batch[0].cache = a.get();
    batch[1].cache = b.get();
    batch[0].tokens = batch[1].tokens = tokens;
    CHECK_ERROR(shared->step(batch), "the context of 10 tokens is full");
    CHECK_EQ(a->n_tokens(), 0);
    batch[1].cache = a.get();
    CHECK_ERROR(shared->step(batch), "a sequence is in the batch twice");
    const std::vector<int32_t> wrong = {1, 100000};
    batch[1].cache = b.get();
    batch[1].tokens = wrong;
    CHECK_ERROR(shared->step(batch), "token id 100000 is not in the model's vocabulary");
    CHECK_EQ(a->n_tokens(), 0);
    CHECK_EQ(b->n_tokens(), 0);
}

TEST_MAIN
