#include "cache/livekv_cache.h"

#include <algorithm>
#include <chrono>

#include "error.h"
#include "kv/kv_pack.h"

namespace livekv {

namespace {

constexpr int64_t none_bad = INT64_MAX;

// The largest power of two that divides head_dim, at most limit.
int32_t rotation_of(int64_t head_dim, int32_t limit) {
    int32_t run = 1;
    while (run < limit && head_dim % (2 * run) == 0) {
        run *= 2;
    }
    return run;
}

// Layers kept at higher precision are blocks too: 8 bits, a scale for 128 keys of a channel, nothing stored apart.
kv_method bypass_method(const kv_options & options) {
    kv_method m = options.method();
    m.k_bits = m.v_bits = 8;
    m.scale_method = kv_method::scale::range;
    m.key_group = options.chunk_size % 128 == 0 ? 128 : 0;
    m.zero_point = false;
    m.scale_search = false;
    m.outlier_ratio = 0.0;
    m.v_outlier_ratio = -1.0;
    return m;
}

livekv_layer_plan plan_of(const kv_options & options, const kv_shape & shape, int64_t il) {
    livekv_layer_plan plan;
    plan.n_head_kv = shape.n_head_kv;
    plan.head_dim = shape.head_dim;
    plan.chunk_size = options.chunk_size;
    plan.bypass = il < options.n_bypass(shape.n_layer);
    plan.seals = !plan.bypass || options.bypass_type != "f16";
    plan.warmup_chunks = plan.bypass ? 0 : options.warmup_chunks;
    plan.warmup_keep = options.warmup_keep;
    plan.tail_chunks = options.tail_chunks;
    plan.measure_error = options.measure_error;
    plan.on_device = !shape.on_device.empty() && shape.on_device[static_cast<size_t>(il)];
    plan.method = plan.bypass ? bypass_method(options) : options.method();
    if (options.rotate == "k" || options.rotate == "kv") {
        plan.k_rotation = rotation_of(shape.head_dim, 128);
    }
    if (options.rotate == "v" || options.rotate == "kv") {
        plan.v_rotation = rotation_of(shape.head_dim, 64);
    }
    return plan;
}

}  // namespace

livekv_cache::livekv_cache(const kv_options & options, const kv_shape & shape)
    : options_(options),
      shape_(shape),
      kernels_(best_cpu_kernels()),
      job_(kernels_, shape.n_threads, static_cast<int32_t>(shape.head_dim)),
      first_bad_(none_bad) {
    options.check();
    block_header(options.method(), kv_side::key, options.chunk_size, shape.head_dim);  // throws for an impossible shape
    for (int64_t il = 0; il < shape.n_layer; ++il) {
        layers_.emplace_back(plan_of(options, shape, il), kernels_);
        nodes_.push_back({this, il, 0.0f});
        device_nodes_.push_back({run_on_device, this, il});
    }
    device_layers_.resize(layers_.size());
    for (size_t il = 0; il < layers_.size(); ++il) {
        if (layers_[il].plan().on_device) {
            device_layer::require_supported(layers_[il].plan());
            if (!device_workspace_) {
                device_workspace_ =
                    std::make_unique<device_workspace>(plan_of(options, shape, shape.n_layer - 1), shape.n_head);
            }
            device_layers_[il] = std::make_unique<device_layer>(layers_[il], *device_workspace_, shape.n_head);
        }
    }
}

livekv_cache::livekv_cache(const livekv_cache & other, const kv_shape & shape) : livekv_cache(other.options_, shape) {
    for (size_t il = 0; il < layers_.size(); ++il) {
        const livekv_layer & from = other.layers_[il];
        const bool on_device = layers_[il].plan().on_device;
        layers_[il] = on_device == from.plan().on_device ? from.fork() : from.copy(on_device);
    }
}

std::unique_ptr<kv_cache> livekv_cache::fork() const {
    return std::unique_ptr<kv_cache>(new livekv_cache(*this, shape_));
}

int64_t livekv_cache::max_new() const {
    return options_.chunk_size - layers_.front().n_tail();
}

void livekv_cache::begin(int64_t n_new, bool end_of_prompt) {
    LIVEKV_ASSERT(n_new >= 1 && n_new <= max_new());
    if (n_tokens() + n_new > shape_.n_ctx) {
        fail("the context of ", shape_.n_ctx, " tokens is full: ", n_tokens(), " are in it, ", n_new,
             " more do not fit");
    }
    // With sealing of generated text off, a prompt's rest is sealed as the short chunk it is, and what follows is not.
    const bool generated = !options_.seal_decode && n_new == 1;
    const bool close = n_new == max_new() || (!options_.seal_decode && !generated && end_of_prompt);
    n_new_ = n_new;
    first_bad_ = none_bad;
    failed_ = false;
    try {
        for (livekv_layer & layer : layers_) {
            layer.begin(n_new, close, !generated, layer.plan().on_device ? device_passing_ : passing_);
        }
    } catch (const std::bad_alloc &) {
        if (device_workspace_) {
            fail("not enough memory for the cache beyond ", n_tokens(), " tokens (", bytes() / (1 << 20),
                 " MiB), on the GPU or beside it; put fewer layers there (-ngl) or use a smaller cache (--preset "
                 "small)");
        }
        fail("not enough memory for the cache beyond ", n_tokens(), " tokens (", bytes() / (1 << 20), " MiB)");
    }
}

ggml_tensor * livekv_cache::attend(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * q,
                                   ggml_tensor * k, ggml_tensor * v, float scale) {
    node & n = nodes_[static_cast<size_t>(il)];
    n.scale = scale;
    if (device_layers_[static_cast<size_t>(il)]) {
        return attend_on_device(ctx, graph, il, q, k, v);
    }
    // A node's result orders it before the next one; the values are nobody's concern.
    ggml_tensor * kv[] = {k, v};
    ggml_tensor * stored = ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, kv, 2, store_node, GGML_N_TASKS_MAX, &n);
    ggml_tensor * out = nullptr;
    ggml_tensor * before = stored;
    if (q) {
        ggml_tensor * args[] = {q, stored};
        out = before = ggml_custom_4d(ctx, GGML_TYPE_F32, q->ne[0] * q->ne[1], q->ne[2], 1, 1, args, 2, attend_node,
                                      GGML_N_TASKS_MAX, &n);
    }
    ggml_build_forward_expand(graph, before);
    ggml_tensor * sealed = ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, &before, 1, seal_node, GGML_N_TASKS_MAX, &n);
    ggml_build_forward_expand(graph, sealed);
    return out;
}

