#include <deque>

#include "atomic_file.h"
#include "cache/kv_file.h"
#include "cache/kv_file_names.h"
#include "cache/kv_option_table.h"
#include "cache/livekv_cache.h"
#include "error.h"
#include "xxh64.h"

namespace livekv {

namespace {

using bytes = std::span<const uint8_t>;

template <typename T>
bytes bytes_of(const T & values) {
    return {reinterpret_cast<const uint8_t *>(values.data()), values.size() * sizeof(*values.data())};
}

// A GGUF file whose tensors' data lies scattered in memory and goes straight from there to the disk.
class container {
  public:
    explicit container(size_t n_tensors)
        : gguf_(gguf_init_empty()),
          tensors_(ggml_init({n_tensors * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true})) {}

    gguf_context * keys() { return gguf_.get(); }

    // pieces: the data, in order; must live until write.
    void add(const std::string & name, ggml_type type, int64_t ne0, int64_t ne1, std::vector<bytes> pieces) {
        ggml_tensor * t = ggml_new_tensor_2d(tensors_.get(), type, ne0, ne1);
        ggml_set_name(t, name.c_str());
        gguf_add_tensor(gguf_.get(), t);
        size_t n = 0;
        for (const bytes & piece : pieces) {
            n += piece.size();
        }
        LIVEKV_ASSERT(n == ggml_nbytes(t));
        data_.push_back(std::move(pieces));
    }

    // The same with values that live as long as the container.
    template <typename T>
    void add(const std::string & name, ggml_type type, int64_t ne0, int64_t ne1, const std::vector<T> & values) {
        const bytes view = bytes_of(values);
        owned_.emplace_back(view.begin(), view.end());
        add(name, type, ne0, ne1, std::vector<bytes>{bytes_of(owned_.back())});
    }

    // The checksum is the first key, and 0 until everything else is written.
    void write(const std::string & path) {
        atomic_file file(path);
        xxh64 hash;
        const auto append = [&](bytes part) {
            hash.update(part);
            file.append(part);
        };
        std::vector<uint8_t> head(gguf_get_meta_size(gguf_.get()));
        gguf_get_meta_data(gguf_.get(), head.data());
        append(head);
        const std::vector<uint8_t> zeros(gguf_get_alignment(gguf_.get()));
        for (const std::vector<bytes> & pieces : data_) {
            size_t n = 0;
            for (const bytes & piece : pieces) {
                append(piece);
                n += piece.size();
            }
            append(bytes(zeros).first((zeros.size() - n % zeros.size()) % zeros.size()));
        }
        const uint64_t sum[] = {hash.digest()};
        file.overwrite(kv_names::checksum_at(), bytes_of(std::span(sum)));
        file.commit();
    }

