#pragma once

// Calibrations of small random models, as policy kvquant needs one.

#include "store/kv_calibration.h"
#include "temporary_folder.h"
#include "tiny_sequences.h"

namespace tiny_sequences {

// Of 4 bits, evenly spaced, with thresholds that cut off some keys.
inline kv_calibration tiny_calibration(const model & m, float threshold = 2.0f) {
    kv_calibration c;
    c.bits = 4;
    c.model = m.fingerprint(/*is_long=*/false);
    for (int64_t il = 0; il < m.hp.n_layer; ++il) {
        kv_calibration::layer layer{m.hp.n_head_kv(il), m.hp.head_dim(il), {}, {}, {}};
        layer.keys.assign(static_cast<size_t>(layer.n_head_kv * layer.head_dim), {-threshold, threshold});
        for (int32_t i = 0; i < 16; ++i) {
            layer.k_codebook.push_back(static_cast<float>(2 * i - 15) / 15.0f);
        }
        layer.v_codebook = layer.k_codebook;
        c.layers.push_back(layer);
    }
    return c;
}

// As params_of; of kvquant with a calibration of the model, whose file stays until the program ends.
inline session_params calibrated_params(const model & m, const std::string & kv, int64_t chunk_size,
                                        int64_t n_ctx = 300) {
    session_params p = params_of(kv, chunk_size, n_ctx);
    if (kv == "kvquant") {
        static const temporary_folder folder;
        static int n_made = 0;
        p.kv.calibration = folder.file(std::to_string(++n_made));
        write_kv_calibration(p.kv.calibration, tiny_calibration(m));
    }
    return p;
}

}  // namespace tiny_sequences
