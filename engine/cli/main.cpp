#include <unistd.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/chat.h"
#include "cli/cli_options.h"
#include "cli/generate_visibly.h"
#include "cli/interrupt.h"
#include "cli/report.h"
#include "cli/store_report.h"
#include "cli/tool.h"
#include "livekv.h"
#include "policy/saved_options.h"

namespace livekv {

namespace {

constexpr int exit_interrupted = 130;  // as shells have it of a process that SIGINT ended: 128 + 2

std::string read_prompt(const cli_options & options) {
    if (!options.prompt && !options.prompt_file && ::isatty(STDIN_FILENO)) {
        std::cerr << "livekv-cli: type the prompt, Ctrl-D ends it\n";
    }
    const std::string text = options.prompt ? *options.prompt : read_text(options.prompt_file.value_or("-"));
    if (text.empty() && !options.tokenize) {
        fail("the prompt is empty");
    }
    require_utf8(text, "the prompt");
    return text;
}

// The context a run needs when none was asked for; the model's own length bounds it.
int64_t choose_n_ctx(const cli_options & options, const hparams & hp, int64_t n_prompt) {
    if (options.n_ctx > 0) {
        if (options.n_ctx > hp.n_ctx_train) {
            std::cerr << "livekv-cli: warning: a context of " << options.n_ctx << " tokens is longer than the "
                      << hp.n_ctx_train << " the model was trained on\n";
        }
        return options.n_ctx;
    }
    if (n_prompt > hp.n_ctx_train) {
        fail("the prompt has ", n_prompt, " tokens, the model was trained on ", hp.n_ctx_train,
             "; -c N goes beyond that");
    }
    if (options.n_predict < 0 || options.conversation) {
        return hp.n_ctx_train;
    }
    return std::min(hp.n_ctx_train, n_prompt + options.n_predict);
}

void print_ids(const tokenizer & vocab, const std::string & prompt) {
    std::cout << nlohmann::json(vocab.encode(prompt, /*add_special=*/true, /*parse_special=*/true)).dump() << "\n";
}

// A saved cache keeps the options it was made with; what was asked for instead is named.
void warn_of_overruled(const kv_options & asked, const kv_options & saved) {
    const kv_texts shipped = texts_of({});
    const kv_texts wanted = texts_of(asked);
    for (const auto & [name, value] : texts_of(saved)) {
        if (wanted.at(name) != value && wanted.at(name) != shipped.at(name)) {
            std::cerr << "livekv-cli: warning: the saved cache has --" << name << " " << value << "; "
                      << wanted.at(name) << " is ignored\n";
        }
    }
}

// behind: the last token of a saved cache, -1 where there is none. A text that is to be continued gets no eos.
std::vector<int32_t> encode_prompt(const cli_options & options, const tokenizer & vocab, int32_t behind) {
    if (options.conversation || (behind >= 0 && !options.prompt && !options.prompt_file)) {
        return {};
    }
    const std::string prompt = read_prompt(options);
    const text_part whole{prompt, /*parse_special=*/true};
    const std::vector<int32_t> tokens = vocab.encode({&whole, 1}, {.add_eos = false, .behind = behind});
    if (vocab.begins_with_two_bos(tokens)) {
        std::cerr << "livekv-cli: warning: the prompt begins with " << vocab.token_bytes(vocab.bos(), true)
                  << ", which the model puts in front of every text: now there are two\n";
    }
    return tokens;
}

// The question behind a prompt, appended to it; how many tokens it has.
int64_t append_question(const cli_options & options, const tokenizer & vocab, std::vector<int32_t> & prompt) {
    if (!options.question) {
        return 0;
    }
    require_utf8(*options.question, "the question");
    const text_part whole{*options.question, /*parse_special=*/true};
    const int32_t behind = prompt.empty() ? -1 : prompt.back();
    const std::vector<int32_t> tokens = vocab.encode({&whole, 1}, {.add_eos = false, .behind = behind});
    prompt.insert(prompt.end(), tokens.begin(), tokens.end());
    return std::ssize(tokens);
}

// What was printed is what a run from the file goes on from: the last token, which no pass has seen yet, is added.
void save(session & s, const cli_options & options, const generate_result & result) {
    if (result.last_token >= 0 && result.reason != stop_reason::end_of_text) {
        if (s.n_tokens() < s.n_ctx()) {
            s.append(result.last_token);
        } else {
            std::cerr << "livekv-cli: warning: the context is full, the last token is not in '" << options.kv_save_path
                      << "'\n";
        }
    }
    s.save(options.kv_save_path);
}

// By Ctrl-C, which while text comes only ends the text.
bool prompt_was_cut(const generate_result & result, const std::vector<int32_t> & prompt) {
    return result.reason == stop_reason::interrupted && result.n_prompt < std::ssize(prompt);
}

void check_outputs(const cli_options & options) {
    for (const std::string & path : {options.stats_path, options.kv_save_path}) {
        if (!path.empty()) {
            check_writable(path);
        }
    }
}

int run(int argc, char ** argv) {
    cli_options options;
    option_table table;
    options.declare(table);
    if (!table.parse(argc, argv)) {
        std::cout << "usage: livekv-cli -m FILE (-p TEXT | -f FILE | stdin) [options]\n\n"
                     "Continues a text with a LLaMA-architecture model. Only the generated text goes to stdout.\n"
                  << table.help_text();
        return 0;
    }
    options.check(table);
    if (options.kv_store_list) {
        std::cout << store_list_text(stored_pieces(options.kv_store_path));
        return 0;
    }
    for (const std::string & path :
         {options.engine.model_path, options.prompt_file.value_or(""), options.engine.kv.calibration}) {
        keep_input(path);
    }
    check_outputs(options);
    if (options.tokenize) {
        const tokenizer vocab{gguf_file(options.engine.model_path)};
        print_ids(vocab, read_prompt(options));
        return 0;
    }
    if (options.engine.n_gpu_layers > 0 && !find_gpu()) {
        std::cerr << "livekv-cli: warning: no GPU in this build or machine, -ngl is ignored\n";
    }
    std::shared_ptr<chunk_store> store;
    if (!options.kv_store_path.empty()) {
        store = std::make_shared<chunk_store>(options.kv_store_path, static_cast<uint64_t>(options.kv_store_limit));
    }
    const auto m = options.engine.load();
    check_outputs(options);  // now that all parts of the model are known
    std::optional<kv_file> saved;
    if (!options.kv_load_path.empty()) {
        saved.emplace(options.kv_load_path);
        warn_of_overruled(options.engine.kv, saved_options(*saved));
    }
    const size_t n_held = saved ? saved->tokens().size() : 0;
    std::vector<int32_t> prompt = encode_prompt(options, m->vocab, n_held > 0 ? saved->tokens().back() : -1);
    const int64_t n_question = append_question(options, m->vocab, prompt);
    const int64_t n_ctx = choose_n_ctx(options, m->hp, static_cast<int64_t>(n_held + prompt.size()));
    const session_params params = options.engine.params(n_ctx, options.engine.kv.policy);
    session s(std::make_shared<engine>(m, params.n_threads, static_cast<size_t>(options.prefix_cache_bytes), store),
              params);
    if (saved) {
        s.load(*saved);
        saved.reset();
        if (prompt.empty() && s.last_logits().empty()) {
            fail("'", options.kv_load_path, "' was saved where no text was to follow; -p gives it some");
        }
    }
    generate_params generation = options.generation();
    generation.n_question = n_question;
    catch_interrupt();
    const generate_result result =
        options.conversation ? converse(s, options) : generate_visibly(s, prompt, generation);
    if (!options.conversation) {
        std::cout << std::endl;
    }
    std::cerr << "\n"
              << summary_text(s, result) << (store ? store_summary_text(store->counts()) : "") << "seed      "
              << options.seed << "\n";
    if (store && !store->problem().empty()) {
        std::cerr << "livekv-cli: warning: not everything was stored: " << store->problem() << "\n";
    }
    const bool cut = !options.conversation && prompt_was_cut(result, prompt);
    if (cut) {
        std::cerr << "livekv-cli: interrupted after " << result.n_prompt << " of the prompt's " << prompt.size()
                  << " tokens" << (options.kv_save_path.empty() ? "" : "; nothing is saved") << "\n";
    } else if (!options.kv_save_path.empty()) {
        save(s, options, result);
    }
    if (!options.stats_path.empty()) {
        write_file(options.stats_path, stats_json(s, generation, result));
    }
    return cut ? exit_interrupted : 0;
}

}  // namespace

}  // namespace livekv

int main(int argc, char ** argv) {
    return livekv::run_tool("livekv-cli", livekv::run, argc, argv);
}
