#include "model/arch/arch.h"

namespace livekv {

// Each in the file of its name.
extern const architecture gemma3;
extern const architecture llama;
extern const architecture qwen2;
extern const architecture qwen3;

const std::vector<const architecture *> & architectures() {
    static const std::vector<const architecture *> all = {&llama, &qwen2, &qwen3, &gemma3};
    return all;
}

}  // namespace livekv
