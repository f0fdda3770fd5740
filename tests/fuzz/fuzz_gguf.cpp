// Any bytes as a GGUF file: opening it, reading a tokenizer from it and using that may throw livekv::error, no more.

#include <cstdint>
#include <string>

#include "../fixtures/small_vocab.h"
#include "error.h"
#include "model/gguf_file.h"
#include "model/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    static fixtures::memory_file file;
    file.write(data, size);
    try {
        const livekv::gguf_file gguf(file.path());
        for (const char * name : {"token_embd.weight", "output.weight"}) {
            if (const ggml_tensor * tensor = gguf.find_tensor(name); tensor && ggml_nbytes(tensor) > 0) {
                static volatile uint8_t touched;
                touched = gguf.tensor_data(tensor)[ggml_nbytes(tensor) - 1];
                (void)touched;
            }
        }
        const livekv::tokenizer tok(gguf);
        tok.decode(tok.encode("Hello <s> wörld 123\n\xFF▁", true, true), true);
        livekv::stream_decoder stream(tok);
        for (int32_t id = 0; id < tok.n_vocab() && id < 100; ++id) {
            stream.push(id);
        }
        stream.finish();
    } catch (const livekv::error &) {
    }
    return 0;
}
