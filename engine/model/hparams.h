#pragma once

#include <cstdint>
#include <string>

#include "model/gguf_file.h"

namespace livekv {

// The shape of a LLaMA model, read from GGUF metadata only and checked once.
struct hparams {
    std::string name;  // general.name, may be empty
    int64_t n_ctx_train = 0;
    int64_t n_embd = 0;
    int64_t n_layer = 0;
    int64_t n_ff = 0;
    int64_t n_head = 0;
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;  // of keys and of values
    int64_t n_rot = 0;     // channels of a head that RoPE turns
    int64_t n_vocab = 0;
    float norm_rms_eps = 0.0f;
    float rope_freq_base = 10000.0f;
    float rope_freq_scale = 1.0f;  // 1/factor for linear scaling; llama3 scaling comes as a tensor of frequency factors

    int64_t n_embd_q() const { return n_head * head_dim; }
    int64_t n_embd_kv() const { return n_head_kv * head_dim; }

    // Bytes of one token's keys and values over all layers in 16-bit floats: the yardstick of every cache.
    int64_t kv_f16_bytes_per_token() const { return 2 * n_layer * n_embd_kv() * 2; }

    // Throws livekv::error for another architecture, a missing key, a value no LLaMA has, and for a
    // key that is not read here but may change what the model computes.
    static hparams read(const gguf_file & file);
};

}  // namespace livekv
