#pragma once

// livekv for C++: the one header a program includes. Everything is in namespace livekv; what fails throws livekv::error
// with one line a user can act on, and a cache option with a wrong value throws kv_option_error, which names the field.
//
// A model is loaded once and never changes. An engine is one model on one machine: its threads and its workspace. A
// session is one sequence of tokens and its compressed cache; sessions share an engine, take turns when several threads
// call, and may advance together in one pass. This prefills a prompt, keeps it in a file, goes on from it, and then
// advances two sequences at once (tests/tools/embed.cpp, which is built and run with the tests):
//
// #include "livekv.h"
//
//     const auto m = livekv::model::load(model_path);
//     const auto shared = std::make_shared<livekv::engine>(m, /*n_threads=*/1);
//     livekv::session_params params;
//     params.n_ctx = 1024;
//     params.kv = livekv::parse_kv_spec("small:chunk-size=64");
//     livekv::session first(shared, params);
//     first.prefill(m->vocab.encode("Once upon a time", /*add_special=*/true, /*parse_special=*/false));
//     first.save(kv_path);
//
//     livekv::generate_params how;
//     how.n_predict = 40;
//     how.sampling.temperature = 0.0;
//     livekv::generate_callbacks callbacks;
//     callbacks.on_text = [](std::string_view piece) { return bool(std::cout << piece); };
//     livekv::generate(first, /*prompt=*/{}, how, callbacks);
//
//     livekv::session second(shared, params);
//     second.load(kv_path);
//     how.n_predict = 8;
//     livekv::generation one(first, m->vocab.encode(" The end.", false, false), how);
//     livekv::generation two(second, m->vocab.encode(" there was", false, false), how);
//     livekv::generation * const both[] = {&one, &two};
//     std::string texts[2];
//     while (!one.ended() && !two.ended()) {  // a token of each, in one pass of the model
//         const std::vector<std::string> pieces = livekv::step(*shared, both);
//         texts[0] += pieces[0];
//         texts[1] += pieces[1];
//     }
//     std::cout << "\n1:" << texts[0] << "\n2:" << texts[1];
//
// CMake: link livekv_engine, whose include folder is engine/. Each header below says shapes, units and errors.

#include "chunks/chunk_store.h"  // chunk_store: prompts that are read once
#include "engine/engine.h"       // engine: what the sessions of a model share
#include "engine/model.h"        // model: file, shape (hp), tokenizer (vocab), weights (tensors)
#include "error.h"               // error: the one exception
#include "policy/kv_options.h"   // kv_options: how keys and values are stored
#include "policy/kv_policies.h"  // the policies there are, by name
#include "policy/kv_spec.h"      // parse_kv_spec: options from "livekv:kv-bits=4,3"
#include "session/batch.h"       // step: sessions that advance together, and texts that are generated together
#include "session/chat.h"        // chat: turns in a session; chat_template: a conversation as the model's own text
#include "session/fidelity.h"    // measure_fidelity: perplexity, and divergence from another cache
#include "session/generate.h"    // generate, generation: text, at once or step by step
#include "session/sampler.h"     // sampler_params, sampler: the next token from logits
#include "session/session.h"     // session: prefill, append, eval, trim, fork, save, load