  private:
    gguf_context_ptr gguf_;
    ggml_context_ptr tensors_;
    std::vector<std::vector<bytes>> data_;
    std::deque<std::vector<uint8_t>> owned_;
};

void add_keys(gguf_context * g, kv_options options, const model_facts & model, std::span<const int32_t> tokens) {
    gguf_set_val_u64(g, kv_names::checksum, 0);
    gguf_set_val_str(g, kv_names::architecture, kv_names::architecture_name);
    gguf_set_val_u32(g, kv_names::version, kv_names::file_version);
    gguf_set_val_u32(g, kv_names::block_version, kv_block_version);
    for (const auto & [name, value] : model) {
        gguf_set_val_str(g, kv_names::model(name).c_str(), value.c_str());
    }
    option_table table;
    declare_kv_options(table, options, /*policy_is_list=*/false);
    for (const option & o : table.all()) {
        if (!o.initial.empty()) {
            gguf_set_val_str(g, kv_names::option(o.name).c_str(), o.initial.c_str());
        }
    }
    gguf_set_arr_data(g, kv_names::tokens, GGUF_TYPE_INT32, tokens.data(), tokens.size());
}

}  // namespace

void livekv_file::write(const std::string & path, const kv_cache & any_cache, const model_facts & model,
                        std::span<const int32_t> tokens, std::span<const float> logits) {
    const auto * cache = dynamic_cast<const livekv_cache *>(&any_cache);
    if (!cache) {
        fail("cannot save '", path, "': only the livekv cache can be saved");
    }
    if (tokens.empty()) {
        fail("cannot save '", path, "': the sequence is empty");
    }
    LIVEKV_ASSERT(static_cast<int64_t>(tokens.size()) == cache->n_tokens());
    std::unique_ptr<livekv_cache> on_host;
    if (cache->device_workspace_) {  // the file is the same, wherever the cache is
        kv_shape shape = cache->shape_;
        shape.on_device.clear();
        on_host.reset(new livekv_cache(*cache, shape));
        cache = on_host.get();
    }
    container out(2 + 9 * cache->layers_.size());
    add_keys(out.keys(), cache->options_, model, tokens);
    if (!logits.empty()) {
        out.add(kv_names::logits, GGML_TYPE_F32, static_cast<int64_t>(logits.size()), 1, {bytes_of(logits)});
    }
    const int64_t n_chunks = static_cast<int64_t>(cache->layers_.front().chunks_.size());
    std::vector<int32_t> sizes;  // [n_chunks, 2]
    for (const livekv_layer::chunk & c : cache->layers_.front().chunks_) {
        sizes.insert(sizes.end(), {c.n_stored, c.n_tokens});
    }
    if (n_chunks > 0) {
        out.add(kv_names::chunks, GGML_TYPE_I32, 2, n_chunks, sizes);
    }
    for (size_t i = 0; i < cache->layers_.size(); ++i) {
        const livekv_layer & layer = cache->layers_[i];
        const int64_t il = static_cast<int64_t>(i);
        const int64_t row = static_cast<int64_t>(layer.plan_.row());
        const auto add_rows = [&](const std::string & part, const raw_rows & rows, int64_t n) {
            const size_t n_values = static_cast<size_t>(n * row);
            if (n > 0) {
                out.add(kv_names::blk(il, part + ".k"), GGML_TYPE_F16, row, n,
                        {bytes_of(std::span(rows.k.data(), n_values))});
                out.add(kv_names::blk(il, part + ".v"), GGML_TYPE_F16, row, n,
                        {bytes_of(std::span(rows.v.data(), n_values))});
            }
        };
        std::vector<int32_t> kinds;  // [n_chunks, 3]
        std::vector<bytes> k;
        std::vector<bytes> v;
        size_t k_bytes = 0;
        size_t v_bytes = 0;
        LIVEKV_ASSERT(layer.chunks_.size() * 2 == sizes.size());
        for (size_t c = 0; c < layer.chunks_.size(); ++c) {
            const livekv_layer::chunk & chunk = layer.chunks_[c];
            LIVEKV_ASSERT(chunk.n_stored == sizes[2 * c] && chunk.n_tokens == sizes[2 * c + 1]);
            kinds.insert(kinds.end(), {chunk.k_sealed, chunk.v_sealed, chunk.n_sinks});
            k.push_back({chunk.k->data(), chunk.k->bytes()});
            v.push_back({chunk.v->data(), chunk.v->bytes()});
            k_bytes += chunk.k->bytes();
            v_bytes += chunk.v->bytes();
        }
        if (n_chunks > 0) {
            out.add(kv_names::blk(il, "chunks"), GGML_TYPE_I32, 3, n_chunks, kinds);
            out.add(kv_names::blk(il, "k"), GGML_TYPE_I8, static_cast<int64_t>(k_bytes), 1, std::move(k));
            out.add(kv_names::blk(il, "v"), GGML_TYPE_I8, static_cast<int64_t>(v_bytes), 1, std::move(v));
            add_rows("sinks", layer.sinks_, layer.chunks_.front().n_sinks);
        }
        add_rows("tail", layer.tail_, layer.n_tail_);
        std::vector<float> states;    // [n_head_kv, 3 * head_dim]
        std::vector<int32_t> n_seen;  // [n_head_kv]
        for (const key_statistics & statistics : layer.statistics_) {
            const std::vector<float> state = statistics.state();
            states.insert(states.end(), state.begin(), state.end());
            n_seen.push_back(static_cast<int32_t>(statistics.n_chunks()));
        }
        out.add(kv_names::blk(il, "statistics"), GGML_TYPE_F32, 3 * layer.plan_.head_dim, layer.plan_.n_head_kv,
                states);
        out.add(kv_names::blk(il, "statistics.n"), GGML_TYPE_I32, layer.plan_.n_head_kv, 1, n_seen);
    }
    out.write(path);
}

}  // namespace livekv
