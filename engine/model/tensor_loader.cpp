#include "model/tensor_loader.h"

#include <ggml-cpu.h>

#include <algorithm>
#include <cstring>

#include "error.h"
#include "fork_gate.h"
#include "model/ggml_memory.h"

namespace livekv {

namespace {

bool computes_with(ggml_backend_dev_t device, const ggml_tensor * tensor, tensor_use purpose,
                   ggml_backend_buffer_type_t buft) {
    const ggml_context_ptr ctx = make_ggml_context(8 * ggml_tensor_overhead());
    ggml_tensor * w = ggml_dup_tensor(ctx.get(), tensor);
    // Repacked layouts are recognised by the weight's buffer, which an empty one stands in for.
    ggml_backend_buffer_ptr buffer(ggml_backend_buft_alloc_buffer(buft, 0));
    if (!buffer) {
        fail("not enough memory for the weights");
    }
    w->buffer = buffer.get();
    ggml_tensor * op = nullptr;
    if (purpose == tensor_use::matrix) {
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

ggml_backend_dev_t cpu_device() {
    const ggml_loan loan(64 << 10);  // the first call registers devices
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
}

ggml_backend_buffer_type_t mapped_type() {
    return ggml_backend_cpu_buffer_type();
}

}  // namespace

tensor_loader::tensor_loader(const gguf_file & file, ggml_backend_dev_t gpu, packed_weights * packed, bool as_f32,
                             std::vector<ggml_context_ptr> & contexts, std::vector<ggml_backend_buffer_ptr> & buffers)
    : file_(file),
      packed_(packed),
      as_f32_(as_f32),
      contexts_(contexts),
      buffers_(buffers),
      cpu_(cpu_device()),
      gpu_(gpu),
      cpu_extra_(extra_buffer_types(cpu_)) {}

ggml_tensor * tensor_loader::add(const std::string & name, const std::vector<int64_t> & shape, tensor_use purpose,
                                 bool on_gpu) {
    const ggml_tensor * source = file_.get_tensor(name, shape);
    check_type(source, purpose);
    if (purpose == tensor_use::vector && !on_gpu) {
        // Copied: in the mapping each would keep a huge page, where the page cache has those.
        used_.insert(source);
        std::vector<float> values(static_cast<size_t>(ggml_nelements(source)));
        std::memcpy(values.data(), file_.tensor_data(source), ggml_nbytes(source));
        return add_values(name, values, false);
    }
    const bool pack = packed_ && !on_gpu && purpose == tensor_use::matrix && packed_weights::type_of(source);
    ggml_backend_buffer_type_t buft = pack     ? nullptr
                                      : on_gpu ? ggml_backend_dev_buffer_type(gpu_)
                                               : choose_on_cpu(source, purpose);
    if (ggml_tensor * again = placed_[{buft, name}]) {
        return again;
    }
    ggml_tensor * tensor =
        ggml_new_tensor(context(buft), as_f32_ ? GGML_TYPE_F32 : source->type, GGML_MAX_DIMS, source->ne);
    ggml_set_name(tensor, source->name);
    used_.insert(source);
    placed_[{buft, name}] = tensor;
    if (pack) {
        packed_->add(tensor, source);
    } else {
        sources_.emplace_back(tensor, source);
    }
    return tensor;
}

ggml_tensor * tensor_loader::add_optional(const std::string & name, const std::vector<int64_t> & shape,
                                          tensor_use purpose, bool on_gpu) {
    return file_.find_tensor(name) ? add(name, shape, purpose, on_gpu) : nullptr;
}

ggml_tensor * tensor_loader::add_values(const std::string & name, const std::vector<float> & values, bool on_gpu) {
    ggml_backend_buffer_type_t buft = on_gpu ? ggml_backend_dev_buffer_type(gpu_) : mapped_type();
    ggml_tensor *& tensor = placed_[{buft, name}];
    if (!tensor) {
        ggml_context *& ctx = computed_by_type_[buft];
        ctx = ctx ? ctx : new_context();
        tensor = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, static_cast<int64_t>(values.size()));
        ggml_set_name(tensor, name.c_str());
        computed_.push_back({tensor, values});
    }
    return tensor;
}

void tensor_loader::note_used(const char * name) {
    if (const ggml_tensor * source = file_.find_tensor(name)) {
        used_.insert(source);
    }
}

void tensor_loader::fill() {
    if (packed_) {
        const fork_gate::outside no_locks;
        packed_->fill(file_);
    }
    const size_t first = buffers_.size();
    for (auto & [buft, ctx] : computed_by_type_) {
        allocate(ctx, buft);
    }
    for (const computed & c : computed_) {
        ggml_backend_tensor_set(c.tensor, c.values.data(), 0, c.values.size() * sizeof(float));
    }
    for (auto & [buft, ctx] : by_type_) {
        if (!buft) {
            continue;  // packed
        }
        if (buft == mapped_type() && can_be_mapped(ctx)) {
            map(ctx);
        } else {
            allocate(ctx, buft);
        }
    }
    for (size_t i = first; i < buffers_.size(); ++i) {
        ggml_backend_buffer_set_usage(buffers_[i].get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    }
    const fork_gate::outside no_locks;  // it takes as long as reading the file does
    for (auto [tensor, source] : sources_) {
        if (tensor->data != file_.tensor_data(source)) {  // else it is the mapping itself
            if (tensor->type != source->type) {
                copy_as_f32(tensor, source);
            } else {
                ggml_backend_tensor_set(tensor, file_.tensor_data(source), 0, ggml_nbytes(source));
            }
            file_.release(source);
        }
    }
}

void tensor_loader::check_type(const ggml_tensor * source, tensor_use purpose) const {
    const bool is_float = source->type == GGML_TYPE_F32;
    const bool known = purpose == tensor_use::vector ? is_float
                                                     : is_float || (ggml_get_type_traits(source->type)->to_float &&
                                                                    ggml_get_type_traits_cpu(source->type)->vec_dot);
    if (!known) {
        fail("'", file_.path(), "': tensor '", source->name, "' has type ", ggml_type_name(source->type),
             purpose == tensor_use::vector ? ", expected f32" : ", which ggml cannot compute with");
    }
}

ggml_backend_buffer_type_t tensor_loader::choose_on_cpu(const ggml_tensor * source, tensor_use purpose) const {
    if (purpose == tensor_use::matrix && !as_f32_) {
        for (ggml_backend_buffer_type_t buft : cpu_extra_) {
            if (computes_with(cpu_, source, purpose, buft)) {
                return buft;
            }
        }
    }
    return mapped_type();
}

ggml_context * tensor_loader::context(ggml_backend_buffer_type_t buft) {
    ggml_context *& ctx = by_type_[buft];
    ctx = ctx ? ctx : new_context();
    return ctx;
}

ggml_context * tensor_loader::new_context() {
    const size_t n_tensors = static_cast<size_t>(file_.n_tensors()) + 2;  // output may repeat token_embd
    contexts_.push_back(make_ggml_context(n_tensors * ggml_tensor_overhead()));
    ggml_context * ctx = contexts_.back().get();
    return ctx;
}

// ggml's kernels need data that is aligned, and the file has no f32 of what is stored otherwise.
bool tensor_loader::can_be_mapped(ggml_context * ctx) const {
    if (as_f32_) {
        return false;
    }
    const uintptr_t alignment = ggml_backend_buft_get_alignment(mapped_type());
    return std::ranges::all_of(sources_, [&](const auto & s) {
        return ggml_get_tensor(ctx, s.first->name) != s.first ||
               reinterpret_cast<uintptr_t>(file_.tensor_data(s.second)) % alignment == 0;
    });
}

// The tensors of ctx point into the mapping of the file that each lies in: nothing is read until it is used.
void tensor_loader::map(ggml_context * ctx) {
    for (size_t part = 0; part < file_.n_parts(); ++part) {
        const uint8_t * first = nullptr;
        const uint8_t * last = nullptr;
        std::vector<std::pair<ggml_tensor *, const uint8_t *>> inside;
        for (auto [tensor, source] : sources_) {
            if (ggml_get_tensor(ctx, tensor->name) != tensor || file_.part_of(source) != part) {
                continue;
            }
            const uint8_t * data = file_.tensor_data(source);
            first = first ? std::min(first, data) : data;
            last = std::max(last, data + ggml_nbytes(source));
            inside.emplace_back(tensor, data);
        }
        if (inside.empty()) {
            continue;
        }
        ggml_backend_buffer_t buffer =
            ggml_backend_cpu_buffer_from_ptr(const_cast<uint8_t *>(first), static_cast<size_t>(last - first));
        if (!buffer) {
            fail("not enough memory for the weights");
        }
        buffers_.emplace_back(buffer);
        for (auto [tensor, data] : inside) {
            ggml_backend_tensor_alloc(buffer, tensor, const_cast<uint8_t *>(data));
        }
    }
}

void tensor_loader::allocate(ggml_context * ctx, ggml_backend_buffer_type_t buft) {
    ggml_backend_buffer_ptr buffer = allocate_tensors(ctx, buft);
    if (!buffer) {
        size_t needed = 0;
        for (ggml_tensor * t = ggml_get_first_tensor(ctx); t; t = ggml_get_next_tensor(ctx, t)) {
            needed += ggml_nbytes(t);
        }
        fail("not enough memory for the weights: ", needed / (1 << 20), " MiB on ", ggml_backend_buft_name(buft));
    }
    buffers_.push_back(std::move(buffer));
}

// Row by row: of a large matrix no more than a row is there twice.
void tensor_loader::copy_as_f32(ggml_tensor * tensor, const ggml_tensor * source) const {
    const auto to_float = ggml_get_type_traits(source->type)->to_float;
    std::vector<float> row(static_cast<size_t>(source->ne[0]));
    const size_t row_bytes = row.size() * sizeof(float);
    const uint8_t * from = file_.tensor_data(source);
    for (int64_t i = 0; i < ggml_nrows(source); ++i) {
        to_float(from + static_cast<size_t>(i) * source->nb[1], row.data(), source->ne[0]);
        ggml_backend_tensor_set(tensor, row.data(), static_cast<size_t>(i) * row_bytes, row_bytes);
    }
}

}  // namespace livekv
