#include "cli/engine_options.h"

#include "default_threads.h"
#include "policy/kv_option_table.h"

namespace livekv {

void engine_options::declare(option_table & table, bool kv_is_list) {
    n_threads = default_threads();
    table.group("Model and machine");
    table.text("-m,--model", model_path, "FILE", "GGUF file of a LLaMA-architecture model");
    table.integer("-t,--threads", n_threads, 1, 512, "CPU threads");
    table.integer("-ngl,--gpu-layers", n_gpu_layers, 0, 100000, "layers computed on the GPU, when the build has one");
    declare_kv_options(table, kv, kv_is_list);
}

session_params engine_options::params(int64_t n_ctx, const std::string & policy) const {
    session_params p;
    p.n_ctx = n_ctx;
    p.n_threads = static_cast<int32_t>(n_threads);
    p.kv = kv.for_policy(policy);
    return p;
}

void engine_options::check(const option_table & table, const std::vector<std::string> & policies) const {
    if (model_path.empty()) {
        throw usage_error("no model given (-m FILE)");
    }
    check_given_kv_options(table, kv, policies);
}

}  // namespace livekv
