// livekv-perplexity: how well a text is predicted with a compressed cache, and how far that is from another cache.

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/engine_options.h"
#include "cli/tool.h"
#include "livekv.h"

namespace livekv {

namespace {

struct perplexity_options {
    engine_options engine;
    std::string text_path;
    int64_t n_ctx = 2048;
    int64_t max_windows = 0;
    std::string kl_base = "none";
    std::string tokens_path;
    std::string output = "text";

    void declare(option_table & table) {
        engine.declare(table, /*kv_is_list=*/false);
        table.group("Measurement");
        table.text("-f,--file", text_path, "FILE", "the text");
        table.integer("-c,--ctx-size", n_ctx, fidelity_params::min_window, INT32_MAX,
                      "tokens a window; its second half is scored");
        table.integer("--windows", max_windows, 0, INT32_MAX, "windows to measure; 0: all the text has");
        std::vector<std::string> bases = kv_policy_names();
        bases.insert(bases.begin(), "none");
        table.choice("--kl-base", kl_base, bases, "also measure the divergence from this cache");
        table.text("--kl-tokens", tokens_path, "FILE",
                   "write every scored token's divergence, raw little-endian float64, to compare runs pairwise");
        engine.declare_dequantize(table);
        table.choice("-o,--output", output, {"text", "json"}, "format of the result on stdout");
    }
};

std::string to_json(const fidelity & f, const perplexity_options & options) {
    nlohmann::ordered_json j;
    j["kv"] = options.engine.kv.policy;
    j["n_ctx"] = options.n_ctx;
    const auto add = [&](const char * name, const char *, auto value) { j[name] = value; };
    visit_numbers(f, add);
    if (f.kl) {
        j["kl_base"] = options.kl_base;
        visit_numbers(*f.kl, add);
    }
    return j.dump(1) + "\n";
}

void print_text(const fidelity & f, const perplexity_options & options) {
    std::printf("cache       %s, %.2f bits a value\n", options.engine.kv.policy.c_str(), f.bits_per_value);
    std::printf("perplexity  %.4f +- %.4f (%lld tokens in %lld windows of %lld)\n", f.ppl, f.ppl_stderr,
                static_cast<long long>(f.n_tokens), static_cast<long long>(f.n_windows),
                static_cast<long long>(options.n_ctx));
    if (f.kl) {
        std::printf("KL from %s: mean %.6f +- %.6f, median %.6f, 99.9 %% %.6f, max %.6f\n", options.kl_base.c_str(),
                    f.kl->mean, f.kl->mean_stderr, f.kl->median, f.kl->p999, f.kl->max);
        std::printf("same top    %.2f %%\n", 100.0 * f.kl->same_top);
    }
}

int run(int argc, char ** argv) {
    perplexity_options options;
    option_table table;
    options.declare(table);
    if (!table.parse(argc, argv)) {
        std::cout
            << "usage: livekv-perplexity -m FILE -f TEXT [options]\n\nPerplexity of a text with live compression on, "
               "and the divergence from another cache.\n"
            << table.help_text();
        return 0;
    }
    std::vector<std::string> policies = {options.engine.kv.policy};
    if (options.kl_base != "none") {
        policies.push_back(options.kl_base);
    }
    options.engine.check(table, policies);
    engine_options::refuse_questions(policies);
    if (options.text_path.empty()) {
        throw usage_error("no text given (-f FILE)");
    }
    if (!options.tokens_path.empty() && options.kl_base == "none") {
        throw usage_error("--kl-tokens needs --kl-base");
    }
    const auto m = options.engine.load();
    keep_input(options.text_path);
    if (!options.tokens_path.empty()) {
        check_writable(options.tokens_path);
    }
    const std::string text = read_text(options.text_path);
    require_utf8(text, "the text");
    const std::vector<int32_t> tokens = m->vocab.encode(text, /*add_special=*/true, /*parse_special=*/false);
    fidelity_params params;
    params.test = options.engine.params(options.n_ctx, options.engine.kv.policy);
    params.max_windows = options.max_windows;
    if (options.kl_base != "none") {
        params.kl_base = options.engine.kv.for_policy(options.kl_base);
    }
    fidelity_callbacks callbacks;
    callbacks.on_window = [](int64_t done, int64_t total) {
        if (done == total || done % std::max<int64_t>(1, total / 10) == 0) {
            std::cerr << "window " << done << "/" << total << "\n";
        }
    };
    const fidelity f = measure_fidelity(m, tokens, params, callbacks);
    if (!options.tokens_path.empty()) {
        const std::vector<double> & kl = f.kl->tokens;
        write_file(options.tokens_path,
                   std::string(reinterpret_cast<const char *>(kl.data()), kl.size() * sizeof(double)));
    }
    if (options.output == "json") {
        std::cout << to_json(f, options);
    } else {
        print_text(f, options);
    }
    return 0;
}

}  // namespace

}  // namespace livekv

int main(int argc, char ** argv) {
    return livekv::run_tool("livekv-perplexity", livekv::run, argc, argv);
}
