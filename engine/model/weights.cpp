#include "model/weights.h"

#include <ggml-cpu.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "error.h"
#include "model/ggml_log.h"
#include "model/gguf_keys.h"
#include "model/leftovers.h"

namespace livekv {

namespace {

enum class use { lookup, matrix, vector };

bool computes_with(ggml_backend_dev_t device, const ggml_tensor * tensor, use purpose, ggml_backend_buffer_type_t buft) {
    ggml_context_ptr ctx(ggml_init({8 * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
    ggml_tensor * w = ggml_dup_tensor(ctx.get(), tensor);
    // Repacked layouts are recognised by the weight's buffer, which an empty one stands in for.
    ggml_backend_buffer_ptr buffer(ggml_backend_buft_alloc_buffer(buft, 0));
    w->buffer = buffer.get();
    ggml_tensor * op = nullptr;
    if (purpose == use::matrix) {
        op = ggml_mul_mat(ctx.get(), w, ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, w->ne[0], 64));
    } else {
        op = ggml_get_rows(ctx.get(), w, ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, 64));
    }
    return ggml_backend_dev_supports_op(device, op);
}

std::vector<ggml_backend_buffer_type_t> extra_buffer_types(ggml_backend_dev_t cpu) {
    auto * get = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts"));
    std::vector<ggml_backend_buffer_type_t> types;
    for (auto * next = get ? get(cpu) : nullptr; next && *next; ++next) {
        types.push_back(*next);
    }
    return types;
}

// Decides for each tensor where it lives, then allocates and fills the buffers in one go.
class loader {
  public:
    loader(const gguf_file & file, std::vector<ggml_context_ptr> & contexts,
           std::vector<ggml_backend_buffer_ptr> & buffers)
        : file_(file),
          contexts_(contexts),
          buffers_(buffers),
          cpu_(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU)),
          gpu_(find_gpu()),
          cpu_extra_(extra_buffer_types(cpu_)) {}

    ggml_tensor * add(const std::string & name, const std::vector<int64_t> & shape, use purpose, bool on_gpu) {
        const ggml_tensor * source = file_.get_tensor(name, shape);
        check_type(source, purpose);
        ggml_backend_buffer_type_t buft = on_gpu ? ggml_backend_dev_buffer_type(gpu_) : choose_on_cpu(source, purpose);
        if (ggml_tensor * again = placed_[{buft, name}]) {
            return again;
        }
        ggml_tensor * tensor = ggml_dup_tensor(context(buft), source);
        ggml_set_name(tensor, source->name);
        used_.insert(source);
        placed_[{buft, name}] = tensor;
        sources_.emplace_back(tensor, source);
        return tensor;
    }

    ggml_tensor * add_optional(const std::string & name, const std::vector<int64_t> & shape, use purpose, bool on_gpu) {
        return file_.find_tensor(name) ? add(name, shape, purpose, on_gpu) : nullptr;
    }

    // The tensors of the file that became weights.
    const std::set<const ggml_tensor *> & used() const { return used_; }

    void fill() {
        for (auto & [buft, ctx] : by_type_) {
            ggml_backend_buffer_t buffer = buft == mapped() ? map(ctx) : allocate(ctx, buft);
            ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        }
        for (auto [tensor, source] : sources_) {
            if (tensor->data != file_.tensor_data(source)) {  // else it is the mapping itself
                ggml_backend_tensor_set(tensor, file_.tensor_data(source), 0, ggml_nbytes(source));
                file_.release(source);
            }
        }
    }

  private:
    ggml_backend_buffer_type_t mapped() const { return ggml_backend_cpu_buffer_type(); }

    void check_type(const ggml_tensor * source, use purpose) const {
        const bool is_float = source->type == GGML_TYPE_F32;
        const bool known = purpose == use::vector ? is_float
                                                  : is_float || (ggml_get_type_traits(source->type)->to_float &&
                                                                 ggml_get_type_traits_cpu(source->type)->vec_dot);
        if (!known) {
            fail("'", file_.path(), "': tensor '", source->name, "' has type ", ggml_type_name(source->type),
                 purpose == use::vector ? ", expected f32" : ", which ggml cannot compute with");
        }
    }

    ggml_backend_buffer_type_t choose_on_cpu(const ggml_tensor * source, use purpose) const {
        if (purpose == use::matrix) {
            for (ggml_backend_buffer_type_t buft : cpu_extra_) {
                if (computes_with(cpu_, source, purpose, buft)) {
                    return buft;
                }
            }
        }
        return mapped();
    }

    ggml_context * context(ggml_backend_buffer_type_t buft) {
        ggml_context *& ctx = by_type_[buft];
        if (!ctx) {
            const size_t n_tensors = static_cast<size_t>(file_.n_tensors()) + 2;  // output may repeat token_embd
            ctx = ggml_init({n_tensors * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true});
            contexts_.emplace_back(ctx);
        }
        return ctx;
    }

    // The tensors of ctx point into the file's mapping: nothing is read until it is used. Files whose data is not
    // aligned as ggml's kernels need it are copied instead.
    ggml_backend_buffer_t map(ggml_context * ctx) {
        const uint8_t * first = nullptr;
        const uint8_t * last = nullptr;
        bool aligned = true;
        for (auto [tensor, source] : sources_) {
            if (ggml_get_tensor(ctx, tensor->name) != tensor) {
                continue;
            }
            const uint8_t * data = file_.tensor_data(source);
            first = first ? std::min(first, data) : data;
            last = std::max(last, data + ggml_nbytes(source));
            aligned = aligned && reinterpret_cast<uintptr_t>(data) % ggml_backend_buft_get_alignment(mapped()) == 0;
        }
        if (!aligned) {
            return allocate(ctx, mapped());
        }
        ggml_backend_buffer_t buffer =
            ggml_backend_cpu_buffer_from_ptr(const_cast<uint8_t *>(first), static_cast<size_t>(last - first));
        buffers_.emplace_back(buffer);
        for (auto [tensor, source] : sources_) {
            if (ggml_get_tensor(ctx, tensor->name) == tensor) {
                ggml_backend_tensor_alloc(buffer, tensor, const_cast<uint8_t *>(file_.tensor_data(source)));
            }
        }
        return buffer;
    }

    ggml_backend_buffer_t allocate(ggml_context * ctx, ggml_backend_buffer_type_t buft) {
        ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(ctx, buft);
        if (!buffer) {
            size_t needed = 0;
            for (ggml_tensor * t = ggml_get_first_tensor(ctx); t; t = ggml_get_next_tensor(ctx, t)) {
                needed += ggml_nbytes(t);
            }
            fail("not enough memory for the weights: ", needed / (1 << 20), " MiB on ", ggml_backend_buft_name(buft));
        }
        buffers_.emplace_back(buffer);
        return buffer;
    }

    const gguf_file & file_;
    std::vector<ggml_context_ptr> & contexts_;
    std::vector<ggml_backend_buffer_ptr> & buffers_;
    ggml_backend_dev_t cpu_;
    ggml_backend_dev_t gpu_;
    std::vector<ggml_backend_buffer_type_t> cpu_extra_;
    std::map<ggml_backend_buffer_type_t, ggml_context *> by_type_;
    std::map<std::pair<ggml_backend_buffer_type_t, std::string>, ggml_tensor *> placed_;
    std::vector<std::pair<ggml_tensor *, const ggml_tensor *>> sources_;  // (ours, the file's)
    std::set<const ggml_tensor *> used_;
};

}  // namespace

ggml_backend_dev_t find_gpu() { return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU); }

