// livekv-bench: tokens/s of prefill and decode at several depths of context, for several caches side by side.

#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "cli/engine_options.h"
#include "cli/or_null.h"
#include "cli/progress.h"
#include "cli/repeat_chunks.h"
#include "cli/tool.h"
#include "livekv.h"

namespace livekv {

namespace {

struct bench_options {
    engine_options engine;
    std::vector<std::string> kv = {"f16"};
    std::vector<int64_t> depths = {0};
    int64_t n_prompt = 512;
    int64_t n_decode = 16;
    int64_t repetitions = 5;
    int64_t repeat_prompt = 0;
    std::string output = "md";

    void declare(option_table & table) {
        engine.declare(table, /*kv_is_list=*/true);
        table.choices("--kv", kv, kv_policy_names(), "caches to compare");
        table.group("Benchmark");
        table.integer("-p,--prompt-tokens", n_prompt, 1, INT32_MAX, "tokens prefilled in each run");
        table.integer("-n,--decode-tokens", n_decode, 1, INT32_MAX, "tokens decoded one by one in each run");
        table.integers("-d,--depths", depths, 0, INT32_MAX, "tokens already in the cache before each run");
        table.integer("--repeat-prompt", repeat_prompt, 0, INT32_MAX,
                      "compute only so many of the depth's tokens, a multiple of the chunk, and fill up with copies of "
                      "their chunks: speed and memory only (livekv); 0: compute all");
        table.integer("-r,--repetitions", repetitions, 1, 1000, "counted runs, after one that is not");
        table.choice("-o,--output", output, {"md", "json", "csv"}, "format of the table on stdout");
    }
};

// Tokens/s of repeated runs.
struct series {
    std::vector<double> tps;

    double median() const {
        std::vector<double> sorted = tps;
        std::sort(sorted.begin(), sorted.end());
        const size_t n = sorted.size();
        return n % 2 ? sorted[n / 2] : 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]);
    }

    // From the slowest run to the fastest; none for a single run.
    std::optional<double> spread() const {
        if (tps.size() < 2) {
            return std::nullopt;
        }
        const auto [slowest, fastest] = std::minmax_element(tps.begin(), tps.end());
        return *fastest - *slowest;
    }
};

struct row {
    std::string kv;
    int64_t depth = 0;
    series pp;
    series tg;
    size_t kv_bytes = 0;
};

std::string text_of(const char * pattern, const std::optional<double> & value, const char * if_none) {
    char text[32];
    std::snprintf(text, sizeof(text), pattern, value.value_or(0.0));
    return value ? text : if_none;
}

std::vector<int32_t> random_tokens(int64_t n, int64_t n_vocab) {
    std::mt19937 rng(1);
    std::vector<int32_t> tokens(static_cast<size_t>(n));
    for (int32_t & token : tokens) {
        token = static_cast<int32_t>(rng() % static_cast<uint64_t>(n_vocab));
    }
    return tokens;
}

