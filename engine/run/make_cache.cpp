#include "run/make_cache.h"

#include <map>
#include <new>
#include <string_view>

#include "error.h"
#include "policy/kv_policies.h"
#include "run/chunked_cache.h"

namespace livekv {

std::unique_ptr<kv_cache> make_kv_cache(const kv_options & options, const kv_shape & shape,
                                        const kv_buffer_types & where) {
    options.check();
    const kv_policy & policy = find_kv_policy(options.policy);
    try {
        if (policy.compresses) {
            return std::make_unique<chunked_cache>(options, shape);
        }
        static const std::map<std::string_view, ggml_type> types = {
            {"f16", GGML_TYPE_F16}, {"q8_0", GGML_TYPE_Q8_0}, {"q4_0", GGML_TYPE_Q4_0}};
        return std::make_unique<dense_cache>(types.at(policy.row_type), policy.rotated, shape, where);
    } catch (const std::bad_alloc &) {
        fail("not enough memory for a ", options.policy, " cache");
    }
}

}  // namespace livekv
