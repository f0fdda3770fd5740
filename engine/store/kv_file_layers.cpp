// The layers of a saved sequence, each number and block checked before it is used.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kv/kv_check.h"
#include "kv/kv_state.h"
#include "kv/level_block.h"
#include "store/kv_file.h"
#include "store/kv_file_names.h"
#include "store/tail_weights.h"

namespace livekv {

namespace {

constexpr uint8_t largest_query_byte = 0x7b;  // the upper half of f16's largest number
constexpr float f16_max = 65504.0f;           // running statistics of f16 values are never larger

constexpr int32_t most_width = 16;  // of a quad of channels in a block of version 3

int32_t format_quads(const kv_layer_format & format) {
    return static_cast<int32_t>(format.head_dim / 4);
}

template <typename T>
T load(const uint8_t * bytes, size_t i) {
    T value;
    std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
    return value;
}

// What is wrong with sealed keys and values of one chunk in blocks of levels, each of which is right; empty: nothing.
std::string problem_of_levels_together(const kv_chunk & c, const kv_layer_format & format) {
    const uint8_t * const first = c.k.bytes->data();
    for (const kv_chunk_side * side : {&c.k, &c.v}) {
        const size_t block_bytes = side->bytes->bytes() / static_cast<size_t>(format.n_head_kv);
        for (int64_t head = 0; head < format.n_head_kv; ++head) {
            const uint8_t * const block = side->bytes->data() + static_cast<size_t>(head) * block_bytes;
            bool alike = same_tokens(block, first);
            for (int32_t i = 0; i < kv_n_levels; ++i) {
                const kv_level level = level_of_block(block, i);
                alike = alike && level.offset == level_of_block(side->bytes->data(), i).offset;
                if (side == &c.k && level.n_tokens > 0 && level.bits < 16 &&
                    load<kv_block_header>(block + level.offset, 0).has_tokens() != format.keys_by_token) {
                    return "the scales of its keys are not what the options ask for";
                }
            }
            if (!alike) {
                return "its heads do not have the same tokens on each level";
            }
        }
    }
    for (int32_t i = 0; i < c.n_sinks; ++i) {
        if (level_of_token(first, i) != kv_no_level) {
            return "a token that is kept exactly is in its blocks, too";
        }
    }
    return "";
}

// Takes one page after the other from a tensor's bytes.
struct page_reader {
    const uint8_t * from;
    size_t n_bytes;
    size_t at = 0;

