// A million tokens and more than 4 GiB of keys, of values and of a file: every byte is found where it belongs. Takes
// minutes and 10 GB of memory, so it runs where LIVEKV_LARGE is set; the same with few tokens always does.

#include <cstdlib>

#include "check.h"
#include "saved_sequence.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

constexpr int32_t n_needles = 4;

struct long_text {
    int64_t n_tokens;  // with a short last pass: the mask of the dense caches is [n_new, n_tokens]
    int64_t places[n_needles];
};
constexpr long_text few = {8 * 512 + 4, {5, 1400, 2600, 3900}};
// Of keys and values in f16 4096 bytes each: the first, one before 2^31, one before 2^32, one behind it.
constexpr long_text large = {2148 * 512 + 4, {5, 400000, 700000, 1060000}};

// In double precision the needles' share of the attention to their questions is 1 - 2e-11 or more, a million tokens
// away too. So what is off is the rounding of their values: in 8 bits a step is 1/127 of the largest of 32 normal ones,
// some 2.1 of them, and (2.1 / 127)^2 / 12 of their power is 2.3e-5, here times ten.
constexpr double most_off = 2.3e-4;

constexpr int32_t question(int32_t i) {
    return 10 + i;
}
constexpr int32_t needle(int32_t i) {
    return 20 + i;
}

// A layer whose heads find needle i with question i: keys see a part of the embedding that has one direction in the
// two, and is longer in the needle, whose key the question then prefers to its own, however far away.
tiny_spec finder() {
    constexpr size_t n_embd = 64;
    constexpr size_t n_seen = 48;    // of the embedding, by keys
    constexpr float sharpness = 35;  // others, a million of them, get nothing
    tiny_spec spec;
    spec.n_layer = 1;
    spec.n_embd = n_embd;
    spec.n_head = spec.n_head_kv = 16;
    spec.head_dim = 128;
    spec.edit_keys = [](gguf_context * g) {
        gguf_set_val_u32(g, "llama.context_length", 2000000);
        gguf_set_val_f32(g, "llama.rope.freq_base", 1e38f);  // positions turn the fewest channels
    };
    spec.edit_values = [q = std::make_shared<std::vector<float>>()](const std::string & name,
                                                                    std::vector<float> & values) {
        if (name == "token_embd.weight") {
            for (int32_t i = 0; i < n_needles; ++i) {
                for (size_t c = 0; c < n_embd; ++c) {
                    float & x = values[static_cast<size_t>(question(i)) * n_embd + c];
                    values[static_cast<size_t>(needle(i)) * n_embd + c] = c < n_seen ? 1.12f * x : -0.5f * x;
                    x *= c < n_seen ? 0.58f : 1.73f;  // of one length, as the norm before the layer makes them
                }
            }
        } else if (name == "blk.0.attn_q.weight") {
            for (size_t at = 0; at < values.size(); ++at) {
                values[at] *= at % n_embd < n_seen ? 1.0f : 0.0f;
            }
            *q = values;
            for (float & x : values) {
                x *= sharpness;
            }
        } else if (name == "blk.0.attn_k.weight") {
            values = *q;
        }
    };
    return spec;
}

// Token ids of no needle and no question.
int32_t filler(int64_t i) {
    return 40 + static_cast<int32_t>((static_cast<uint64_t>(i) * 2654435761u >> 16) % 200);
}

std::vector<float> answers(session & s) {
    std::vector<float> all;
    for (int32_t i = 0; i < n_needles; ++i) {
        const std::span<const float> logits = s.append(question(i));
        all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
}

std::vector<float> answers_of_short_text(const std::shared_ptr<const model> & m, bool with_needles) {
    session s(m, params_of("f16", 512));
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < 200; ++i) {
        tokens.push_back(with_needles && i % 50 == 0 ? needle(i / 50) : filler(i));
    }
    s.prefill(tokens);
    return answers(s);
}

void finds_needles(const long_text & text, bool checks_sizes) {
    const auto m = tiny_model(finder());
    const std::vector<float> expected = answers_of_short_text(m, true);
    const double without = nmse(answers_of_short_text(m, false), expected);
    std::printf("  without needles off by %.2g\n", without);
    CHECK(without > 0.5);
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < text.n_tokens; ++i) {
        tokens.push_back(filler(i));
    }
    for (int32_t i = 0; i < n_needles; ++i) {
        tokens[static_cast<size_t>(text.places[i])] = needle(i);
    }
    for (const char * kv : {"f16", "q8_0", "livekv"}) {
        IN(kv);
        session_params p = params_of(kv, 512, text.n_tokens + 100);
        if (p.kv.policy == "livekv") {
            p.kv.bits = {8, 8};
        }
        session s(m, p);
        s.prefill(tokens);
        const std::unique_ptr<session> before = kv == std::string("livekv") ? s.fork() : nullptr;
        const double error = nmse(answers(s), expected);
        std::printf("  %-7s %.2f GiB, off by %.2g\n", kv, static_cast<double>(s.cache().bytes()) / (1 << 30), error);
        CHECK(!checks_sizes || s.cache().bytes() > size_t(4) << 30);
        CHECK(error < most_off);  // one needle of four that is not found: 0.4
        if (before) {
            const temporary_file file(".kv");
            before->save(file.path());
            CHECK(!checks_sizes || std::filesystem::file_size(file.path()) > uint64_t(4) << 30);
            session restored(m, p);
            restored.load(file.path());
            CHECK(same_bits(answers(restored), answers(*before)));
            restored.trim(text.places[n_needles - 1] - 100);  // the last needle goes
            CHECK(restored.n_tokens() == text.places[n_needles - 1] - 100);
        }
    }
}

double available_gib() {
    std::ifstream file("/proc/meminfo");
    std::string name;
    double kib = 0;
    while (file >> name >> kib && name != "MemAvailable:") {
        file.ignore(100, '\n');
    }
    return kib / (1 << 20);
}

}  // namespace

TEST(a_few_thousand_tokens) {
    finds_needles(few, /*checks_sizes=*/false);
}

TEST(a_million_tokens) {
    if (!std::getenv("LIVEKV_LARGE")) {
        SKIP("LIVEKV_LARGE is not set: it takes minutes and 10 GB");
    }
    if (available_gib() < 12) {
        SKIP("less than 12 GiB of memory are available");
    }
    finds_needles(large, /*checks_sizes=*/true);
}

TEST_MAIN
