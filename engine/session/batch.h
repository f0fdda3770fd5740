#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "session/generate.h"
#include "session/session.h"

// Several sessions of one engine that advance together.
namespace livekv {

// What a session is to be given.
struct session_step {
    session * who = nullptr;
    std::span<const int32_t> tokens;  // any number that fits into its context, at least one
    int64_t first_wanted = 0;         // index of the first of them whose logits are wanted
    token_origin origin = token_origin::prompt;
    session::logits_sink sink;  // as session::eval's; may be empty
    int64_t n_to_come = 0;      // tokens of the same prompt that later steps bring
};

// Appends every session's tokens, in as few passes as their chunks allow, and in more where rows would take much memory
// or a pass takes no more caches of a kind; who has the fewest tokens is through first. go_on is called after each pass
// but the last, and may throw to end the step there. Throws livekv::error before the first pass when sessions are not
// of engine e, one is listed twice, or tokens do not fit or are not of the vocabulary, and otherwise as engine::step;
// then every session is what it was after the last pass.
void step(engine & e, std::span<const session_step> batch, const std::function<void()> & go_on = {});

// One step of every text, none of which has ended: the text that is certain by then, as generation::next gives it.
// go_on, errors: as above; a text whose step was cut short can only be interrupted.
std::vector<std::string> step(engine & e, std::span<generation * const> texts,
                              const std::function<void()> & go_on = {});

}  // namespace livekv
