#include <pybind11/pybind11.h>

#include "arrays.h"
#include "bind.h"
#include "livekv.h"

namespace livekv {

namespace {

// A sequence's keys or values over all kv heads, sealed chunk by chunk by the reference of kvstream.
class stream_by_channel {
  public:
    stream_by_channel(bool keys, const kv_options & options)
        : method_(options.stream(keys ? kv_side::key : kv_side::value)) {
        if (options.policy != "kvstream") {
            fail("this is a stream of kvstream, not of ", options.policy);
        }
    }

    py::dict seal(const py::object & object);

  private:
    void check_shape(const py::array_t<float> & chunk);

    stream_method method_;
    int64_t head_dim_ = 0;
    int64_t n_tokens_ = 0;
    int64_t n_chunks_ = 0;
    std::vector<std::vector<float>> mu_;  // [n_head_kv]
};

void stream_by_channel::check_shape(const py::array_t<float> & chunk) {
    if (n_chunks_ == 0) {
        if (method_.groups > 0 && chunk.shape(2) % method_.groups != 0) {
            fail("value_quant_groups: ", method_.groups, " does not divide the chunk's ", chunk.shape(2), " channels");
        }
        head_dim_ = chunk.shape(2);
        mu_.assign(static_cast<size_t>(chunk.shape(0)), {});
    }
    const py::ssize_t n_head_kv = static_cast<py::ssize_t>(mu_.size());
    if (chunk.shape(0) != n_head_kv || chunk.shape(2) != head_dim_) {
        fail("this stream has ", n_head_kv, " heads of ", head_dim_, " channels, the chunk ", chunk.shape(0), " of ",
             chunk.shape(2));
    }
}

template <typename T>
void append(std::vector<T> & to, const std::vector<T> & from) {
    to.insert(to.end(), from.begin(), from.end());
}

py::dict stream_by_channel::seal(const py::object & object) {
    const py::array_t<float> chunk = chunk_from(object);
    check_shape(chunk);
    const int64_t n = chunk.shape(1);
    const size_t head_size = static_cast<size_t>(n * head_dim_);
    const int64_t n_high = stream_high_tokens(method_, n_tokens_, n);
    stream_units units;
    streamed_chunk all;
    for (size_t h = 0; h < mu_.size(); ++h) {
        const std::span<const float> head(chunk.data() + h * head_size, head_size);
        const stream_units u = stream_units_of(method_, head, head_dim_, mu_[h], n_chunks_);
        const streamed_chunk sealed = stream_chunk(method_, u, head, head_dim_, n_high);
        mu_[h] = u.mu;
        append(units.absmax, u.absmax);
        append(units.mu, u.mu);
        append(units.flagged, u.flagged);
        append(units.scale, u.scale);
        append(units.high_scale, u.high_scale);
        append(all.codes, sealed.codes);
        append(all.bits, sealed.bits);
        append(all.reconstruction, sealed.reconstruction);
    }
    ++n_chunks_;
    n_tokens_ += n;
    const std::vector<py::ssize_t> values = {chunk.shape(0), n, head_dim_};
    const std::vector<py::ssize_t> each = {chunk.shape(0), method_.units(head_dim_)};
    py::dict result;
    result["chunk_absmax"] = array_of(units.absmax, each);
    result["absmax"] = array_of(units.mu, each);
    result["outlier"] = array_of(units.flagged, each).attr("astype")("bool");
    if (method_.bits < 16) {
        result["scale_normal"] = array_of(units.scale, each);
    }
    if (method_.high_bits < 16) {
        result["scale_high"] = array_of(units.high_scale, each);
    }
    result["codes"] = array_of(all.codes, values);
    result["bits"] = array_of(all.bits, values);
    result["reconstruction"] = array_of(all.reconstruction, values);
    return result;
}

}  // namespace

void bind_streams_by_channel(py::module_ & module) {
    py::class_<stream_by_channel>(module, "StreamByChannel")
        .def(py::init<bool, const kv_options &>(), py::arg("keys"), py::arg("kv"))
        .def("seal", &stream_by_channel::seal, py::arg("chunk"));
}

}  // namespace livekv
