#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "arrays.h"
#include "bind.h"
#include "kv/kv_classes.h"
#include "kv/kv_quant.h"
#include "livekv.h"

namespace livekv {

namespace {

// A sequence's keys or values over all kv heads, sealed chunk by chunk by the scalar reference.
class stream {
  public:
    stream(bool keys, const kv_options & options) : keys_(keys) {
        if (options.policy == "guided") {
            fail("the policy guided seals by attention too, not keys or values alone; livekv.kv.GuidedLayer has it");
        }
        if (options.policy == "fastkv") {
            fail("the policy fastkv keeps a prompt's tokens by attention; livekv.kv.fastkv_choose has it");
        }
        if (options.policy == "finch") {
            fail("the policy finch keeps a context's tokens by a question; livekv.kv.FinchLayer has it");
        }
        if (options.policy == "kvquant") {
            fail("the policy kvquant seals by a calibration; livekv.kv.kvquant_keys and kvquant_values have it");
        }
        if (options.policy != "livekv") {
            fail("only the policies ", compressing_policies(), " seal chunks, not ", options.policy);
        }
        method_ = options.method();
        needs_queries_ = keys && options.key_alloc == kv_key_alloc::block;
        warmup_chunks_ = options.warmup_chunks;
    }

    // query_squares: None, or [n_head_kv, head_dim], by which widths of key channels are chosen.
    py::dict seal(const py::object & object, const py::object & query_squares);

  private:
    void check_shape(const py::array_t<float> & chunk);
    std::vector<float> squares_from(const py::object & object) const;
    sealed_chunk seal_head(std::span<const float> head, size_t h, int64_t n_sinks, std::span<const float> squares);
    bool in_warmup() const { return keys_ && n_chunks_ < warmup_chunks_; }

