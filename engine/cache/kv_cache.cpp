#include "kv/kv_cache.h"

#include "error.h"
#include "kv/dense_cache.h"

namespace livekv {

const std::vector<std::string> & kv_policy_names() {
    static const std::vector<std::string> names = {"f16", "q8_0", "q4_0"};
    return names;
}

std::unique_ptr<kv_cache> make_kv_cache(const std::string & policy, const kv_shape & shape) {
    if (policy == "f16") {
        return std::make_unique<dense_cache>(GGML_TYPE_F16, shape);
    }
    if (policy == "q8_0") {
        return std::make_unique<dense_cache>(GGML_TYPE_Q8_0, shape);
    }
    if (policy == "q4_0") {
        return std::make_unique<dense_cache>(GGML_TYPE_Q4_0, shape);
    }
    fail("unknown cache policy '", policy, "'");
}

}  // namespace livekv
