#pragma once

#include "model/arch/arch_keys.h"
#include "model/hparams.h"

namespace livekv {

// What the metadata of most decoder models says in the same way. Each throws livekv::error for a key that is missing or
// has a value no model has.

// n_ctx_train, n_embd, n_layer and the layers' shapes.
void read_sizes(arch_keys & keys, hparams & hp);

// norm_rms_eps.
void read_rms_norm(arch_keys & keys, hparams & hp);

// n_rot, rope_freq_base and rope_freq_scale. Scaling may be absent, "none" or "linear". After read_sizes.
void read_rope(arch_keys & keys, hparams & hp);

}  // namespace livekv
