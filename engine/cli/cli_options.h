#pragma once

#include "cli/engine_options.h"
#include "livekv.h"

namespace livekv {

// livekv-cli's options.
struct cli_options {
    engine_options engine;
    std::optional<std::string> prompt;
    std::optional<std::string> prompt_file;
    std::optional<std::string> question;
    std::optional<std::string> system_prompt;
    std::string chat_template = "own";  // own: the file's; otherwise a family's name
    int64_t n_predict = 128;
    int64_t n_ctx = 0;
    int64_t n_lookup = 0;
    int64_t n_keep = 0;
    bool ignore_eos = false;
    bool conversation = false;
    bool tokenize = false;
    std::string kv_save_path;
    std::string kv_load_path;
    std::string kv_store_path;  // after check(): LIVEKV_KV_STORE where none was given; empty: none
    int64_t kv_store_limit = static_cast<int64_t>(chunk_store::default_limit);
    bool kv_store_list = false;
    std::string stats_path;
    int64_t prefix_cache_bytes = 0;
    sampler_params sampling;  // but the seed, which may be left open
    int64_t seed = -1;        // after check(): the one in use

    void declare(option_table & table);

    // Throws usage_error for combinations that make no sense; draws a seed when none was given.
    void check(const option_table & table);

    generate_params generation() const;

  private:
    void check_question() const;
};

}  // namespace livekv
