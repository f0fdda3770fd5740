#include "model/arch/arch.h"

namespace livekv {

extern const architecture llama;  // llama.cpp

const std::vector<const architecture *> & architectures() {
    static const std::vector<const architecture *> all = {&llama};
    return all;
}

}  // namespace livekv
