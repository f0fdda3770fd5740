#include <deque>

#include "atomic_file.h"
#include "error.h"
#include "model/ggml_memory.h"
#include "store/kv_file.h"
#include "store/kv_file_names.h"
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
        : gguf_(gguf_init_empty()), tensors_(make_ggml_context(n_tensors * ggml_tensor_overhead())) {}

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
    void write(const std::string & path, bool sync) {
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
        file.commit(sync);
    }

  private:
    gguf_context_ptr gguf_;
    ggml_context_ptr tensors_;
    std::vector<std::vector<bytes>> data_;
    std::deque<std::vector<uint8_t>> owned_;
};

void add_keys(gguf_context * g, const char * architecture, const model_facts & model, const kv_texts & options,
              std::span<const int32_t> tokens) {
    gguf_set_val_u64(g, kv_names::checksum, 0);
    gguf_set_val_str(g, kv_names::architecture, architecture);
    gguf_set_val_u32(g, kv_names::version, kv_names::file_version);
    gguf_set_val_u32(g, kv_names::block_version, kv_block_version);
    for (const auto & [name, value] : model) {
        gguf_set_val_str(g, kv_names::model(name).c_str(), value.c_str());
    }
    for (const auto & [name, value] : options) {
        gguf_set_val_str(g, (kv_names::option_prefix + name).c_str(), value.c_str());
    }
    gguf_set_arr_data(g, kv_names::tokens, GGUF_TYPE_INT32, tokens.data(), tokens.size());
}

void add_rows(container & out, const std::string & name, const raw_rows & rows, int64_t row, int64_t n) {
    if (n > 0) {
        const size_t n_values = static_cast<size_t>(n * row);
        out.add(name + ".k", GGML_TYPE_F16, row, n, {bytes_of(std::span(rows.k.data(), n_values))});
        out.add(name + ".v", GGML_TYPE_F16, row, n, {bytes_of(std::span(rows.v.data(), n_values))});
    }
}

// The pages of one side, or the states, one after the other.
void add_pages(container & out, const std::string & name, ggml_type type, std::vector<bytes> pages) {
    size_t n = 0;
    for (const bytes & one : pages) {
        n += one.size();
    }
    if (n > 0) {
        const int64_t n_rows = type == GGML_TYPE_I8 ? 1 : static_cast<int64_t>(pages.size());
        out.add(name, type, static_cast<int64_t>(n / ggml_type_size(type)) / n_rows, n_rows, std::move(pages));
    }
}

constexpr size_t tensors_of_layer = 10;  // at most

void add_layer(container & out, const kv_layer & layer, int64_t il) {
    std::vector<int32_t> facts;  // [n_chunks, 7]
    std::vector<bytes> k;
    std::vector<bytes> v;
    std::vector<bytes> states;
    for (const kv_chunk & c : layer.chunks) {
        if (c.given_back()) {
            facts.insert(facts.end(), {c.n_stored, c.n_tokens, kv_names::given_back, kv_names::given_back, c.n_sinks, 0,
                                       c.from_one_pass});
            continue;
        }
        facts.insert(facts.end(),
                     {c.n_stored, c.n_tokens, c.k.sealed(), c.v.sealed(), c.n_sinks, c.state ? 1 : 0, c.from_one_pass});
        k.push_back({c.k.bytes->data(), c.k.bytes->bytes()});
        v.push_back({c.v.bytes->data(), c.v.bytes->bytes()});
        if (c.state) {
            states.push_back({c.state->data(), c.state->bytes()});
        }
    }
    const int64_t row = static_cast<int64_t>(layer.row());
    if (!layer.chunks.empty()) {
        out.add(kv_names::blk(il, "chunks"), GGML_TYPE_I32, 7, static_cast<int64_t>(layer.chunks.size()), facts);
        add_pages(out, kv_names::blk(il, "k"), GGML_TYPE_I8, std::move(k));
        add_pages(out, kv_names::blk(il, "v"), GGML_TYPE_I8, std::move(v));
        add_pages(out, kv_names::blk(il, "states"), layer.state_is_f16 ? GGML_TYPE_F16 : GGML_TYPE_F32,
                  std::move(states));
        const kv_chunk & front = layer.chunks.front();
        add_rows(out, kv_names::blk(il, "sinks"), layer.sinks, row, front.given_back() ? 0 : front.n_sinks);
    }
    add_rows(out, kv_names::blk(il, "tail"), layer.tail, row, layer.n_tail_rows());
    if (layer.n_tail > 0 && !layer.tail_queries.empty()) {
        const std::span<const uint8_t> rows(layer.tail_queries.data(), static_cast<size_t>(layer.n_tail * row));
        out.add(kv_names::blk(il, "tail.q"), GGML_TYPE_I8, row, layer.n_tail, std::vector<bytes>{bytes_of(rows)});
    }
    if (layer.n_tail > 0 && !layer.tail_weights.empty()) {
        const std::span<const float> weights(layer.tail_weights.data(), static_cast<size_t>(layer.n_tail));
        out.add(kv_names::blk(il, "tail.w"), GGML_TYPE_F32, layer.n_tail, 1, std::vector<bytes>{bytes_of(weights)});
    }
}

void add_layers(container & out, std::span<const kv_layer> layers, size_t n_tokens) {
    for (size_t il = 0; il < layers.size(); ++il) {
        LIVEKV_ASSERT(layers[il].n_tokens() == static_cast<int64_t>(n_tokens) && !layers[il].where->on_device());
        add_layer(out, layers[il], static_cast<int64_t>(il));
    }
}

}  // namespace

void write_kv_file(const std::string & path, const model_facts & model, const kv_texts & options,
                   std::span<const kv_layer> layers, std::span<const int32_t> tokens, std::span<const float> logits) {
    if (tokens.empty()) {
        fail("cannot save '", path, "': the sequence is empty");
    }
    container out(1 + tensors_of_layer * layers.size());
    add_keys(out.keys(), kv_names::architecture_name, model, options, tokens);
    if (!logits.empty()) {
        out.add(kv_names::logits, GGML_TYPE_F32, static_cast<int64_t>(logits.size()), 1, {bytes_of(logits)});
    }
    add_layers(out, layers, tokens.size());
    out.write(path, /*sync=*/true);
}

void write_kv_piece(const std::string & path, const model_facts & model, const kv_texts & options,
                    std::span<const kv_layer> layers, std::span<const int32_t> before,
                    std::span<const int32_t> tokens) {
    container out(tensors_of_layer * layers.size());
    add_keys(out.keys(), kv_names::piece_architecture_name, model, options, tokens);
    if (!before.empty()) {
        gguf_set_arr_data(out.keys(), kv_names::before, GGUF_TYPE_INT32, before.data(), before.size());
    }
    add_layers(out, layers, tokens.size());
    out.write(path, /*sync=*/false);
}

}  // namespace livekv
