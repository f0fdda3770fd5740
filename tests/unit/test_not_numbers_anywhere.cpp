// Wherever a weight of a model is not a number, nothing is computed with it: no cache's logits are finite, of a prompt
// or of the token after it.

#include <cmath>
#include <cstring>

#include "check.h"
#include "error.h"
#include "tiny_calibration.h"

using namespace livekv;
using namespace tiny_sequences;

namespace {

tiny_spec spec_of(const std::string & arch) {
    tiny_spec spec;
    spec.arch = arch;
    spec.head_dim = 64;  // of which every policy can store a cache
    spec.n_head = 2;
    spec.n_head_kv = 1;
    spec.long_rope = arch == "phi3";
    return spec;
}

std::vector<std::string> tensors_of(tiny_spec spec) {
    std::vector<std::string> names;
    spec.edit_values = [&](const std::string & name, std::vector<float> &) { names.push_back(name); };
    const temporary_file file(".gguf");
    write_tiny_model(spec, file.path());
    return names;
}

std::shared_ptr<const model> broken(tiny_spec spec, const std::string & tensor, float bad) {
    spec.retyped_tensor = tensor;
    spec.retyped_to = GGML_TYPE_F32;
    spec.edit_values = [&](const std::string & name, std::vector<float> & values) {
        if (name == tensor) {
            values[(name == "token_embd.weight" ? spec.n_embd : 0) + 3] = bad;  // <s> is in every prompt
        }
    };
    return tiny_model(spec);
}

// What is said to a prompt or to the token after it.
std::string refusal(const std::shared_ptr<const model> & m, const std::string & kv, int n_tokens) {
    session_params p = calibrated_params(*m, kv, 64);
    p.n_threads = 1;
    session s(m, p);
    try {
        if (kv == "finch") {
            s.prefill(some_tokens(n_tokens), some_tokens(4, 11));
        } else {
            s.prefill(some_tokens(n_tokens));
        }
        s.append(40);
    } catch (const error & problem) {
        return problem.what();
    }
    return "";
}

void check_refused(const tiny_spec & spec, const std::vector<float> & bad_values, const std::vector<std::string> & kvs,
                   int n_tokens) {
    for (const std::string & tensor : tensors_of(spec)) {
        for (const float bad : bad_values) {
            IN(spec.arch, " of ", ggml_type_name(spec.matrix_type), ", ", tensor, " ", bad);
            if (tensor.starts_with("rope_factors")) {  // which are read with the model
                CHECK_ERROR(broken(spec, tensor, bad), "expected more than 0");
                continue;
            }
            const auto m = broken(spec, tensor, bad);
            for (const std::string & kv : kvs) {
                IN(kv, " ", n_tokens);
                const std::string why = refusal(m, kv, n_tokens);
                CHECK(why.find("not a number") != std::string::npos || why.find("not numbers") != std::string::npos);
            }
        }
    }
}

}  // namespace

TEST(of_every_tensor_and_cache) {
    check_refused(spec_of("llama"), {NAN}, kv_policy_names(), 20);
}

TEST(of_every_architecture) {
    for (const char * arch : {"qwen2", "qwen3", "gemma3", "phi3"}) {
        check_refused(spec_of(arch), {NAN}, {"livekv", "q8_0"}, 20);
    }
}

TEST(infinite_ones_too) {
    check_refused(spec_of("gemma3"), {INFINITY, -INFINITY}, {"livekv", "f16", "q4_0"}, 1);
}

TEST(behind_sealed_chunks) {
    check_refused(spec_of("llama"), {NAN}, kv_policy_names(), 100);
}

TEST(whatever_weights_it_is_multiplied_with) {
    for (const ggml_type type :
         {GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_K, GGML_TYPE_Q3_K, GGML_TYPE_IQ4_NL}) {
        tiny_spec spec = spec_of("gemma3");
        spec.n_embd = spec.n_ff = 256;
        spec.n_layer = 1;
        spec.matrix_type = type;
        spec.n_head = 4;
        check_refused(spec, {NAN, -INFINITY}, {"livekv"}, 5);
    }
}

TEST_MAIN
