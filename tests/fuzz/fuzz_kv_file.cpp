// Any bytes as a saved sequence: restoring it, and for one in eight taking it apart and going on from it, may throw
// livekv::error, no more. A sequence that could not be restored is still empty.

#include <cstdint>
#include <memory>
#include <vector>

#include "../fixtures/small_vocab.h"
#include "kv_model.h"
#include "run/kv_cache.h"
#include "store/kv_file_names.h"
#include "target.h"

namespace {

void use(livekv::session & s, bool wholly) {
    fuzz::require(s.n_tokens() == static_cast<int64_t>(s.tokens().size()) && s.n_tokens() > 0,
                  "tokens without a cache");
    fuzz::require(s.last_logits().empty() || s.last_logits().size() == 259, "logits of another size");
    const livekv::kv_cache & cache = s.cache();
    cache.report();
    if (!wholly) {
        return;
    }
    for (int64_t il = 0; il < s.get_model().hp.n_layer; ++il) {
        cache.dump(il);
    }
    s.append(5);                             // reads every chunk
    s.trim((s.n_tokens() + 1) * 2 / 3);      // inside a chunk
    s.prefill(std::vector<int32_t>(40, 7));  // seals another
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    static fixtures::memory_file file;
    static std::unique_ptr<livekv::session> s;  // empty: who refuses a file leaves it so
    if (!s) {
        s = std::make_unique<livekv::session>(fuzz::kv_engine(), fuzz::kv_params());
    }
    file.write(data, size);
    const fuzz::limits limit(size);
    try {
        s->load(file.path());
    } catch (const livekv::error & problem) {
        fuzz::expected(problem, data, size);
        fuzz::require(s->n_tokens() == 0 && s->tokens().empty() && s->last_logits().empty(), "half a sequence");
        return 0;
    }
    try {
        const size_t checksum = livekv::kv_names::checksum_at();  // its first byte is as good as drawn
        use(*s, size <= checksum || data[checksum] % 8 == 0);
    } catch (const livekv::error & problem) {
        fuzz::expected(problem, data, size);
    }
    s.reset();
    return 0;
}
