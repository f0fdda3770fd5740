#include <algorithm>
#include <cmath>
#include <cstring>

#include "cache/kv_file.h"
#include "cache/kv_file_names.h"
#include "cache/kv_option_table.h"
#include "cache/livekv_cache.h"
#include "error.h"
#include "finite.h"
#include "kv/kv_check.h"
#include "kv/kv_pack.h"
#include "xxh64.h"

namespace livekv {

namespace {

constexpr float f16_max = 65504.0f;  // running statistics of f16 values are never larger

template <typename T>
T load(const uint8_t * bytes, size_t i) {
    T value;
    std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
    return value;
}

}  // namespace

template <typename... Parts>
void livekv_file::refuse(const Parts &... parts) const {
    fail("'", file_.path(), "': ", parts...);
}

livekv_file::livekv_file(const std::string & path) : file_(path) {
    // The version before the checksum, so that a newer file is called newer, whatever else changed in it.
    if (file_.find_string(kv_names::architecture) != kv_names::architecture_name) {
        refuse("not a saved cache");
    }
    const uint32_t version = file_.get_u32(kv_names::version);
    if (version != kv_names::file_version) {
        refuse("written by ", version > kv_names::file_version ? "a newer" : "an older", " livekv (file version ",
               version, ", this one reads ", kv_names::file_version, ")");
    }
    verify_checksum();
    const uint32_t blocks = file_.get_u32(kv_names::block_version);
    if (blocks != kv_block_version) {
        refuse("its blocks have format version ", blocks, ", this livekv reads ", kv_block_version);
    }
    read_options();
    tokens_ = file_.get_ints(kv_names::tokens);
    if (tokens_.empty()) {
        refuse("it holds no tokens");
    }
}

void livekv_file::verify_checksum() const {
    const std::span<const uint8_t> all = file_.contents();
    const size_t at = kv_names::checksum_at();
    const std::string name = kv_names::checksum;
    std::vector<uint8_t> head(at - kv_names::first_key);  // length, name, type
    const uint64_t length = name.size();
    const uint32_t type = GGUF_TYPE_UINT64;
    std::memcpy(head.data(), &length, sizeof(length));
    std::copy(name.begin(), name.end(), head.begin() + sizeof(length));
    std::memcpy(head.data() + head.size() - sizeof(type), &type, sizeof(type));
    constexpr uint8_t zeros[sizeof(uint64_t)] = {};
    if (all.size() < at + sizeof(zeros) || !std::equal(head.begin(), head.end(), all.begin() + kv_names::first_key)) {
        refuse("its checksum is not where it belongs: the file was changed");
    }
    xxh64 hash;
    hash.update(all.first(at));
    hash.update(zeros);
    hash.update(all.subspan(at + sizeof(zeros)));
    if (hash.digest() != load<uint64_t>(all.data() + at, 0)) {
        refuse("its checksum is wrong: the file was changed or damaged");
    }
}

void livekv_file::read_options() {
    option_table table;
    declare_kv_options(table, options_, /*policy_is_list=*/false);
    for (const option & o : table.all()) {
        if (!o.initial.empty()) {
            const std::string value = file_.get_string(kv_names::option(o.name));
            try {
                o.set(value);
            } catch (const error & problem) {
                refuse(problem.what());
            }
        }
    }
    if (options_.policy != "livekv") {
        refuse("it holds a cache of policy '", options_.policy, "', only livekv can be restored");
    }
    try {
        options_.check();
    } catch (const error & problem) {
        refuse(problem.what());
    }
}

void livekv_file::require_model(const model_facts & model) const {
    for (const auto & [name, value] : model) {
        const std::string saved = file_.get_string(kv_names::model(name));
        if (saved == value) {
            continue;
        }
        if (name == "weights") {
            refuse("made with another model: the shape is the same, the weights are not");
        }
        if (name == "vocabulary") {
            refuse("made with another model: the weights are the same, the vocabulary is not");
        }
        refuse("made with another model: its ", name, " was ", saved, ", this one's is ", value);
    }
}

const uint8_t * livekv_file::data(const std::string & name, ggml_type type, const std::vector<int64_t> & shape) const {
    const ggml_tensor * t = file_.get_tensor(name, shape);
    if (t->type != type) {
        refuse("tensor '", name, "' has type ", ggml_type_name(t->type), ", expected ", ggml_type_name(type));
    }
    return file_.tensor_data(t);
}

std::vector<float> livekv_file::logits(int64_t n_vocab) const {
    if (!file_.find_tensor(kv_names::logits)) {
        return {};
    }
    const uint8_t * from = data(kv_names::logits, GGML_TYPE_F32, {n_vocab});
    std::vector<float> values(static_cast<size_t>(n_vocab));
    std::memcpy(values.data(), from, values.size() * sizeof(float));
    if (first_not_finite(values)) {
        refuse("its logits are not numbers");
    }
    return values;
}

std::vector<livekv_file::chunk_tokens> livekv_file::chunks(int64_t * n_tail) const {
    std::vector<chunk_tokens> sizes;
    int64_t n_tokens = 0;
    if (const ggml_tensor * t = file_.find_tensor(kv_names::chunks)) {
        const int64_t n_chunks = t->ne[1];
        const uint8_t * from = data(kv_names::chunks, GGML_TYPE_I32, {2, n_chunks});
        for (size_t i = 0; i < static_cast<size_t>(n_chunks); ++i) {
            const chunk_tokens c = {load<int32_t>(from, 2 * i), load<int32_t>(from, 2 * i + 1)};
            if (c.n_stored < 1 || c.n_stored > options_.chunk_size || c.n_tokens < 1 || c.n_tokens > c.n_stored) {
                refuse("chunk ", i, " cannot hold ", c.n_tokens, " of ", c.n_stored, " tokens");
            }
            n_tokens += c.n_tokens;
            sizes.push_back(c);
        }
    }
    *n_tail = static_cast<int64_t>(tokens_.size()) - n_tokens;
    if (*n_tail < 0 || *n_tail >= options_.chunk_size) {
        refuse("its chunks hold ", n_tokens, " tokens, but it has ", tokens_.size());
    }
    return sizes;
}

std::vector<uint16_t> livekv_file::rows(const std::string & name, int64_t row, int64_t n) const {
    const uint8_t * from = data(name, GGML_TYPE_F16, {row, n});
    std::vector<uint16_t> values(static_cast<size_t>(row * n));
    std::memcpy(values.data(), from, values.size() * sizeof(uint16_t));
    if (const std::string problem = problem_of_rows(values.data(), values.size()); !problem.empty()) {
        refuse("tensor '", name, "': ", problem);
    }
    return values;
}

void livekv_file::restore_layer(livekv_layer & layer, int64_t il, const std::vector<chunk_tokens> & sizes,
                                int64_t n_tail) const {
    const livekv_layer_plan & plan = layer.plan_;
    const int64_t row = static_cast<int64_t>(plan.row());
    const auto name = [&](const char * part) { return kv_names::blk(il, part); };

    // The next page of a tensor that holds a side's pages one after the other.
    const auto take_page = [&](kv_side side, bool sealed, int32_t n, size_t & at) {
        const std::string tensor = name(side == kv_side::key ? "k" : "v");
        const ggml_tensor * t = file_.find_tensor(tensor);
        if (!t) {
            refuse("tensor '", tensor, "' is missing");
        }
        std::shared_ptr<kv_page> page = layer.make_page(side, sealed, n);
        const uint8_t * from = data(tensor, GGML_TYPE_I8, {t->ne[0]});
        const size_t available = static_cast<size_t>(t->ne[0]);
        if (page->bytes() > available - at) {
            refuse("tensor '", tensor, "' has ", available, " bytes, its chunks need more");
        }
        std::memcpy(page->data(), from + at, page->bytes());
        at += page->bytes();
        std::string problem;
        if (sealed) {
            const kv_block_header header = block_header(plan.method, side, n, plan.head_dim);
            for (int64_t head = 0; head < plan.n_head_kv && problem.empty(); ++head) {
                problem = problem_of_block(layer.block_of(*page, head), header);
            }
        } else {
            problem = problem_of_rows(reinterpret_cast<const uint16_t *>(page->data()), page->bytes() / 2);
        }
        if (!problem.empty()) {
            refuse("tensor '", tensor, "': ", problem);
        }
        return page;
    };

    size_t k_at = 0;
    size_t v_at = 0;
    const int64_t n_chunks = static_cast<int64_t>(sizes.size());
    const uint8_t * kinds = n_chunks > 0 ? data(name("chunks"), GGML_TYPE_I32, {3, n_chunks}) : nullptr;
    for (size_t i = 0; i < sizes.size(); ++i) {
        const int32_t k_sealed = load<int32_t>(kinds, 3 * i);
        const int32_t v_sealed = load<int32_t>(kinds, 3 * i + 1);
        livekv_layer::chunk c;
        c.n_sinks = load<int32_t>(kinds, 3 * i + 2);
        c.n_stored = sizes[i].n_stored;
        c.n_tokens = sizes[i].n_tokens;
        const int32_t max_sinks = i == 0 ? std::min(plan.method.sink_tokens, c.n_stored) : 0;
        const int32_t max_sealed = plan.seals ? 1 : 0;
        if (k_sealed < 0 || k_sealed > max_sealed || v_sealed < 0 || v_sealed > max_sealed || c.n_sinks < 0 ||
            c.n_sinks > max_sinks) {
            refuse("chunk ", i, " of layer ", il, " is not what the options ask for");
        }
        c.k_sealed = k_sealed == 1;
        c.v_sealed = v_sealed == 1;
        c.k = take_page(kv_side::key, c.k_sealed, c.n_stored, k_at);
        c.v = take_page(kv_side::value, c.v_sealed, c.n_stored, v_at);
        layer.n_chunked_ += c.n_tokens;
        layer.chunks_.push_back(std::move(c));
    }
    for (const char * side : {"k", "v"}) {
        if (n_chunks > 0) {
            file_.release(file_.find_tensor(name(side)));
        }
    }
    if (const int64_t n_sinks = n_chunks > 0 ? layer.chunks_.front().n_sinks : 0; n_sinks > 0) {
        layer.sinks_.k = rows(name("sinks.k"), row, n_sinks);
        layer.sinks_.v = rows(name("sinks.v"), row, n_sinks);
    }
    if (n_tail > 0) {
        layer.tail_.k = rows(name("tail.k"), row, n_tail);
        layer.tail_.v = rows(name("tail.v"), row, n_tail);
    }
    layer.n_tail_ = n_tail;

    const uint8_t * states = data(name("statistics"), GGML_TYPE_F32, {3 * plan.head_dim, plan.n_head_kv});
    const uint8_t * n_seen = data(name("statistics.n"), GGML_TYPE_I32, {plan.n_head_kv});
    std::vector<float> state(static_cast<size_t>(3 * plan.head_dim));
    for (size_t head = 0; head < layer.statistics_.size(); ++head) {
        std::memcpy(state.data(), states + head * state.size() * sizeof(float), state.size() * sizeof(float));
        const auto bounds = state.begin() + 2 * plan.head_dim;
        const bool sane = std::all_of(state.begin(), bounds, [](float x) { return std::fabs(x) <= f16_max; }) &&
                          std::none_of(bounds, state.end(), [](float x) { return std::isnan(x); });
        const int32_t n = load<int32_t>(n_seen, head);
        if (!sane || n < 0) {
            refuse("the statistics of layer ", il, " are not numbers that keys can have");
        }
        layer.statistics_[head].set_state(n, state);
    }
}

std::unique_ptr<kv_cache> livekv_file::restore(const kv_shape & shape, int64_t n_vocab, bool measure_error) const {
    const int64_t n_tokens = static_cast<int64_t>(tokens_.size());
    if (n_tokens > shape.n_ctx) {
        refuse("it holds ", n_tokens, " tokens, the context only ", shape.n_ctx, "; use a longer one (-c)");
    }
    for (const int32_t token : tokens_) {
        if (token < 0 || token >= n_vocab) {
            refuse("token id ", token, " is not in the model's vocabulary of ", n_vocab);
        }
    }
    kv_options options = options_;
    options.measure_error = measure_error;
    kv_shape on_host = shape;
    on_host.on_device.clear();
    auto cache = std::make_unique<livekv_cache>(options, on_host);
    int64_t n_tail = 0;
    const std::vector<chunk_tokens> sizes = chunks(&n_tail);
    for (size_t il = 0; il < cache->layers_.size(); ++il) {
        restore_layer(cache->layers_[il], static_cast<int64_t>(il), sizes, n_tail);
    }
    if (!shape.on_device.empty()) {
        cache.reset(new livekv_cache(*cache, shape));
    }
    return cache;
}

}  // namespace livekv
