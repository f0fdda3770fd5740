#include "engine/model.h"

#include "error.h"

namespace livekv {

model::model(const std::string & path, int64_t n_gpu_layers, const rope_override & rope)
    : file(path), hp(hparams::read(file, rope)), vocab(file), tensors(file, hp, n_gpu_layers) {
    if (vocab.n_vocab() > hp.n_vocab) {
        fail("'", path, "': the tokenizer has ", vocab.n_vocab(), " tokens, the model ", hp.n_vocab);
    }
}

}  // namespace livekv
