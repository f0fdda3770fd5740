#include "cache/kv_options.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace livekv {

namespace {

kv_method::scale scale_named(const std::string & name) {
    if (name == "ema_absmax") {
        return kv_method::scale::ema_absmax;
    }
    if (name == "ema_minmax") {
        return kv_method::scale::ema_minmax;
    }
    if (name == "ema_clipped") {
        return kv_method::scale::ema_clipped;
    }
    if (name == "range") {
        return kv_method::scale::range;
    }
    fail("unknown scale method '", name, "'");
}

}  // namespace

void kv_options::check() const {
    if (!method().own_range() && scale_search) {
        fail("--scale-search goes with the scale methods ema_clipped and range, not with ", scale_method);
    }
    if (tail_chunks > 0 && !seal_decode) {
        fail("--tail-chunks ", tail_chunks, " goes with --seal-decode on");
    }
    if (sink_tokens > chunk_size) {
        fail("--sink-tokens ", sink_tokens, " is more than --chunk-size ", chunk_size);
    }
}

kv_method kv_options::method() const {
    kv_method m;
    m.k_bits = static_cast<int32_t>(bits.front());
    m.v_bits = static_cast<int32_t>(bits.back());
    m.key_group = static_cast<int32_t>(key_group);
    m.zero_point = zero_point;
    m.ema_alpha = ema_alpha;
    m.clip_factor = clip_factor;
    m.outlier_ratio = outlier_ratio;
    m.v_outlier_ratio = v_outlier_ratio;
    m.sink_tokens = static_cast<int32_t>(sink_tokens);
    m.scale_method = scale_named(scale_method);
    m.scale_search = scale_search;
    return m;
}

int64_t kv_options::n_bypass(int64_t n_layer) const {
    const int64_t tenth = static_cast<int64_t>(std::nearbyint(0.1 * static_cast<double>(n_layer)));
    return std::min(n_layer, bypass_layers < 0 ? tenth : bypass_layers);
}

}  // namespace livekv
