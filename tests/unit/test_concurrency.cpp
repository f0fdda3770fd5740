// Threads that do with sessions whatever sessions can do, of one engine and of several, while another loads models:
// each text is what it is alone; and Ctrl-C meanwhile. `make tsan` looks for data races in it.

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <latch>
#include <thread>

#include "check.h"
#include "cli/interrupt.h"
#include "session/generate.h"
#include "tiny_sequences.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

// What one thread does, and everything it sees.
struct script {
    std::string policy;
    int64_t chunk;
    int n_prompt;
    uint32_t seed;
};

struct outcome {
    std::string text;
    std::vector<float> logits;
    bool operator==(const outcome &) const = default;
};

std::string generated(session & s, const std::vector<int32_t> & prompt, int64_t n, uint32_t seed) {
    generate_params p;
    p.n_predict = n;
    p.ignore_eos = true;
    p.sampling.seed = seed;
    std::string text;
    for (generation g(s, prompt, p); !g.ended();) {
        text += g.next();
    }
    return text;
}

// new_session: on an engine that others may use, or on one of its own.
outcome play(const script & what, const std::function<std::unique_ptr<session>()> & new_session) {
    outcome seen;
    const auto keep = [&](const std::vector<float> & logits) {
        seen.logits.insert(seen.logits.end(), logits.begin(), logits.end());
    };
    auto s = new_session();
    const std::vector<int32_t> prompt = some_tokens(what.n_prompt, what.seed);
    keep(last_logits(*s, prompt));
    auto branch = s->fork();
    seen.text += generated(*s, some_tokens(5, what.seed + 1), 12, what.seed);
    seen.text += generated(*branch, some_tokens(9, what.seed + 2), 7, what.seed);
    branch->trim(what.n_prompt / 2);
    keep(last_logits(*branch, some_tokens(40, what.seed + 3)));
    if (what.policy == "livekv") {
        const temporary_file file(".kv");
        s->save(file.path());
        const auto again = new_session();
        again->load(file.path());
        keep(decode(*again, {again->last_logits().begin(), again->last_logits().end()}, 5));
    }
    s.reset();
    keep(decode(*branch, {branch->last_logits().begin(), branch->last_logits().end()}, 5));
    return seen;
}

const std::vector<script> scripts = {
    {"livekv", 32, 100, 11}, {"f16", 32, 60, 12}, {"livekv", 64, 150, 13}, {"q8_0", 64, 70, 14}};

}  // namespace

TEST(texts_of_several_threads_are_those_of_each_alone) {
    const temporary_file file(".gguf");
    write_tiny_model({}, file.path());
    const auto m = model::load(file.path());
    const auto shared = std::make_shared<engine>(m, 2);
    std::vector<outcome> alone;
    for (const script & what : scripts) {
        alone.push_back(play(what, [&] { return std::make_unique<session>(m, params_of(what.policy, what.chunk)); }));
    }
    // Every script twice: on the engine all share, and on engines of their own.
    const size_t n = 2 * scripts.size();
    std::latch start(static_cast<std::ptrdiff_t>(n + 1));
    std::vector<outcome> together(n);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < n; ++i) {
        threads.emplace_back([&, i] {
            const script & what = scripts[i / 2];
            start.arrive_and_wait();
            together[i] = play(what, [&] {
                const session_params p = params_of(what.policy, what.chunk);
                return i % 2 ? std::make_unique<session>(m, p) : std::make_unique<session>(shared, p);
            });
        });
    }
    std::vector<float> loaded[2];
    threads.emplace_back([&] {
        start.arrive_and_wait();
        for (std::vector<float> & logits : loaded) {
            session s(model::load(file.path()), params_of("livekv", 32));
            logits = last_logits(s, some_tokens(50));
        }
    });
    for (std::thread & t : threads) {
        t.join();
    }
    for (size_t i = 0; i < n; ++i) {
        IN(scripts[i / 2].policy, i % 2 ? ", its own engine" : ", the shared engine");
        CHECK(together[i] == alone[i / 2]);
        CHECK(!together[i].text.empty());
    }
    CHECK(!loaded[0].empty() && loaded[0] == loaded[1]);
}

// The signal reaches whichever thread of the process, and text comes of another.
TEST(ctrl_c_ends_a_text_that_can_go_on) {
    const temporary_file file(".gguf");
    write_tiny_model({}, file.path());
    const auto m = model::load(file.path());
    const std::vector<int32_t> prompt = some_tokens(50);
    session s(m, params_of("livekv", 32));
    generate_params p;
    p.ignore_eos = true;
    p.sampling.temperature = 0.0;
    std::latch begun(1);
    int n_asked = 0;
    generate_callbacks callbacks;
    callbacks.interrupted = [&] {
        if (++n_asked == 10) {
            begun.count_down();
        }
        while (n_asked >= 10 && !interrupted()) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return interrupted();
    };
    catch_interrupt();
    std::thread hand([&] {
        begun.wait();
        ::kill(::getpid(), SIGINT);
    });
    const generate_result cut = generate(s, prompt, p, callbacks);
    hand.join();
    CHECK(interrupted());
    clear_interrupt();
    CHECK(cut.reason == stop_reason::interrupted);
    CHECK(cut.n_generated > 0);

    session undisturbed(m, params_of("livekv", 32));
    last_logits(undisturbed, prompt);
    const std::vector<int32_t> all(s.tokens().begin(), s.tokens().end());
    for (size_t i = prompt.size(); i < all.size(); ++i) {
        undisturbed.append(all[i]);
    }
    const std::vector<int32_t> next = {5};
    CHECK(last_logits(s, next) == last_logits(undisturbed, next));
}

TEST_MAIN