    bool has(size_t n) const { return n <= n_bytes - at; }
    std::shared_ptr<page> take(size_t n) {
        auto bytes = std::make_shared<page>(host_memory(), n);
        std::memcpy(bytes->data(), from + at, n);
        at += n;
        return bytes;
    }
};

}  // namespace

std::vector<kv_file::chunk_facts> kv_file::chunks_of(int64_t il) const {
    const std::string name = kv_names::blk(il, "chunks");
    const ggml_tensor * t = file_.find_tensor(name);
    if (!t) {
        return {};
    }
    const int64_t n_chunks = t->ne[1];
    const int64_t each = version_ == 2 ? 3 : 7;
    const uint8_t * from = data(name, GGML_TYPE_I32, {each, n_chunks});
    const uint8_t * sizes = version_ == 2 ? data(kv_names::chunks, GGML_TYPE_I32, {2, n_chunks}) : nullptr;
    std::vector<chunk_facts> all;
    for (size_t i = 0; i < static_cast<size_t>(n_chunks); ++i) {
        const auto number = [&](size_t k) { return load<int32_t>(from, static_cast<size_t>(each) * i + k); };
        if (version_ == 2) {
            const int32_t newest = i + 1 == static_cast<size_t>(n_chunks);
            all.push_back({load<int32_t>(sizes, 2 * i), load<int32_t>(sizes, 2 * i + 1), number(0), number(1),
                           number(2), newest, 0});
        } else {
            all.push_back({number(0), number(1), number(2), number(3), number(4), number(5), number(6)});
        }
    }
    return all;
}

std::shared_ptr<page> kv_file::state_page(const kv_layer_format & format, const uint8_t * from, bool from_f16,
                                          int64_t il) const {
    auto state = std::make_shared<page>(host_memory(), format.state_floats * state_number_bytes(format.state_is_f16));
    for (size_t i = 0; i < format.state_floats; ++i) {
        const float x = from_f16 ? f16_to_f32(load<uint16_t>(from, i)) : load<float>(from, i);
        if (!(std::fabs(x) <= f16_max) || (x < 0.0f && !format.state_has_signs)) {
            refuse("the statistics of layer ", il, " are not numbers that keys can have");
        }
        put_state_number(state->data(), format.state_is_f16, i, x);
    }
    return state;
}

void kv_file::read_states(kv_layer & layer, const kv_layer_format & format, const std::vector<chunk_facts> & facts,
                          int64_t il) const {
    const size_t n_floats = format.state_floats;
    const auto known = static_cast<int64_t>(
        std::count_if(facts.begin(), facts.end(), [](const chunk_facts & f) { return f.has_state == 1; }));
    if (n_floats == 0 || known == 0) {
        return;
    }
    if (version_ == 2) {  // one state: [n_head_kv, 3, head_dim], whose first or first two rows are ours
        const size_t heads = static_cast<size_t>(layer.n_head_kv);
        const size_t each = 3 * static_cast<size_t>(layer.head_dim);
        const uint8_t * from =
            data(kv_names::blk(il, "statistics"), GGML_TYPE_F32, {static_cast<int64_t>(each), layer.n_head_kv});
        std::vector<uint8_t> ours;
        for (size_t head = 0; head < heads; ++head) {
            const uint8_t * row = from + head * each * sizeof(float);
            ours.insert(ours.end(), row, row + n_floats / heads * sizeof(float));
        }
        layer.chunks.back().state = state_page(format, ours.data(), false, il);
        return;
    }
    const bool is_f16 = layer.state_is_f16 && version_ >= kv_names::f16_states_version;
    const uint8_t * from = data(kv_names::blk(il, "states"), is_f16 ? GGML_TYPE_F16 : GGML_TYPE_F32,
                                {static_cast<int64_t>(n_floats), known});
    for (size_t i = 0; i < facts.size(); ++i) {
        if (facts[i].has_state == 1) {
            layer.chunks[i].state = state_page(format, from, is_f16, il);
            from += n_floats * state_number_bytes(is_f16);
        }
    }
}

kv_layer kv_file::read_layer(const kv_layer_format & format, int64_t il) const {
    kv_layer layer;
    layer.n_head_kv = format.n_head_kv;
    layer.head_dim = format.head_dim;
    layer.state_is_f16 = format.state_is_f16;
    const int64_t row = static_cast<int64_t>(layer.row());
    const auto name = [&](const char * part) { return kv_names::blk(il, part); };

    const auto reader_of = [&](const char * side) {
        const ggml_tensor * t = file_.find_tensor(name(side));
        if (!t) {
            refuse("tensor '", name(side), "' is missing");
        }
        return page_reader{data(name(side), GGML_TYPE_I8, {t->ne[0]}), static_cast<size_t>(t->ne[0])};
    };
    const auto take_side = [&](kv_side side, bool sealed, int32_t n, page_reader & from) {
        const std::string tensor = name(side == kv_side::key ? "k" : "v");
        kv_chunk_side out;
        size_t block_bytes = 0;
        if (sealed) {
            out.header = format.header(side, n);
            if (out.header->has_channels() && from.has(sizeof(kv_block_header))) {
                const int32_t least = out.header->width_sum;
                const int32_t said = load<kv_block_header>(from.from + from.at, 0).width_sum;
                out.header->width_sum =
                    static_cast<uint16_t>(std::clamp(said, least, most_width * format_quads(format)));
            }
            if (out.header->has_levels() && from.has(sizeof(kv_block_header))) {
                auto said = load<kv_block_header>(from.from + from.at, 0);
                said.version = kv_block_levels;
                const size_t bytes = std::max(kv_map(*out.header).bytes, kv_map(said).bytes);
                out.header = kv_level_header(side, n, out.header->head_dim, bytes);
            }
            block_bytes = kv_map(*out.header).bytes;
        }
        const size_t n_bytes =
            sealed ? block_bytes * static_cast<size_t>(format.n_head_kv) : 2 * static_cast<size_t>(n) * layer.row();
        if (!from.has(n_bytes)) {
            refuse("tensor '", tensor, "' has ", from.n_bytes, " bytes, its chunks need more");
        }
        out.bytes = from.take(n_bytes);
        std::string problem;
        for (int64_t head = 0; sealed && head < format.n_head_kv && problem.empty(); ++head) {
            problem = problem_of_block(out.bytes->data() + static_cast<size_t>(head) * block_bytes, *out.header);
        }
        if (!sealed) {
            problem = problem_of_rows(out.bytes->as<uint16_t>(), n_bytes / 2);
        }
        if (!problem.empty()) {
            refuse("tensor '", tensor, "': ", problem);
        }
        return out;
    };

    const std::vector<chunk_facts> facts = chunks_of(il);
    int64_t given_back_to = 0;
    if (!facts.empty()) {
        page_reader k = reader_of("k");
        page_reader v = reader_of("v");
        for (size_t i = 0; i < facts.size(); ++i) {
            const chunk_facts & f = facts[i];
            if (f.n_stored < 1 || f.n_stored > format.chunk_size || f.n_tokens < 1 || f.n_tokens > f.n_stored) {
                refuse("chunk ", i, " of layer ", il, " cannot hold ", f.n_tokens, " of ", f.n_stored, " tokens");
            }
            kv_chunk c;
            c.n_stored = f.n_stored;
            c.n_tokens = f.n_tokens;
            c.n_sinks = f.n_sinks;
            c.from_one_pass = f.from_one_pass == 1;
            const bool given_back = f.k_sealed == kv_names::given_back && f.v_sealed == kv_names::given_back;
            const int32_t max_sinks = i == 0 ? std::min(format.max_sinks, f.n_stored) : 0;
            const int32_t max_sealed = format.seals ? 1 : 0;
            const auto in = [](int32_t x, int32_t max) { return x >= 0 && x <= max; };
            if (!given_back && (!in(f.k_sealed, max_sealed) || !in(f.v_sealed, max_sealed))) {
                refuse("chunk ", i, " of layer ", il, " is not what the options ask for");
            }
            if (!in(f.n_sinks, max_sinks) || !in(f.has_state, given_back ? 0 : 1) || !in(f.from_one_pass, 1)) {
                refuse("chunk ", i, " of layer ", il, " is not what the options ask for");
            }
            if (given_back) {
                given_back_to = layer.n_chunked + c.n_tokens;
            } else {
                c.k = take_side(kv_side::key, f.k_sealed == 1, f.n_stored, k);
                c.v = take_side(kv_side::value, f.v_sealed == 1, f.n_stored, v);
                if (format.tail_weights && (!c.k.sealed() || !c.v.sealed())) {
                    refuse("chunk ", i, " of layer ", il, " is not what the options ask for");
                }
                if (const std::string problem = format.tail_weights ? problem_of_levels_together(c, format) : "";
                    !problem.empty()) {
                    refuse("chunk ", i, " of layer ", il, ": ", problem);
                }
            }
            layer.n_chunked += c.n_tokens;
            layer.chunks.push_back(std::move(c));
        }
        read_states(layer, format, facts, il);
        file_.release(file_.find_tensor(name("k")));
        file_.release(file_.find_tensor(name("v")));
        if (given_back_to > 0 && (format.window == 0 || given_back_to > layer.n_chunked - format.window + 1)) {
            refuse("layer ", il, " lacks tokens up to ", given_back_to, " that its window needs");
        }
        if (const kv_chunk & front = layer.chunks.front(); front.n_sinks > 0 && !front.given_back()) {
            const int64_t n_sinks = front.n_sinks;
            layer.sinks.k = rows(name("sinks.k"), row, n_sinks);
            layer.sinks.v = rows(name("sinks.v"), row, n_sinks);
        }
    }
    layer.n_tail = static_cast<int64_t>(tokens_.size()) - layer.n_chunked;
    if (layer.n_tail < 0 || layer.n_tail >= format.chunk_size) {
        refuse("its chunks hold ", layer.n_chunked, " tokens, but it has ", tokens_.size());
    }
    if (layer.n_tail > 0 && format.tail_weights) {
        layer.tail_weights = weights(name("tail.w"), layer.n_tail, format.tail_lacks);
        const int64_t n_sinks = layer.chunks.empty() ? std::min<int64_t>(format.max_sinks, layer.n_tail) : 0;
        const float * const first = layer.tail_weights.data();
        if (!std::all_of(first, first + n_sinks, tail_weight::is_held)) {
            refuse("tensor '", name("tail.w"), "': one of the first tokens, which are exact, is not there");
        }
    }
    if (layer.n_tail_rows() > 0) {
        layer.tail.k = rows(name("tail.k"), row, layer.n_tail_rows());
        layer.tail.v = rows(name("tail.v"), row, layer.n_tail_rows());
        if (format.tail_queries) {
            const uint8_t * from = data(name("tail.q"), GGML_TYPE_I8, {row, layer.n_tail});
            std::vector<uint8_t> queries(from, from + row * layer.n_tail);
            const uint8_t magnitude = format.queries_have_signs ? 0x7f : 0xff;
            if (std::any_of(queries.begin(), queries.end(),
                            [&](uint8_t byte) { return (byte & magnitude) > largest_query_byte; })) {
                refuse("tensor '", name("tail.q"), "': a query is not a number");
            }
            layer.tail_queries = std::move(queries);
        }
    }
    return layer;
}

std::vector<kv_layer> kv_file::layers(std::span<const kv_layer_format> formats) const {
    std::vector<kv_layer> all;
    for (const kv_layer_format & format : formats) {
        all.push_back(read_layer(format, static_cast<int64_t>(all.size())));
        const auto same_ends = [](const kv_chunk & a, const kv_chunk & b) {
            return a.n_stored == b.n_stored && a.n_tokens == b.n_tokens;
        };
        if (!std::equal(all.front().chunks.begin(), all.front().chunks.end(), all.back().chunks.begin(),
                        all.back().chunks.end(), same_ends)) {
            refuse("the chunks of layer ", all.size() - 1, " are not those of the others");
        }
    }
    return all;
}

}  // namespace livekv