template <typename F>
void livekv_cache::guarded(F work) {
    if (failed_) {
        return;
    }
    try {
        work();
    } catch (...) {
        if (!failed_.exchange(true)) {
            failure_ = std::current_exception();
        }
    }
}

// One node a layer, so that the GPU's other nodes are interrupted once. Without q its result is nobody's concern.
ggml_tensor * livekv_cache::attend_on_device(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * q,
                                             ggml_tensor * k, ggml_tensor * v) {
    ggml_tensor * args[] = {k, v, q};
    ggml_tensor * out = make_device_node(ctx, q ? q->ne[0] * q->ne[1] : 1, q ? q->ne[2] : 1, args, q ? 3 : 2,
                                         device_nodes_[static_cast<size_t>(il)]);
    ggml_build_forward_expand(graph, out);
    return q ? out : nullptr;
}

void livekv_cache::run_on_device(const device_node & node, ggml_tensor * dst, device::stream s) {
    livekv_cache & cache = *static_cast<livekv_cache *>(node.cache);
    device_layer & layer = *cache.device_layers_[static_cast<size_t>(node.il)];
    const float scale = cache.nodes_[static_cast<size_t>(node.il)].scale;
    const auto floats = [](const ggml_tensor * t) { return static_cast<const float *>(t->data); };
    cache.guarded([&] {
        const ggml_tensor * k = dst->src[0];
        const ggml_tensor * v = dst->src[1];
        layer.store(floats(k), k->nb[2] / sizeof(float), floats(v), v->nb[2] / sizeof(float), s);
        if (const ggml_tensor * q = dst->src[2]) {
            layer.attend(floats(q), static_cast<float *>(dst->data), scale, s);
        }
        layer.seal(s);
    });
}

void livekv_cache::note_bad(int64_t il, int64_t token) {
    const int64_t here = il << 32 | token;
    for (int64_t first = first_bad_; here < first && !first_bad_.compare_exchange_weak(first, here);) {
    }
}