weights::weights(const gguf_file & file, const hparams & hp, int64_t n_gpu_layers_wanted) {
    silence_ggml();
    const int64_t offload = find_gpu() ? std::min(n_gpu_layers_wanted, hp.n_layer + 1) : 0;
    n_gpu_layers = std::min(offload, hp.n_layer);
    loader load(file, contexts_, buffers_);

    token_embd = load.add(keys::token_embd, {hp.n_embd, hp.n_vocab}, use::lookup, false);
    const bool output_on_gpu = offload > hp.n_layer;
    output_norm = load.add(keys::output_norm, {hp.n_embd}, use::vector, output_on_gpu);
    const char * output_name = file.find_tensor(keys::output) ? keys::output : keys::token_embd;  // tied when absent
    output = load.add(output_name, {hp.n_embd, hp.n_vocab}, use::matrix, output_on_gpu);

    for (int64_t il = 0; il < hp.n_layer; ++il) {
        layer_weights l;
        l.on_gpu = il >= hp.n_layer - n_gpu_layers;
        const auto get = [&](const char * part, const std::vector<int64_t> & shape, use purpose) {
            return load.add(keys::blk(il, part), shape, purpose, l.on_gpu);
        };
        const auto find_bias = [&](const char * part, int64_t size) {
            return load.add_optional(keys::blk(il, part), {size}, use::vector, l.on_gpu);
        };
        l.attn_norm = get("attn_norm.weight", {hp.n_embd}, use::vector);
        l.wq = get("attn_q.weight", {hp.n_embd, hp.n_embd_q()}, use::matrix);
        l.wk = get("attn_k.weight", {hp.n_embd, hp.n_embd_kv()}, use::matrix);
        l.wv = get("attn_v.weight", {hp.n_embd, hp.n_embd_kv()}, use::matrix);
        l.wo = get("attn_output.weight", {hp.n_embd_q(), hp.n_embd}, use::matrix);
        l.bq = find_bias("attn_q.bias", hp.n_embd_q());
        l.bk = find_bias("attn_k.bias", hp.n_embd_kv());
        l.bv = find_bias("attn_v.bias", hp.n_embd_kv());
        l.bo = find_bias("attn_output.bias", hp.n_embd);
        l.ffn_norm = get("ffn_norm.weight", {hp.n_embd}, use::vector);
        l.ffn_gate = get("ffn_gate.weight", {hp.n_embd, hp.n_ff}, use::matrix);
        l.ffn_up = get("ffn_up.weight", {hp.n_embd, hp.n_ff}, use::matrix);
        l.ffn_down = get("ffn_down.weight", {hp.n_ff, hp.n_embd}, use::matrix);
        l.b_gate = find_bias("ffn_gate.bias", hp.n_ff);
        l.b_up = find_bias("ffn_up.bias", hp.n_ff);
        l.b_down = find_bias("ffn_down.bias", hp.n_embd);
        l.rope_freqs = load.add_optional(keys::rope_freqs, {hp.n_rot / 2}, use::vector, l.on_gpu);
        layers.push_back(l);
    }
    refuse_unused_tensors(file, load.used());
    load.fill();

    for (const ggml_context_ptr & ctx : contexts_) {
        for (ggml_tensor * t = ggml_get_first_tensor(ctx.get()); t; t = ggml_get_next_tensor(ctx.get(), t)) {
            const bool repeated = t == output && output_name == keys::token_embd && output != token_embd;
            n_params += repeated ? 0 : static_cast<uint64_t>(ggml_nelements(t));
            bytes += repeated ? 0 : ggml_nbytes(t);
        }
    }
}

}  // namespace livekv
