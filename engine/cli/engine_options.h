#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "livekv.h"
#include "options.h"

namespace livekv {

// What every tool asks for: the model, the machine, and how prompts are chunked.
struct engine_options {
    std::string model_path;
    int64_t n_threads = 0;  // 0 until declared: then the machine's
    int64_t n_gpu_layers = 0;
    bool no_repack = false;
    bool dequantize = false;
    rope_override rope;
    kv_options kv;

    // kv_is_list: the tool compares several caches and declares its own --kv.
    void declare(option_table & table, bool kv_is_list);

    // The weights in f32 as well, for a tool that measures.
    void declare_dequantize(option_table & table);

    // The model they name. Throws livekv::error, and usage_error for a change of RoPE that does not fit its file.
    std::shared_ptr<const model> load() const;

    // Of a session with a cache of this policy, which takes what it reads of the options.
    session_params params(int64_t n_ctx, const std::string & policy) const;

    // Throws usage_error when a required option is missing, or a cache option is wrong for, or read by none of, the
    // policies at work. table: that has parsed them.
    void check(const option_table & table, const std::vector<std::string> & policies) const;

    // Throws usage_error where one of these policies reads a prompt for a question, for a tool that asks none.
    static void refuse_questions(const std::vector<std::string> & policies);
};

}  // namespace livekv
