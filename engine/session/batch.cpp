#include "session/batch.h"

#include <algorithm>

#include "error.h"
#include "run/pass.h"

namespace livekv {

namespace {

// Tokens of prompts that share a pass, unless one chunk alone has more: what a pass computes with grows with them, and
// more make it no faster.
constexpr int64_t most_prompt_rows = 512;

struct progress {
    const session_step * work = nullptr;
    int64_t n_done = 0;

    int64_t n_left() const { return static_cast<int64_t>(work->tokens.size()) - n_done; }
};

void check(const engine & e, std::span<const session_step> batch) {
    std::vector<const session *> seen;
    for (const session_step & item : batch) {
        if (item.who->get_engine().get() != &e) {
            fail("a session of the batch belongs to another engine");
        }
        if (std::find(seen.begin(), seen.end(), item.who) != seen.end()) {
            fail("a session is in the batch twice");
        }
        seen.push_back(item.who);
        item.who->require_tokens(item.tokens);
    }
}

// The next pass's shares, from the front of the waiting; who is in it moves to `running`.
std::vector<session::share> next_pass(std::vector<progress> & waiting, std::vector<progress> & running) {
    std::vector<session::share> shares;
    std::vector<progress> later;
    int64_t n_rows = 0;
    size_t n_dense = 0;
    bool has_all = false;
    for (progress & p : waiting) {
        const session_step & work = *p.work;
        const int64_t n = work.who->pass_size(p.n_left());
        const bool dense = !pass_runner::comes_first(work.who->cache());
        const bool alone = work.who->cache().reads_prompt_alone() && work.origin == token_origin::prompt;
        const bool too_long = n > 1 && n_rows + n > most_prompt_rows;
        if (has_all ||
            (!shares.empty() && (alone || too_long || (dense && n_dense == pass_runner::most_dense_parts)))) {
            later.push_back(p);
            continue;
        }
        has_all = alone;
        n_rows += n > 1 ? n : 0;
        n_dense += dense ? 1 : 0;
        const int64_t end = p.n_done + n;
        shares.push_back({work.who, work.tokens.subspan(static_cast<size_t>(p.n_done), static_cast<size_t>(n)),
                          alone && work.n_to_come > 0 ? 0 : std::clamp<int64_t>(end - work.first_wanted, 0, n),
                          work.origin, n == p.n_left() && work.n_to_come == 0,
                          work.who->n_tokens() + p.n_left() + work.n_to_come});
        p.n_done = end;
        running.push_back(p);
    }
    waiting = std::move(later);
    return shares;
}

}  // namespace

void step(engine & e, std::span<const session_step> batch, const std::function<void()> & go_on) {
    check(e, batch);
    std::vector<progress> waiting;
    for (const session_step & item : batch) {
        const bool wants_last = item.first_wanted + 1 == static_cast<int64_t>(item.tokens.size());
        waiting.push_back({&item, wants_last ? static_cast<int64_t>(item.who->reuse(item.tokens)) : 0});
    }
    while (!waiting.empty()) {
        std::vector<progress> running;
        const std::vector<session::share> shares = next_pass(waiting, running);
        session::pass(e, shares);
        for (size_t i = 0; i < shares.size(); ++i) {
            const progress & p = running[i];
            if (shares[i].n_outputs > 0 && p.work->sink) {
                p.work->sink(p.n_done - shares[i].n_outputs, shares[i].n_outputs, p.work->who->pass_logits());
            }
            p.work->who->drop_pass_logits();
            if (p.n_left() > 0) {
                waiting.push_back(p);  // behind those that have waited
            }
        }
        if (go_on && !waiting.empty()) {
            go_on();
        }
    }
}

std::vector<std::string> step(engine & e, std::span<generation * const> texts, const std::function<void()> & go_on) {
    std::vector<session_step> batch;
    for (generation * text : texts) {
        if (const std::span<const int32_t> tokens = text->begin_step(); !tokens.empty()) {
            batch.push_back(
                {&text->get_session(), tokens, static_cast<int64_t>(tokens.size()) - 1, text->origin(), {}});
        }
    }
    step(e, batch, go_on);
    std::vector<std::string> pieces;
    for (generation * text : texts) {
        pieces.push_back(text->end_step());
    }
    return pieces;
}

}  // namespace livekv
