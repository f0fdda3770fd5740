// livekv-logits: every prompt position's logits as raw floats, and greedy continuations, for tests to compare.

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/engine_options.h"
#include "cli/tool.h"
#include "error.h"
#include "policy/kv_policies.h"
#include "session/generate.h"

namespace livekv {

namespace {

std::vector<int32_t> greedy(session & s, std::span<const float> logits, int64_t n) {
    sampler_params params;
    params.temperature = 0.0;
    sampler pick(params);
    std::vector<int32_t> ids;
    while (true) {
        ids.push_back(pick.next(logits));
        if (static_cast<int64_t>(ids.size()) == n) {
            return ids;
        }
        logits = s.prefill(std::span(ids).last(1));
    }
}

int run(int argc, char ** argv) {
    engine_options engine;
    std::vector<int64_t> ids;
    std::string out_path;
    int64_t n_generate = 0;
    int64_t n_pass = 512;
    option_table table;
    engine.n_threads = 2;
    table.text("-m,--model", engine.model_path, "FILE", "GGUF file");
    table.integer("-t,--threads", engine.n_threads, 1, 512, "CPU threads");
    engine.kv.policy = "f16";
    table.choice("--kv", engine.kv.policy, kv_policy_names(), "cache");
    table.integer("--pass", n_pass, 1, 4096, "tokens processed together");
    table.integers("--tokens", ids, 0, INT32_MAX, "prompt ids");
    table.integer("--generate", n_generate, 0, 4096, "greedy tokens to print as a JSON array");
    table.text("--out", out_path, "FILE", "raw float32 [n_tokens, n_vocab]");
    if (!table.parse(argc, argv)) {
        std::cout << table.help_text();
        return 0;
    }
    const std::vector<int32_t> tokens(ids.begin(), ids.end());
    engine.kv.chunk_size = 4096;  // never less than a pass
    session s(model::load(engine.model_path),
              engine.params(static_cast<int64_t>(tokens.size()) + n_generate, engine.kv.policy));
    std::vector<float> last;
    std::ofstream out;
    if (!out_path.empty()) {
        out.open(out_path, std::ios::binary);
    }
    for (size_t done = 0; done < tokens.size(); done += static_cast<size_t>(n_pass)) {
        const size_t n = std::min(tokens.size() - done, static_cast<size_t>(n_pass));
        s.eval(std::span(tokens).subspan(done, n), 0, [&](int64_t, int64_t n_rows, std::span<const float> logits) {
            out.write(reinterpret_cast<const char *>(logits.data()), static_cast<std::streamsize>(logits.size_bytes()));
            const size_t row = logits.size() / static_cast<size_t>(n_rows);
            last.assign(logits.end() - static_cast<int64_t>(row), logits.end());
        });
    }
    if (!out_path.empty() && !out.flush()) {
        fail("cannot write '", out_path, "'");
    }
    if (n_generate > 0) {
        std::cout << nlohmann::json(greedy(s, last, n_generate)).dump() << "\n";
    }
    return 0;
}

}  // namespace

}  // namespace livekv

int main(int argc, char ** argv) {
    return livekv::run_tool("livekv-logits", livekv::run, argc, argv);
}
