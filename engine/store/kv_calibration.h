#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kv/kv_kvquant.h"
#include "model/fingerprint.h"

namespace livekv {

// What KVQuant knows of a model beforehand (kv/kv_kvquant.h), for codes of so many bits.
struct kv_calibration {
    struct layer {
        int64_t n_head_kv = 0;
        int64_t head_dim = 0;
        std::vector<kvquant_range> keys;  // [n_head_kv * head_dim], before RoPE
        std::vector<float> k_codebook;    // [2^bits], ascending
        std::vector<float> v_codebook;
    };

    int32_t bits = 0;
    model_facts model;
    std::vector<layer> layers;
};

// A calibration as a file, little-endian:
//
//   8 bytes    "LKVQUANT"
//   u32        version, 1
//   u64        XXH64 of all that follows
//   u32 x 3    bits, facts of the model, layers
//   facts      name and value, each a u32 of bytes and UTF-8
//   layers     u32 x 2: n_head_kv, head_dim; then f32: lower thresholds [n_head_kv * head_dim], upper ones, the
//              codebook of the keys [2^bits], of the values
//
// Writes path, which is complete or untouched, whatever happens. Throws livekv::error: a path that cannot be written,
// and what no reader would take.
void write_kv_calibration(const std::string & path, const kv_calibration & calibration);

// Throws livekv::error, naming the file, when there is none, or it is none of ours, torn, changed, or of another
// version.
kv_calibration read_kv_calibration(const std::string & path);

// Throws livekv::error naming the file, and the difference, when the calibration is of another model.
void require_calibrated(const std::string & path, const kv_calibration & calibration, const model_facts & model);

}  // namespace livekv
