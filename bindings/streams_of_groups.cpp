#include <pybind11/pybind11.h>

#include "arrays.h"
#include "bind.h"
#include "livekv.h"

namespace livekv {

namespace {

// A sequence's keys or values over all kv heads, quantized by the reference of kivi as tokens leave its window.
class stream_of_groups {
  public:
    stream_of_groups(bool keys, const kv_options & options)
        : side_(keys ? kv_side::key : kv_side::value), method_(options.kivi()) {
        if (options.policy != "kivi") {
            fail("this is a stream of kivi, not of ", options.policy);
        }
    }

    py::dict seal(const py::object & object);

  private:
    kv_side side_;
    kivi_method method_;
    int64_t head_dim_ = 0;
    int64_t n_tokens_ = 0;
    int64_t n_quantized_ = 0;
    std::vector<std::vector<float>> raw_;  // [n_head_kv] of [n_tokens_ - n_quantized_, head_dim]
};

template <typename T>
void append(std::vector<T> & to, const std::vector<T> & from) {
    to.insert(to.end(), from.begin(), from.end());
}

py::dict stream_of_groups::seal(const py::object & object) {
    const py::array_t<float> chunk = chunk_from(object);
    if (n_tokens_ == 0) {
        head_dim_ = chunk.shape(2);
        raw_.resize(static_cast<size_t>(chunk.shape(0)));
    }
    const py::ssize_t n_head_kv = static_cast<py::ssize_t>(raw_.size());
    if (chunk.shape(0) != n_head_kv || chunk.shape(2) != head_dim_) {
        fail("this stream has ", n_head_kv, " heads of ", head_dim_, " channels, the chunk ", chunk.shape(0), " of ",
             chunk.shape(2));
    }
    n_tokens_ += chunk.shape(1);
    const int64_t n_now = method_.n_quantized(side_, n_tokens_) - n_quantized_;
    n_quantized_ += n_now;
    const size_t head_size = static_cast<size_t>(chunk.shape(1) * head_dim_);
    kivi_tokens all;
    for (size_t h = 0; h < raw_.size(); ++h) {
        std::vector<float> & raw = raw_[h];
        raw.insert(raw.end(), chunk.data() + h * head_size, chunk.data() + (h + 1) * head_size);
        const std::span now = std::span(raw).first(static_cast<size_t>(n_now * head_dim_));
        const kivi_tokens one = kivi_quantize(side_, method_.bits(side_), now, head_dim_);
        append(all.codes, one.codes);
        append(all.scale, one.scale);
        append(all.low, one.low);
        append(all.reconstruction, one.reconstruction);
        raw.erase(raw.begin(), raw.begin() + n_now * head_dim_);
    }
    const std::vector<py::ssize_t> values = {n_head_kv, n_now, head_dim_};
    const std::vector<py::ssize_t> grids =
        side_ == kv_side::key ? std::vector<py::ssize_t>{n_head_kv, n_now / kivi_group, head_dim_}
                              : std::vector<py::ssize_t>{n_head_kv, n_now, (head_dim_ + kivi_group - 1) / kivi_group};
    py::dict result;
    result["codes"] = array_of(all.codes, values);
    result["scale"] = array_of(all.scale, grids);
    result["low"] = array_of(all.low, grids);
    result["reconstruction"] = array_of(all.reconstruction, values);
    return result;
}

}  // namespace

void bind_streams_of_groups(py::module_ & module) {
    py::class_<stream_of_groups>(module, "StreamOfGroups")
        .def(py::init<bool, const kv_options &>(), py::arg("keys"), py::arg("kv"))
        .def("seal", &stream_of_groups::seal, py::arg("chunk"));
}

}  // namespace livekv
