// Any bytes as a GGUF file: loading a model from it, and a pass of what was loaded, may throw livekv::error, no more.
// A file of a vocabulary alone gives a tokenizer.

#include <cstdint>
#include <vector>

#include "../fixtures/small_vocab.h"
#include "model/tokenizer.h"
#include "session/session.h"
#include "target.h"

namespace {

void use(const livekv::tokenizer & tok) {
    tok.decode(tok.encode("Hello <s> w\u00f6rld 123\n\xFF\u2581", true, true), true);
    livekv::stream_decoder stream(tok);
    for (int32_t id = 0; id < tok.n_vocab() && id < 100; ++id) {
        stream.push(id);
    }
    stream.finish();
}

void use(const std::shared_ptr<const livekv::model> & m) {
    use(m->vocab);
    for (const char * policy : {"f16", "livekv"}) {
        livekv::session_params params;
        params.n_ctx = 16;
        params.kv.policy = policy;
        livekv::session s(m, params);
        s.prefill(std::vector<int32_t>{0, 1, 0});
        s.append(1);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    static fixtures::memory_file file;
    file.write(data, size);
    const fuzz::memory_limit limit(size);
    try {
        use(livekv::model::load(file.path()));
        return 0;
    } catch (const livekv::error & problem) {
        fuzz::expected(problem, data, size);
    }
    try {
        use(livekv::tokenizer(livekv::gguf_file(file.path())));
    } catch (const livekv::error & problem) {
        fuzz::expected(problem, data, size);
    }
    return 0;
}