double timed(const std::function<void()> & work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// n_computed > 0: of the context only so many tokens are computed, then chunks are copied; what is left of a chunk is
// computed again.
void fill(session & s, std::span<const int32_t> context, int64_t n_computed) {
    const auto n = static_cast<int64_t>(context.size());
    const int64_t n_copied = n - n % s.params().kv.chunk_tokens();
    if (n_computed == 0 || n_computed >= n_copied) {
        s.prefill(context);
        return;
    }
    s.prefill(context.first(static_cast<size_t>(n_computed)));
    repeat_chunks(s, n_copied);
    if (n > n_copied) {
        s.prefill(context.subspan(static_cast<size_t>(n_copied)));
    }
}

// All caches at one depth. Their runs alternate, so that a machine that slows down slows them all.
std::vector<row> run_depth(const std::shared_ptr<const model> & m, const bench_options & options, int64_t depth) {
    const std::vector<int32_t> tokens =
        random_tokens(depth + std::max(options.n_prompt, options.n_decode), m->hp.n_vocab);
    const std::span<const int32_t> fresh = std::span(tokens).subspan(static_cast<size_t>(depth));
    std::vector<row> rows;
    std::vector<std::unique_ptr<session>> sessions;
    for (const std::string & kv : options.kv) {
        const session_params params = options.engine.params(static_cast<int64_t>(tokens.size()), kv);
        sessions.push_back(std::make_unique<session>(m, params));
        if (depth > 0) {
            std::cerr << "depth " << depth << ", " << kv << ": filling the cache\n";
            fill(*sessions.back(), std::span(tokens).first(static_cast<size_t>(depth)), options.repeat_prompt);
        }
        rows.push_back({kv, depth, {}, {}, 0});
    }
    for (int64_t run = -1; run < options.repetitions; ++run) {
        for (size_t i = 0; i < rows.size(); ++i) {
            session & s = *sessions[i];
            const double prefill_s = timed([&] { s.prefill(fresh.first(static_cast<size_t>(options.n_prompt))); });
            rows[i].kv_bytes = s.cache().bytes();
            s.trim(depth);
            const double decode_s = timed([&] {
                for (int64_t t = 0; t < options.n_decode; ++t) {
                    s.append(fresh[static_cast<size_t>(t)]);
                }
            });
            s.trim(depth);
            if (run >= 0) {
                rows[i].pp.tps.push_back(static_cast<double>(options.n_prompt) / prefill_s);
                rows[i].tg.tps.push_back(static_cast<double>(options.n_decode) / decode_s);
            }
        }
    }
    return rows;
}

void print_json(const std::vector<row> & rows) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const row & r : rows) {
        list.push_back({{"kv", r.kv},
                        {"depth", r.depth},
                        {"pp_tps", r.pp.median()},
                        {"tg_tps", r.tg.median()},
                        {"pp_spread", or_null(r.pp.spread())},
                        {"tg_spread", or_null(r.tg.spread())},
                        {"kv_bytes", r.kv_bytes}});
    }
    std::cout << list.dump(1) << "\n";
}

void print_csv(const std::vector<row> & rows) {
    std::cout << "kv,depth,pp_tps,tg_tps,pp_spread,tg_spread,kv_bytes\n";
    for (const row & r : rows) {
        std::cout << r.kv << "," << r.depth << "," << r.pp.median() << "," << r.tg.median() << ","
                  << text_of("%g", r.pp.spread(), "") << "," << text_of("%g", r.tg.spread(), "") << "," << r.kv_bytes
                  << "\n";
    }
}

void print_md(const std::vector<row> & rows, const bench_options & options) {
    std::printf(
        "| cache | depth | prefill %lld, tokens/s | (spread) | decode %lld, tokens/s | (spread) | cache size |\n",
        static_cast<long long>(options.n_prompt), static_cast<long long>(options.n_decode));
    std::printf("|---|---:|---:|---:|---:|---:|---:|\n");
    for (const row & r : rows) {
        std::printf("| %s | %lld | %.1f | %s | %.1f | %s | %s |\n", r.kv.c_str(), static_cast<long long>(r.depth),
                    r.pp.median(), text_of("%.1f", r.pp.spread(), "-").c_str(), r.tg.median(),
                    text_of("%.1f", r.tg.spread(), "-").c_str(), mebibytes(static_cast<double>(r.kv_bytes)).c_str());
    }
}

int run(int argc, char ** argv) {
    bench_options options;
    option_table table;
    options.declare(table);
    if (!table.parse(argc, argv)) {
        std::cout
            << "usage: livekv-bench -m FILE [options]\n\nMedians and spreads (fastest minus slowest run) of prefill "
               "and decode speed.\n"
            << table.help_text();
        return 0;
    }
    options.engine.check(table, options.kv);
    engine_options::refuse_questions(options.kv);
    const auto m = options.engine.load();
    std::vector<row> rows;
    for (const int64_t depth : options.depths) {
        const std::vector<row> more = run_depth(m, options, depth);
        rows.insert(rows.end(), more.begin(), more.end());
    }
    if (options.output == "json") {
        print_json(rows);
    } else if (options.output == "csv") {
        print_csv(rows);
    } else {
        print_md(rows, options);
    }
    return 0;
}

}  // namespace

}  // namespace livekv

int main(int argc, char ** argv) {
    return livekv::run_tool("livekv-bench", livekv::run, argc, argv);
}
