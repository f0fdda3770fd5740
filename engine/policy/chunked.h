#pragma once

// The policies livekv, kvstream, guided, kivi, fastkv, finch and kvquant: a layer's tail becomes a chunk, sealed into
// blocks, whenever it is full. What is decided about chunks is here; how it is computed: chunk_seal.h, stream_seal.h,
// guided_seal.h, kivi_seal.h, kvquant_seal.h and, on the GPU, kernels/cuda.

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kv/kv_guided.h"
#include "kv/kv_method.h"
#include "kv/kv_state.h"
#include "policy/kv_options.h"
#include "policy/kv_shape.h"
#include "rope/rope_tiles.h"
#include "store/kv_calibration.h"
#include "store/kv_file.h"
#include "store/kv_layer.h"

namespace livekv {

// What kvstream seals by.
struct stream_plan {
    stream_method k;
    stream_method v;
};

// What guided seals by.
struct guided_plan {
    guided_method method;
    int64_t layer = 0;
    int64_t n_layer = 1;
};

// What fastkv judges by.
struct fastkv_plan {
    fastkv_method method;
    int64_t layer = 0;
    int64_t tsp_layer = 0;

    bool is_later() const { return layer > tsp_layer; }
};

// What kvquant seals by.
struct kvquant_plan {
    int32_t bits = 0;
    std::shared_ptr<const kv_calibration> calibration;
    size_t layer = 0;

    const kv_calibration::layer & of_layer() const { return calibration->layers[layer]; }
};

// What is done with one layer's chunks.
struct chunk_plan {
    int64_t n_head_kv = 0;
    int64_t head_dim = 0;
    int64_t chunk_size = 0;
    int64_t warmup_chunks = 0;  // whose keys stay exact while the statistics settle
    bool warmup_keep = false;   // and for ever
    int64_t window = 0;         // tokens a query of the layer sees, its own included; 0: all
    bool bypass = false;        // one of the layers kept at higher precision
    bool seals = true;          // false: chunks stay f16 (bypass layers of type f16, layers but only_layer)
    bool measure_error = false;
    int32_t k_rotation = 0;  // keys and values are stored rotated in runs of this many channels; 0: as they are
    int32_t v_rotation = 0;
    kv_method method;                         // of livekv
    std::optional<stream_plan> stream;        // of kvstream
    std::optional<guided_plan> guided;        // of guided
    std::optional<kivi_method> kivi;          // of kivi
    std::optional<fastkv_plan> fastkv;        // of fastkv
    std::optional<finch_method> finch;        // of finch
    std::optional<kvquant_plan> kvquant;      // of kvquant
    std::shared_ptr<const rope_tiles> turns;  // keys are kept before RoPE; null: after it

    size_t row() const { return static_cast<size_t>(n_head_kv * head_dim); }
    // Where the chunks begin that a layer with n tokens in chunks keeps: what is before is behind the window of every
    // token to come, by a chunk more, so that a trim of up to a chunk finds what it needs.
    int64_t kept_from(int64_t n_chunked) const;
    // Whether blocks are as large as sealing finds.
    bool sizes_follow_sealing() const { return stream || guided || kvquant; }
    // Bits of an entry that nothing sets apart; 0: nothing is sealed.
    int32_t bits(kv_side side) const;
    // Of a block of n tokens; of kvstream, whose widths follow what is sealed, the least; of guided, of none of them;
    // of kvquant without outliers.
    kv_block_header header(kv_side side, int64_t n) const;
    // A head's state: range_floats of the keys' running statistics, then, where widths of channels are chosen by them,
    // head_dim of the queries' (query_squares); of kvstream the running maxima of the keys, then of the values.
    // Of guided one state, of all heads (guided_state).
    size_t range_floats() const;
    bool reads_queries() const { return seals && method.key_classes; }
    size_t state_floats() const;  // of all heads; 0: nothing reads one
    size_t state_bytes() const { return state_floats() * state_number_bytes(state_is_f16(method)); }
};

// One plan a layer. Throws kv_option_error, or livekv::error for a shape that blocks cannot have, and for a calibration
// that cannot be read or is another model's.
std::vector<chunk_plan> plan_chunks(const kv_options & options, const kv_shape & shape);

// An empty layer of a plan. Throws std::bad_alloc.
kv_layer make_layer(const chunk_plan & plan, bool on_device);

// What closing a chunk of n tokens now means.
struct chunk_closing {
    bool k_sealed = false;
    bool v_sealed = false;
    int32_t n_sinks = 0;
    std::vector<size_t> late_keys;  // chunks whose keys were exact so far and are sealed with this one
    std::vector<size_t> late_values;
};

// seal: not generated text that is to stay exact.
chunk_closing close_chunk(const chunk_plan & plan, const kv_layer & layer, int64_t n, bool seal);

// The most tokens, n at most, to which the layer can be trimmed so that it is what a new sequence of those tokens would
// have left: the end of a chunk after which the state is known and no key is sealed that would be exact, and of whose
// window nothing was given back.
int64_t exact_trim(const chunk_plan & plan, const kv_layer & layer, int64_t n);

// What a file's layer must be to be one of this plan.
kv_layer_format format_of(const chunk_plan & plan);

}  // namespace livekv
