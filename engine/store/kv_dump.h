#pragma once

#include <cstdint>
#include <vector>

#include "store/kv_layer.h"

namespace livekv {

// How a token's keys, or values, are kept.
enum class kv_kind : uint8_t {
    sealed = 0,      // in a block
    sink = 1,        // exact, one of the sequence's first tokens
    exact = 2,       // exact, in a chunk: warm-up keys, unsealed text, f16 layers
    tail = 3,        // exact, in no chunk yet
    dense = 4,       // a row of another policy's type
    given_back = 5,  // not at all, behind the layer's window: its numbers here are 0
    dropped = 6,     // not at all, by policy guided: the same
};

// The keys, or the values, of one layer, taken apart to be looked at. H: n_head_kv, T: n_tokens, D: head_dim.
//
// A sealed entry (h, t, c) stands for minimum + (code - zero) * scale, where these are those of its group: keys
// [h, group[t], c], values [h, group[t]], whose minimum is 0, or, of kivi, [h, group[t], c / 32]; unless it is an
// outlier, whose value is listed. Of policy guided a level's keys are a group, or, where tokens have a scale of their
// own, a token's, as its values are: [h, group[t]]. Of kvquant it stands for minimum + levels[code] * scale.
struct kv_side_dump {
    int32_t bits = 0;                    // of a code, the mean rounded down; 0: nothing can be sealed in this layer
    int32_t rotation = 0;                // channels that were rotated together before all this; 0: none were
    int64_t n_groups = 0;                // G
    std::vector<kv_kind> kind;           // [T]
    std::vector<int32_t> group;          // [T], -1 where not sealed
    std::vector<int16_t> codes;          // [H, T, D], 0 where not sealed
    std::vector<float> scale;            // keys [H, G, D], values [H, G], or [H, G, D / 32], rounded up
    std::vector<int16_t> zero;           // the same; 0 when symmetric
    std::vector<float> minimum;          // the same, of keys, and of values of guided, kivi and kvquant; else 0
    std::vector<float> levels;           // of kvquant, the codebook, while there are blocks; else empty
    std::vector<uint8_t> width;          // the same: bits of a code
    std::vector<int32_t> outlier_index;  // [n, 3]: head, token, channel
    std::vector<float> outlier_value;    // [n]
    std::vector<float> stored;           // [H, T, D], as attention reads it
    std::vector<float> reconstruction;   // [H, T, D], rotated back: what the model's own keys or values became
};

struct kv_layer_dump {
    kv_side_dump k;
    kv_side_dump v;
};

// One side of a layer in the host's memory, copied. rotation: channels that are stored rotated together; bits: of a
// code, 0: this layer seals nothing.
kv_side_dump dump_side(const kv_layer & layer, kv_side side, int32_t rotation, int32_t bits);

}  // namespace livekv
