#include "cli/cli_options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <random>
#include <string_view>
#include <utility>

#include "cli/tool.h"
#include "livekv.h"
#include "session/sampling_fields.h"

namespace livekv {

namespace {

void declare_number(option_table & table, const char * flag, double & target, const sampling_range<double> & may,
                    const char * help) {
    table.real(flag, target, may.min, may.max, help);
}
void declare_number(option_table & table, const char * flag, int64_t & target, const sampling_range<int64_t> & may,
                    const char * help) {
    table.integer(flag, target, may.min, may.max, help);
}

// "512M" and the like.
int64_t parse_bytes(const std::string & typed) {
    int64_t n = -1;
    const char * const end = typed.data() + typed.size();
    const auto [stopped, problem] = std::from_chars(typed.data(), end, n);
    const std::string unit(stopped, end);
    const int shift = unit.empty() ? 0 : unit == "K" ? 10 : unit == "M" ? 20 : unit == "G" ? 30 : -1;
    if (problem != std::errc() || n < 0 || shift < 0 || n > (INT64_MAX >> shift)) {
        fail("'", typed, "' is not a number of bytes, such as 1048576, 512M or 4G");
    }
    return n << shift;
}

// Throws usage_error for an option that was given though the ids of a prompt do not depend on it; threads change no
// result anywhere.
void refuse_beside_tokenize(const option_table & table) {
    constexpr std::array<std::string_view, 5> wanted = {"--model", "--threads", "--prompt", "--file", "--tokenize"};
    for (const std::string & flag : table.given()) {
        if (std::find(wanted.begin(), wanted.end(), flag) == wanted.end()) {
            throw usage_error(flag + " has no effect with --tokenize");
        }
    }
}

// Why chunks of such a cache are not shared.
std::string of_shared_chunks(const kv_options & kv) {
    return kv.measure_error ? "keeps no chunks whose error is measured, as --kv-error wants it"
                            : "keeps " + sharing_policies() + " caches only, not --kv " + kv.policy;
}

}  // namespace

void cli_options::declare(option_table & table) {
    engine.declare(table, /*kv_is_list=*/false);
    table.integer("-c,--ctx-size", n_ctx, 0, INT32_MAX, "context in tokens; 0: what prompt and -n need");
    table.group("Save and restore");
    table.text("--kv-save", kv_save_path, "FILE", "at the end, write the livekv cache and the text it stands for");
    table.text(
        "--kv-load", kv_load_path, "FILE",
        "go on from a saved cache, with its cache options; the prompt, if -p or -f gives one, comes after its text");
    table.text("--kv-store", kv_store_path, "FOLDER",
               "keep the chunks of prompts there, and start from those that are there; without it LIVEKV_KV_STORE");
    table.custom("--kv-store-limit", "BYTES", "10G", "",
                 "the most of them; those that were not used for the longest time go first; K, M and G multiply",
                 [this](const std::string & typed) { kv_store_limit = parse_bytes(typed); });
    table.flag("--kv-store-list", kv_store_list, "print what is there and stop");
    table.custom("--prefix-cache", "BYTES", "0", "",
                 "in a chat, keep up to so many bytes of chunks that were read, for "
                 "texts that begin as they do; K, M and G multiply; 0: none",
                 [this](const std::string & typed) { prefix_cache_bytes = parse_bytes(typed); });
    table.group("Prompt and text");
    table.text("-p,--prompt", prompt, "TEXT", "the prompt");
    table.text("-f,--file", prompt_file, "FILE", "read the prompt from a file; without -p and -f, from stdin");
    table.text("--question", question, "TEXT",
               "what the prompt is read for (--kv finch): it comes behind each chunk, and once more at the end");
    table.integer("-n,--predict", n_predict, -1, INT32_MAX,
                  "tokens to generate; -1: until the text or the context ends");
    table.integer(
        "--lookup", n_lookup, 0, 64,
        "draft up to so many tokens from what the text said before, and verify them in one pass: faster where it "
        "repeats itself; 0: none");
    table.integer("--keep", n_keep, 0, INT32_MAX,
                  "where the context is full, go on: its oldest chunks leave, but for those of the first N tokens; "
                  "0: the text ends there");
    table.flag("--ignore-eos", ignore_eos, "go on when the model ends the text");
    table.flag("-cnv,--conversation", conversation, "chat, one line of stdin a turn, with the model's own template");
    table.text("-sys,--system", system_prompt, "TEXT", "system message of the chat");
    std::vector<std::string> templates = chat_family_names();
    templates.insert(templates.begin(), "own");
    table.choice("--chat-template", chat_template, templates, "the chat's format: the model's own, or a known one");
    table.flag("--tokenize", tokenize, "print the prompt's token ids as a JSON array and stop");
    table.group("Sampling");
    for_each_sampling_option([&](const char *, auto member, const auto & may, const char * flag, const char * help) {
        if (flag) {
            declare_number(table, flag, sampling.*member, may, help);
        }
    });
    table.integer("-s,--seed", seed, -1, INT64_MAX, "seed of the sampling; -1: a new one each run");
    table.group("Report");
    table.text("--stats", stats_path, "FILE", "write the run's facts and timings as JSON; - for stdout");
}

void cli_options::check(const option_table & table) {
    const bool store_given = std::ranges::find(table.given(), "--kv-store") != table.given().end();
    if (const char * usual = std::getenv("LIVEKV_KV_STORE"); usual && !store_given) {
        kv_store_path = usual;
    }
    if (kv_store_limit == 0) {
        throw usage_error("--kv-store-limit 0 keeps nothing; leave --kv-store out");
    }
    if (kv_store_list) {
        if (kv_store_path.empty()) {
            throw usage_error("--kv-store-list needs the folder, --kv-store FOLDER");
        }
        return;
    }
    if (kv_store_path.empty() && std::ranges::find(table.given(), "--kv-store-limit") != table.given().end()) {
        throw usage_error("--kv-store-limit is of a folder; it needs --kv-store FOLDER");
    }
    const bool saves = !kv_save_path.empty();
    const bool loads = !kv_load_path.empty();
    if ((saves || loads) && (conversation || tokenize)) {
        throw usage_error("--kv-save and --kv-load go with neither -cnv nor --tokenize");
    }
    for (const auto & [path, flag] : {std::pair(kv_save_path, "--kv-save"), std::pair(kv_load_path, "--kv-load")}) {
        if (!path.empty() && !stats_path.empty() && same_file(path, stats_path)) {
            throw usage_error("--stats would replace the cache of " + std::string(flag) + ", '" + path + "'");
        }
    }
    if (kv_save_path == "-" || kv_load_path == "-") {
        throw usage_error("--kv-save and --kv-load need a file, not -");
    }
    if (loads && std::ranges::find(table.given(), "--kv") == table.given().end()) {
        try {
            engine.kv.policy = saved_options(kv_file(kv_load_path)).policy;
        } catch (const error &) {  // said when it is loaded: what is wrong with the call comes first
        }
    }
    engine.check(table, {engine.kv.policy});
    if (prompt && prompt_file) {
        throw usage_error("-p and -f both give a prompt; choose one");
    }
    check_question();
    if (conversation && (tokenize || prompt_file)) {
        throw usage_error("-cnv reads its turns from stdin; it goes with neither -f nor --tokenize");
    }
    if (tokenize) {
        refuse_beside_tokenize(table);
    }
    if (prefix_cache_bytes > 0 && !conversation) {
        throw usage_error("--prefix-cache serves the turns of a chat; it needs -cnv");
    }
    if (prefix_cache_bytes > 0 && !shares_pieces(engine.kv)) {
        throw usage_error("--prefix-cache " + of_shared_chunks(engine.kv));
    }
    if (system_prompt && !conversation) {
        throw usage_error("--system needs -cnv");
    }
    if (chat_template != "own" && !conversation) {
        throw usage_error("--chat-template needs -cnv");
    }
    if (saves && !loads && !find_kv_policy(engine.kv.policy).saves()) {
        throw usage_error("--kv-save writes " + saving_policies() + " caches only, not --kv " + engine.kv.policy);
    }
    // Of a loaded cache, all options but measure_error are the file's.
    if (engine.kv.measure_error || (!loads && !shares_pieces(engine.kv))) {
        if (store_given) {
            throw usage_error("--kv-store " + of_shared_chunks(engine.kv));
        }
        kv_store_path.clear();
    }
    if (seed < 0) {
        seed = static_cast<int64_t>(std::random_device()() >> 1);
    }
}

// A prompt of policy finch has one, others have none.
void cli_options::check_question() const {
    const bool condenses = find_kv_policy(engine.kv.policy).is_finch;
    if (question && !condenses) {
        throw usage_error("--question is what --kv finch reads a prompt for, not " + engine.kv.policy);
    }
    if (condenses && (conversation || !kv_load_path.empty())) {
        throw usage_error("--kv finch reads one prompt for one question; it goes with neither -cnv nor --kv-load");
    }
    if (question && tokenize) {
        throw usage_error("--tokenize prints the prompt's tokens; it goes without --question");
    }
    if (condenses && !question && !tokenize) {
        throw usage_error("--kv finch reads the prompt for a question, which is missing; --question TEXT gives it");
    }
    if (question && question->empty()) {
        throw usage_error("--question is empty");
    }
}

generate_params cli_options::generation() const {
    generate_params p;
    p.n_predict = n_predict;
    p.n_lookup = n_lookup;
    p.n_keep = n_keep;
    p.ignore_eos = ignore_eos;
    p.sampling = sampling;
    p.sampling.seed = static_cast<uint64_t>(seed);
    return p;
}

}  // namespace livekv
