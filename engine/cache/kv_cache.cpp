#include "cache/kv_cache.h"

#include <new>

#include "cache/dense_cache.h"
#include "cache/livekv_cache.h"
#include "error.h"

namespace livekv {

kv_report kv_cache::report() const {
    kv_report r;
    r.bytes.codes = bytes();
    return r;
}

void kv_cache::repeat(int64_t) {
    fail("only the livekv cache can be filled with copies of its chunks");
}

namespace {

std::unique_ptr<kv_cache> make(const kv_options & options, const kv_shape & shape) {
    const std::string & policy = options.policy;
    if (policy == "livekv") {
        return std::make_unique<livekv_cache>(options, shape);
    }
    if (policy == "f16") {
        return std::make_unique<dense_cache>(GGML_TYPE_F16, false, shape);
    }
    if (policy == "q8_0" || policy == "q8_0_rot") {
        return std::make_unique<dense_cache>(GGML_TYPE_Q8_0, policy == "q8_0_rot", shape);
    }
    if (policy == "q4_0" || policy == "q4_0_rot") {
        return std::make_unique<dense_cache>(GGML_TYPE_Q4_0, policy == "q4_0_rot", shape);
    }
    fail("unknown cache policy '", policy, "'");
}

}  // namespace

std::unique_ptr<kv_cache> make_kv_cache(const kv_options & options, const kv_shape & shape) {
    options.check();
    try {
        return make(options, shape);
    } catch (const std::bad_alloc &) {
        fail("not enough memory for a ", options.policy, " cache");
    }
}

}  // namespace livekv