void livekv_cache::store_node(ggml_tensor * dst, int ith, int nth, void * data) {
    const node & n = *static_cast<node *>(data);
    livekv_cache & cache = *n.cache;
    livekv_layer & layer = cache.layers_[static_cast<size_t>(n.il)];
    const ggml_tensor * k = dst->src[0];
    const ggml_tensor * v = dst->src[1];
    for (int64_t i = ith; i < k->ne[2]; i += nth) {
        const auto row = [&](const ggml_tensor * t) {
            return reinterpret_cast<const float *>(static_cast<const char *>(t->data) +
                                                   static_cast<size_t>(i) * t->nb[2]);
        };
        if (!layer.store(i, row(k), row(v))) {
            cache.note_bad(n.il, i);
        }
    }
    if (ith == 0) {
        attention_args args;
        args.n_tokens = static_cast<int32_t>(k->ne[2]);
        args.n_head = static_cast<int32_t>(cache.shape_.n_head);
        args.n_head_kv = static_cast<int32_t>(cache.shape_.n_head_kv);
        args.head_dim = static_cast<int32_t>(cache.shape_.head_dim);
        args.k_rotation = layer.plan().k_rotation;
        args.v_rotation = layer.plan().v_rotation;
        args.scale = n.scale;
        args.segments = layer.segments().data();
        args.n_segments = static_cast<int64_t>(layer.segments().size());
        cache.guarded([&] { cache.job_.prepare(args); });
    }
}

void livekv_cache::attend_node(ggml_tensor * dst, int ith, int, void * data) {
    livekv_cache & cache = *static_cast<node *>(data)->cache;
    cache.guarded(
        [&] { cache.job_.run(ith, static_cast<const float *>(dst->src[0]->data), static_cast<float *>(dst->data)); });
}

void livekv_cache::seal_node(ggml_tensor *, int ith, int nth, void * data) {
    const node & n = *static_cast<node *>(data);
    livekv_layer & layer = n.cache->layers_[static_cast<size_t>(n.il)];
    if (n.cache->first_bad_ != none_bad) {
        return;
    }
    const auto start = std::chrono::steady_clock::now();
    n.cache->guarded([&] {
        for (int64_t job = ith; job < layer.n_seal_jobs(); job += nth) {
            layer.seal(job);
        }
    });
    if (ith == 0) {
        n.cache->seal_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
}

void livekv_cache::verify() {
    if (failed_) {
        try {
            std::rethrow_exception(failure_);
        } catch (const std::bad_alloc &) {
            fail("not enough memory for the cache's workspace at ", n_tokens(), " tokens");
        }
    }
    for (size_t il = 0; il < device_layers_.size(); ++il) {
        if (device_layers_[il] && device_layers_[il]->first_bad() >= 0) {
            note_bad(static_cast<int64_t>(il), device_layers_[il]->first_bad());
        }
    }
    if (first_bad_ != none_bad) {
        fail("layer ", first_bad_ >> 32, ", position ", n_tokens() + (first_bad_ & 0xffffffff),
             ": a key or value is not a number or too large for 16 bits; "
             "the model's weights or its computation are broken");
    }
}

void livekv_cache::commit() {
    for (livekv_layer & layer : layers_) {
        layer.commit();
    }
    for (const std::unique_ptr<device_layer> & layer : device_layers_) {
        seal_seconds_ += layer ? layer->seal_seconds() : 0.0;
    }
    n_new_ = 0;
}

void livekv_cache::trim(int64_t n) {
    for (livekv_layer & layer : layers_) {
        layer.trim(n);
    }
    if (n == 0) {
        seal_seconds_ = 0.0;
        passing_.release();
        device_passing_.release();
    }
}

void livekv_cache::repeat(int64_t n) {
    if (n > shape_.n_ctx) {
        fail("the context holds ", shape_.n_ctx, " tokens, ", n, " are wanted");
    }
    try {
        for (livekv_layer & layer : layers_) {
            layer.repeat(n);
        }
    } catch (const std::bad_alloc &) {
        trim(0);
        fail("not enough memory for ", n, " tokens");
    }
}

size_t livekv_cache::bytes() const {
    return report().bytes.total();
}

kv_report livekv_cache::report() const {
    kv_report r;
    for (const livekv_layer & layer : layers_) {
        layer.add_to(r);
    }
    r.workspace = passing_.bytes() + job_.bytes() + device_passing_.bytes() +
                  (device_workspace_ ? device_workspace_->bytes() : 0);
    r.seal_seconds = seal_seconds_;
    r.has_error = options_.measure_error;
    return r;
}

kv_layer_dump livekv_cache::dump(int64_t il) const {
    const livekv_layer & layer = layers_.at(static_cast<size_t>(il));
    if (layer.plan().on_device) {
        const livekv_layer here = layer.copy(false);
        return {here.dump(kv_side::key), here.dump(kv_side::value)};
    }
    return {layer.dump(kv_side::key), layer.dump(kv_side::value)};
}

}  // namespace livekv
