#include "policy/chunked.h"

#include <algorithm>

#include "kv/kv_pack.h"
#include "kv/kv_stats.h"
#include "kv/level_block.h"
#include "policy/guided_seal.h"
#include "policy/kv_policies.h"
#include "policy/kvquant_seal.h"

namespace livekv {

namespace {

// The largest power of two that divides head_dim, at most limit.
int32_t rotation_of(int64_t head_dim, int32_t limit) {
    int32_t run = 1;
    while (run < limit && head_dim % (2 * run) == 0) {
        run *= 2;
    }
    return run;
}

// Channels of one width, and so rounded without error feedback: what is not policy livekv's keys.
void clear_classes(kv_method & m) {
    m.key_classes = false;
    m.key_feedback = false;
}

// Layers kept at higher precision are blocks too: 8 bits, a scale for 128 keys of a channel, nothing stored apart.
kv_method bypass_method(const kv_options & options) {
    kv_method m = options.method();
    m.k_bits = m.v_bits = 8;
    m.scale_method = kv_method::scale::range;
    m.key_group = options.chunk_size % 128 == 0 ? 128 : 0;
    m.zero_point = false;
    clear_classes(m);
    m.outlier_ratio = 0.0;
    m.v_outlier_ratio = -1.0;
    return m;
}

chunk_plan plan_of(const kv_options & options, const kv_layer_shape & shape, bool bypass, bool exact) {
    chunk_plan plan;
    plan.n_head_kv = shape.n_head_kv;
    plan.head_dim = shape.head_dim;
    plan.chunk_size = options.chunk_tokens();
    plan.window = shape.window;
    plan.bypass = bypass;
    plan.seals = !exact;
    plan.warmup_chunks = bypass ? 0 : options.warmup_chunks;
    plan.warmup_keep = options.warmup_keep;
    plan.measure_error = options.measure_error;
    plan.method = bypass ? bypass_method(options) : options.method();
    if (find_kv_policy(options.policy).guides) {
        plan.guided = guided_plan{options.guided()};
        clear_classes(plan.method);
        plan.method.sink_tokens = static_cast<int32_t>(plan.guided->method.n_exact());
        plan.warmup_chunks = 0;
        return plan;
    }
    if (find_kv_policy(options.policy).streams) {
        plan.stream = {options.stream(kv_side::key), options.stream(kv_side::value)};
        clear_classes(plan.method);
        plan.warmup_chunks = 0;
        if (options.value_quant_groups > 0 && shape.head_dim % options.value_quant_groups != 0) {
            throw kv_option_error("value_quant_groups", std::to_string(options.value_quant_groups) +
                                                            " does not divide the model's head_dim, " +
                                                            std::to_string(shape.head_dim));
        }
        return plan;
    }
    if (find_kv_policy(options.policy).is_kivi) {
        plan.kivi = options.kivi();
        plan.method = {};
        plan.method.scale_method = kv_method::scale::range;  // no state
        plan.method.sink_tokens = 0;
        plan.warmup_chunks = 0;
        return plan;
    }
    if (find_kv_policy(options.policy).is_fastkv) {
        plan.fastkv = fastkv_plan{options.fastkv()};
        plan.seals = options.store == kv_store_as::livekv;
        plan.method.scale_method = kv_method::scale::range;  // no state: tokens that are kept are no neighbours
        clear_classes(plan.method);
        plan.method.sink_tokens = 0;
        plan.warmup_chunks = 0;
        plan.v_rotation = plan.seals ? rotation_of(shape.head_dim, 64) : 0;
        return plan;
    }
    if (find_kv_policy(options.policy).is_finch) {
        plan.finch = options.finch();
        plan.seals = false;
        plan.method.scale_method = kv_method::scale::range;  // no state
        clear_classes(plan.method);
        plan.method.sink_tokens = 0;
        plan.warmup_chunks = 0;
        return plan;
    }
    if (find_kv_policy(options.policy).is_kvquant) {
        plan.method = {};
        plan.method.scale_method = kv_method::scale::range;  // no state
        plan.method.sink_tokens = kvquant_exact_tokens;
        plan.warmup_chunks = 0;
        return plan;
    }
    if (options.rotate == kv_rotate::k || options.rotate == kv_rotate::kv) {
        plan.k_rotation = rotation_of(shape.head_dim, 128);
    }
    if (options.rotate == kv_rotate::v || options.rotate == kv_rotate::kv) {
        plan.v_rotation = rotation_of(shape.head_dim, 64);
    }
    return plan;
}

// Says each layer which one it is.
void number_layers(const kv_options & options, std::vector<chunk_plan> & plans) {
    for (size_t il = 0; il < plans.size(); ++il) {
        chunk_plan & plan = plans[il];
        if (plan.guided) {
            plan.guided->layer = static_cast<int64_t>(il);
            plan.guided->n_layer = static_cast<int64_t>(plans.size());
        }
        if (plan.fastkv) {
            plan.fastkv->layer = static_cast<int64_t>(il);
            plan.fastkv->tsp_layer = options.fastkv_layer(static_cast<int64_t>(plans.size()));
        }
        if ((plan.guided || plan.fastkv || plan.finch) && plan.window > 0) {
            throw kv_option_error(
                "policy", "the cache " + options.policy + " keeps no positions of its tokens, which the window of " +
                              std::to_string(plan.window) + " tokens in layer " + std::to_string(il) + " needs");
        }
    }
}

// Of kvquant: what the calibration says of each layer.
void calibrate(const kv_options & options, const kv_shape & shape, std::vector<chunk_plan> & plans) {
    const std::shared_ptr<const kv_calibration> calibration = calibration_for(options, shape);
    for (size_t il = 0; il < plans.size(); ++il) {
        plans[il].kvquant = kvquant_plan{static_cast<int32_t>(options.bits.k), calibration, il};
    }
}

// Tables of rotary positions, one for all layers of the same.
void share_turns(const kv_shape & shape, std::vector<chunk_plan> & plans) {
    for (size_t il = 0; il < plans.size(); ++il) {
        for (size_t other = 0; other < il && !plans[il].turns; ++other) {
            plans[il].turns = shape.layers[other].rope == shape.layers[il].rope ? plans[other].turns : nullptr;
        }
        if (!plans[il].turns) {
            plans[il].turns = std::make_shared<const rope_tiles>(shape.layers[il].rope);
        }
    }
}

}  // namespace

int32_t chunk_plan::bits(kv_side side) const {
    const bool key = side == kv_side::key;
    if (stream) {
        const stream_method & m = key ? stream->k : stream->v;
        return m.seals() ? m.bits : 0;
    }
    if (guided) {
        return guided->method.bits[1];
    }
    if (kivi) {
        return kivi->bits(side);
    }
    if (kvquant) {
        return kvquant->bits;
    }
    return !seals ? 0 : key ? method.k_bits : method.v_bits;
}

kv_block_header chunk_plan::header(kv_side side, int64_t n) const {
    if (stream) {
        const stream_method & m = side == kv_side::key ? stream->k : stream->v;
        const int32_t sum = static_cast<int32_t>(head_dim / 4 * m.bits);
        return kv_channel_header(side, static_cast<int32_t>(n), static_cast<int32_t>(head_dim), sum);
    }
    if (guided) {
        return plan_levels(side, guided->method.keys, std::vector<uint8_t>(static_cast<size_t>(n)), head_dim).header;
    }
    if (kvquant) {
        return kv_codebook_header(side, static_cast<int32_t>(n), static_cast<int32_t>(head_dim), kvquant->bits, 0);
    }
    return kivi ? kivi_header(side, n, head_dim, bits(side)) : block_header(method, side, n, head_dim);
}

size_t chunk_plan::range_floats() const {
    const bool is_read = seals && method.scale_method != kv_method::scale::range;
    return is_read ? key_statistics::state_floats(method, head_dim) : 0;
}

size_t chunk_plan::state_floats() const {
    if (stream) {
        return static_cast<size_t>(n_head_kv * (stream->k.units(head_dim) + stream->v.units(head_dim)));
    }
    if (guided) {
        return guided_state::n_floats;
    }
    const size_t queries = reads_queries() ? static_cast<size_t>(head_dim) : 0;
    return static_cast<size_t>(n_head_kv) * (range_floats() + queries);
}

int64_t chunk_plan::kept_from(int64_t n_chunked) const {
    return window > 0 ? std::max<int64_t>(0, n_chunked - window + 1 - chunk_size) : 0;
}

std::vector<chunk_plan> plan_chunks(const kv_options & options, const kv_shape & shape) {
    options.check();
    const int64_t n_bypass = options.n_bypass(shape.n_layer());
    if (options.only_layer >= shape.n_layer()) {
        throw kv_option_error("only_layer", "there is no layer " + std::to_string(options.only_layer) +
                                                "; the model has 0 to " + std::to_string(shape.n_layer() - 1));
    }
    std::vector<chunk_plan> plans;
    for (const kv_layer_shape & layer : shape.layers) {
        block_header(options.method(), kv_side::key, options.chunk_size, layer.head_dim);  // throws for impossible ones
        const int64_t il = static_cast<int64_t>(plans.size());
        const bool alone = options.only_layer >= 0;
        const bool bypass = alone ? il != options.only_layer : il < n_bypass;
        plans.push_back(plan_of(options, layer, bypass, bypass && (alone || options.bypass_type == kv_bypass::f16)));
    }
    number_layers(options, plans);
    const kv_policy & policy = find_kv_policy(options.policy);
    if (policy.is_kvquant) {
        calibrate(options, shape, plans);
    }
    if (policy.is_kvquant || policy.is_finch || (policy.streams && options.pre_rope)) {
        share_turns(shape, plans);
    }
    return plans;
}

kv_layer make_layer(const chunk_plan & plan, bool on_device) {
    kv_layer layer;
    layer.n_head_kv = plan.n_head_kv;
    layer.head_dim = plan.head_dim;
    layer.state_is_f16 = state_is_f16(plan.method);
    layer.where = on_device ? &device_memory() : &host_memory();
    layer.errors.resize(plan.measure_error ? static_cast<size_t>(2 * plan.n_head_kv) : 0);
    return layer;
}

chunk_closing close_chunk(const chunk_plan & plan, const kv_layer & layer, int64_t n, bool seal) {
    const int64_t newest = static_cast<int64_t>(layer.chunks.size());
    const bool settled = !plan.warmup_keep && newest + 1 >= plan.warmup_chunks;
    const auto seals_keys = [&](int64_t i) { return plan.seals && seal && (i >= plan.warmup_chunks || settled); };
    chunk_closing closing;
    closing.k_sealed = seals_keys(newest) && plan.bits(kv_side::key) > 0;
    closing.v_sealed = plan.seals && seal && plan.bits(kv_side::value) > 0;
    if (plan.kivi) {  // values of the newest chunk stay exact until the next one closes
        closing.v_sealed = false;
        for (size_t i = 0; i < layer.chunks.size(); ++i) {
            if (!layer.chunks[i].given_back() && !layer.chunks[i].v.sealed()) {
                closing.late_values.push_back(i);
            }
        }
        return closing;
    }
    closing.n_sinks =
        plan.seals && newest == 0 ? static_cast<int32_t>(std::min<int64_t>(plan.method.sink_tokens, n)) : 0;
    for (size_t i = 0; i < layer.chunks.size(); ++i) {
        const kv_chunk & old = layer.chunks[i];  // one with exact values is generated text that is to stay as it is
        if (!plan.sizes_follow_sealing() && old.v.sealed() && !old.k.sealed() && seals_keys(static_cast<int64_t>(i))) {
            closing.late_keys.push_back(i);
        }
    }
    return closing;
}

int64_t exact_trim(const chunk_plan & plan, const kv_layer & layer, int64_t n) {
    if (n >= layer.n_chunked) {
        return n;
    }
    int64_t exact = 0;
    int64_t end = 0;
    int64_t given_back_to = 0;
    for (size_t i = 0; i < layer.chunks.size(); ++i) {
        const kv_chunk & c = layer.chunks[i];
        end += c.n_tokens;
        if (end > n || c.n_tokens < c.n_stored) {
            break;
        }
        given_back_to = c.given_back() ? end : given_back_to;
        const bool in_window = plan.window == 0 || given_back_to <= end - plan.window + 1;
        const bool warming_up = static_cast<int64_t>(i) + 1 < plan.warmup_chunks;
        const bool sealed_late = warming_up && layer.chunks.front().k.sealed();
        const bool values_sealed_late = plan.kivi && c.v.sealed();
        if (in_window && !sealed_late && !values_sealed_late && (c.state || plan.state_floats() == 0)) {
            exact = end;
        }
    }
    return exact;
}

kv_layer_format format_of(const chunk_plan & plan) {
    kv_layer_format f;
    f.n_head_kv = plan.n_head_kv;
    f.head_dim = plan.head_dim;
    f.chunk_size = plan.chunk_size;
    f.max_sinks = plan.method.sink_tokens;
    f.window = plan.window;
    f.seals = plan.seals;
    f.state_floats = plan.state_floats();
    f.state_is_f16 = state_is_f16(plan.method);
    f.state_has_signs = plan.method.scale_method == kv_method::scale::ema_minmax;
    f.tail_queries = plan.reads_queries();
    f.queries_have_signs = plan.method.key_feedback;
    if (plan.guided) {
        f.state_has_signs = true;
        f.tail_weights = true;
        f.tail_lacks = plan.guided->method.propagates == guided_method::propagation::layers;
        f.keys_by_token = plan.guided->method.keys == guided_method::key_axis::token;
    }
    f.header = [plan](kv_side side, int64_t n) { return plan.header(side, n); };
    return f;
}

}  // namespace livekv
