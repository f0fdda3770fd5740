// Every key of every architecture with every kind of value: refused in one line that names the file, or the model
// computes.

#include <cmath>
#include <limits>
#include <utility>

#include "error.h"
#include "model/arch/arch.h"
#include "model/gguf_keys.h"
#include "refused_models.h"
#include "session/session.h"

using namespace refused_models;

namespace {

constexpr const char * shape_keys[] = {keys::context_length,
                                       keys::embedding_length,
                                       keys::block_count,
                                       keys::feed_forward_length,
                                       keys::head_count,
                                       keys::head_count_kv,
                                       keys::key_length,
                                       keys::value_length,
                                       keys::norm_rms_eps,
                                       keys::rope_dimension_count,
                                       keys::rope_freq_base,
                                       keys::attention_scale,
                                       keys::sliding_window,
                                       keys::sliding_window_pattern,
                                       keys::rope_freq_base_swa,
                                       keys::rope_scaling_type,
                                       keys::rope_scaling_factor,
                                       keys::rope_scale_linear,
                                       keys::rope_scaling_orig_ctx,
                                       keys::rope_scaling_attn_factor,
                                       keys::rope_yarn_attn_factor,
                                       keys::rope_yarn_ext_factor,
                                       keys::rope_yarn_beta_fast,
                                       keys::rope_yarn_beta_slow,
                                       keys::expert_count};

using edit = std::function<void(gguf_context *, const char * key)>;

std::vector<std::pair<std::string, edit>> hostile_values() {
    std::vector<std::pair<std::string, edit>> all;
    for (const uint32_t n : {0u, 1u, 2u, 3u, 12u, 4097u, 0x80000000u, UINT32_MAX}) {
        all.emplace_back(std::to_string(n), [n](gguf_context * g, const char * key) { gguf_set_val_u32(g, key, n); });
    }
    for (const float x : {0.0f, 0.5f, -1.0f, 1e-45f, 3e38f, std::numeric_limits<float>::quiet_NaN(), INFINITY}) {
        all.emplace_back(std::to_string(x), [x](gguf_context * g, const char * key) { gguf_set_val_f32(g, key, x); });
    }
    for (const int64_t n : {int64_t(-1), INT64_MIN, INT64_MAX}) {
        all.emplace_back(std::to_string(n), [n](gguf_context * g, const char * key) { gguf_set_val_i64(g, key, n); });
    }
    for (const char * text : {"", "yarn", "longrope"}) {
        all.emplace_back("a text", [text](gguf_context * g, const char * key) { gguf_set_val_str(g, key, text); });
    }
    for (const uint32_t n : {0u, 2u, UINT32_MAX}) {
        all.emplace_back("an array", [n](gguf_context * g, const char * key) {
            const uint32_t values[] = {n, n};
            gguf_set_arr_data(g, key, GGUF_TYPE_UINT32, values, 2);
        });
    }
    all.emplace_back("nothing", [](gguf_context * g, const char * key) { gguf_remove_key(g, key); });
    return all;
}

tiny_spec smallest(const std::string & architecture) {
    tiny_spec spec;
    spec.arch = architecture;
    spec.n_embd = spec.head_dim = spec.n_ff = 8;
    spec.n_head = 2;
    spec.n_head_kv = 1;
    spec.n_ctx = 64;
    spec.window = 3;
    spec.long_rope = architecture == "phi3";
    return spec;
}

enum class outcome { refused, computed };

void check_message(const std::string & text) {
    CHECK(!text.empty() && text.find('\n') == std::string::npos);
    CHECK(text.find("internal error") == std::string::npos);
}

// Logits that are no numbers are an error of the pass.
outcome compute(const std::shared_ptr<const model> & m, const std::string & policy) {
    session_params params;
    params.n_ctx = 16;
    params.kv.policy = policy;
    session s(std::make_shared<engine>(m, 1), params);
    try {
        s.prefill(std::vector<int32_t>{1, 5, 6, 7, 8});
        for (const float logit : s.append(9)) {
            CHECK(std::isfinite(logit));
        }
        return outcome::computed;
    } catch (const error & problem) {
        check_message(problem.what());
        return outcome::refused;
    }
}

outcome try_model(const std::string & path) {
    try {
        const auto m = model::load(path);
        const outcome raw = compute(m, "f16");
        const outcome sealed = compute(m, "livekv");
        return raw == outcome::computed ? sealed : raw;
    } catch (const error & problem) {
        check_message(problem.what());
        CHECK(std::string(problem.what()).find(path) != std::string::npos);
        return outcome::refused;
    }
}

outcome try_spec(const tiny_spec & spec) {
    const temporary_file file(".gguf");
    write_tiny_model(spec, file.path());
    return try_model(file.path());
}

}  // namespace

TEST(each_value_of_each_key_is_refused_in_one_line_or_computes) {
    for (const architecture * a : architectures()) {
        IN("architecture ", a->name);
        int n_refused = 0, n_computed = 0;
        for (const char * name : shape_keys) {
            const std::string key = std::string(a->name) + "." + name;
            for (const auto & [text, set] : hostile_values()) {
                for (const bool yarn : {false, true}) {
                    if (yarn && std::string(name).find("rope") == std::string::npos) {
                        continue;
                    }
                    IN(key, " is ", text, yarn ? ", YaRN" : "");
                    tiny_spec spec = smallest(a->name);
                    spec.long_rope = spec.long_rope && !yarn;
                    spec.edit_keys = [&, &set = set](gguf_context * g) {
                        if (yarn) {
                            const std::string prefix = std::string(a->name) + ".";
                            gguf_set_val_str(g, (prefix + keys::rope_scaling_type).c_str(), "yarn");
                            gguf_set_val_f32(g, (prefix + keys::rope_scaling_factor).c_str(), 4.0f);
                        }
                        set(g, key.c_str());
                    };
                    ++(try_spec(spec) == outcome::refused ? n_refused : n_computed);
                }
            }
        }
        CHECK(n_refused > 300 && n_computed > 50);
    }
}

TEST(each_tensor_that_is_missing_or_of_another_shape_is_refused) {
    for (const architecture * a : architectures()) {
        IN("architecture ", a->name);
        const temporary_file whole(".gguf");
        write_tiny_model(smallest(a->name), whole.path());
        const gguf_file file(whole.path());
        CHECK(try_model(whole.path()) == outcome::computed);
        for (int64_t i = 0; i < file.n_tensors(); ++i) {
            const ggml_tensor * t = file.tensor(i);
            IN("tensor ", t->name);
            tiny_spec without = smallest(a->name);
            without.without_tensor = t->name;
            const bool optional = std::string(t->name) == keys::output;  // token_embd serves as it
            CHECK(try_spec(without) == (optional ? outcome::computed : outcome::refused));
            if (t->ne[0] != t->ne[1] && t->ne[1] > 1) {
                tiny_spec transposed = smallest(a->name);
                transposed.transposed_tensor = t->name;
                CHECK(try_spec(transposed) == outcome::refused);
            }
        }
    }
}

TEST_MAIN