    bool keys_;
    bool needs_queries_ = false;
    kv_method method_;
    int64_t warmup_chunks_ = 0;
    int64_t n_chunks_ = 0;
    int64_t head_dim_ = 0;
    std::vector<key_statistics> statistics_;  // [n_head_kv]
};

void stream::check_shape(const py::array_t<float> & chunk) {
    if (n_chunks_ == 0) {
        head_dim_ = chunk.shape(2);
        statistics_.assign(static_cast<size_t>(chunk.shape(0)), key_statistics(method_, head_dim_));
    }
    const py::ssize_t n_head_kv = static_cast<py::ssize_t>(statistics_.size());
    if (chunk.shape(0) != n_head_kv || chunk.shape(2) != head_dim_) {
        fail("this stream has ", n_head_kv, " heads of ", head_dim_, " channels, the chunk ", chunk.shape(0), " of ",
             chunk.shape(2));
    }
    if (chunk.size() > INT32_MAX) {
        fail("a chunk of ", chunk.size(), " values is too large");
    }
}

// [n_head_kv * head_dim]; empty: None.
std::vector<float> stream::squares_from(const py::object & object) const {
    if (object.is_none()) {
        if (needs_queries_ && !in_warmup()) {
            fail("query_squares is None; widths of key channels (key_alloc block) are chosen by it");
        }
        return {};
    }
    if (!keys_ || !method_.key_classes) {
        fail("query_squares is for keys whose channels have widths of their own (key_alloc)");
    }
    const auto squares = py::array_t<float, py::array::c_style | py::array::forcecast>::ensure(object);
    const py::ssize_t n_head_kv = static_cast<py::ssize_t>(statistics_.size());
    if (!squares || squares.ndim() != 2 || squares.shape(0) != n_head_kv || squares.shape(1) != head_dim_) {
        PyErr_Clear();
        fail("query_squares is no array of numbers [", n_head_kv, ", ", head_dim_, "]");
    }
    std::vector<float> values(squares.data(), squares.data() + squares.size());
    if (!std::ranges::all_of(values, [](float x) { return std::isfinite(x) && x >= 0.0f; })) {
        fail("query_squares has a number that is negative or not finite");
    }
    return values;
}

sealed_chunk stream::seal_head(std::span<const float> head, size_t h, int64_t n_sinks, std::span<const float> squares) {
    if (!keys_) {
        return seal_values(method_, head, head_dim_, n_sinks);
    }
    observe_keys(method_, statistics_[h], head, n_sinks);
    const size_t d = static_cast<size_t>(head_dim_);
    return squares.empty()
               ? seal_keys(method_, statistics_[h], head, head_dim_, n_sinks)
               : seal_keys_by_class(method_, statistics_[h], {squares.subspan(h * d, d), {}}, head, head_dim_, n_sinks);
}

// Everything sealed to [n_head_kv, ...] arrays: a head's part is appended after another's.
struct sealed_heads {
    std::vector<int16_t> codes;
    std::vector<float> scale;
    std::vector<int16_t> zero;
    std::vector<float> minimum;
    std::vector<uint16_t> order;
    std::vector<uint8_t> width;  // of each channel
    std::vector<float> high;
    std::vector<float> low;
    std::map<int64_t, float> apart;  // outliers and sinks, by their place in the whole chunk
    std::vector<float> reconstruction;
    int64_t n_saturated = 0;
};

template <typename T>
void append(std::vector<T> & to, const std::vector<T> & from) {
    to.insert(to.end(), from.begin(), from.end());
}

// A token's largest and smallest dense value; dense: what is neither outlier nor sink, which count as 0.
void token_ranges(std::vector<float> dense, const sealed_chunk & sealed, sealed_heads & out) {
    std::fill_n(dense.begin(), sealed.sinks.size(), 0.0f);
    for (const int32_t i : sealed.outlier_index) {
        dense[static_cast<size_t>(i)] = 0.0f;
    }
    for (auto row = dense.begin(); row != dense.end(); row += sealed.head_dim) {
        const auto [low, high] = std::minmax_element(row, row + sealed.head_dim);
        out.high.push_back(*high);
        out.low.push_back(*low);
    }
}

py::dict stream::seal(const py::object & object, const py::object & query_squares) {
    const py::array_t<float> chunk = chunk_from(object);
    check_shape(chunk);
    const std::vector<float> squares = squares_from(query_squares);
    const int64_t n = chunk.shape(1);
    const size_t head_size = static_cast<size_t>(n * head_dim_);
    const int64_t n_sinks = n_chunks_ == 0 ? std::min<int64_t>(method_.sink_tokens, n) : 0;
    const bool warmup = in_warmup();
    sealed_heads all;
    for (size_t h = 0; h < statistics_.size(); ++h) {
        const std::span<const float> head(chunk.data() + h * head_size, head_size);
        const sealed_chunk sealed = seal_head(head, h, n_sinks, squares);
        if (keys_) {
            append(all.high, statistics_[h].high());
            append(all.low, statistics_[h].low());
        } else {
            token_ranges({head.begin(), head.end()}, sealed, all);
        }
        const int64_t base = static_cast<int64_t>(h * head_size);
        for (size_t i = 0; i < sealed.outlier_index.size(); ++i) {
            all.apart[base + sealed.outlier_index[i]] = sealed.outlier_value[i];
        }
        for (size_t i = 0; i < sealed.sinks.size(); ++i) {
            all.apart[base + static_cast<int64_t>(i)] = sealed.sinks[i];
        }
        append(all.codes, sealed.codes);
        append(all.scale, sealed.scale);
        append(all.zero, sealed.zero);
        append(all.minimum, sealed.minimum);
        append(all.order, sealed.classes.order);
        all.width.resize(all.order.size());
        for (size_t i = 0; i < sealed.classes.order.size(); ++i) {
            all.width[all.width.size() - sealed.classes.order.size() + sealed.classes.order[i]] =
                sealed.classes.widths[i / 4];
        }
        append(all.reconstruction, reconstruct(sealed));
        all.n_saturated += sealed.n_saturated;
    }
    ++n_chunks_;

    const py::ssize_t heads = chunk.shape(0);
    const std::vector<py::ssize_t> values = {heads, n, head_dim_};
    const std::vector<py::ssize_t> ranges =
        keys_ ? std::vector<py::ssize_t>{heads, 1, head_dim_} : std::vector<py::ssize_t>{heads, n, 1};
    std::vector<py::ssize_t> scales = ranges;
    if (keys_) {
        scales[1] = static_cast<py::ssize_t>(all.scale.size()) / (heads * head_dim_);
    }
    std::vector<int64_t> index;
    std::vector<float> value;
    for (const auto & [i, x] : all.apart) {
        index.push_back(i);
        value.push_back(x);
    }
    py::dict result;
    result["warmup"] = warmup;
    result["outlier_index"] = array_of(index, {static_cast<py::ssize_t>(index.size())});
    result["outlier_value"] = array_of(value, {static_cast<py::ssize_t>(value.size())});
    if (method_.scale_method == kv_method::scale::ema_minmax) {
        result["max"] = array_of(all.high, ranges);
        result["min"] = array_of(all.low, ranges);
    } else {
        std::vector<float> absmax(all.high);
        for (size_t i = 0; !keys_ && i < absmax.size(); ++i) {
            absmax[i] = std::max(absmax[i], -all.low[i]);
        }
        result["absmax"] = array_of(absmax, ranges);
    }
    if (warmup) {
        result["reconstruction"] = py::array_t<float>(chunk.attr("copy")());
        return result;
    }
    result["codes"] = array_of(all.codes, values);
    result["scale"] = array_of(all.scale, scales);
    if (!all.zero.empty()) {
        result["zero"] = array_of(all.zero, scales);
    }
    if (!all.order.empty()) {
        const std::vector<py::ssize_t> channels = {heads, head_dim_};
        result["minimum"] = array_of(all.minimum, scales);
        result["order"] = array_of(all.order, channels);
        result["width"] = array_of(all.width, channels);
    }
    result["reconstruction"] = array_of(all.reconstruction, values);
    result["n_saturated"] = all.n_saturated;
    return result;
}

}  // namespace

void bind_streams(py::module_ & module) {
    py::class_<stream>(module, "Stream")
        .def(py::init<bool, const kv_options &>(), py::arg("keys"), py::arg("kv"))
        .def("seal", &stream::seal, py::arg("chunk"), py::arg("query_squares"));
}

}  // namespace livekv
