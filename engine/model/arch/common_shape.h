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

// The layers' one RoPE, of the architecture's order: base, scaling (none, linear, yarn) and the divisors of frequencies
// that a file has as a tensor, rope_freqs (llama3). After read_sizes.
void read_rope(arch_keys & keys, hparams & hp, rope_order order);

// A number above 0 of a key, or the other one where it is absent.
float read_positive(arch_keys & keys, const char * key, float otherwise);

// The layers' windows: what sliding_window says, in layers that sliding_window_pattern lists, or, where that is a
// number n or absent (then `pattern`), in all but each n-th. A window that is absent, or 0, is refused. After
// read_sizes.
void read_windows(arch_keys & keys, hparams & hp, uint32_t pattern);

// A mixture of experts is another architecture of the same name.
void refuse_experts(arch_keys & keys);

}  // namespace livekv
