#include "dump.h"

#include "arrays.h"

namespace livekv {

py::dict dump_arrays(const kv_side_dump & side, bool keys, int64_t n_head_kv, int64_t head_dim) {
    const int64_t n_tokens = static_cast<int64_t>(side.kind.size());
    const std::vector<py::ssize_t> values = {n_head_kv, n_tokens, head_dim};
    py::array_t<uint8_t> kind(n_tokens);
    std::transform(side.kind.begin(), side.kind.end(), kind.mutable_data(),
                   [](kv_kind k) { return static_cast<uint8_t>(k); });
    py::dict arrays(py::arg("kind") = kind, py::arg("rotation") = side.rotation,
                    py::arg("stored") = array_of(side.stored, values),
                    py::arg("reconstruction") = array_of(side.reconstruction, values));
    if (!side.group.empty() || n_tokens == 0) {  // of the livekv policy
        const int64_t n_outliers = static_cast<int64_t>(side.outlier_value.size());
        std::vector<py::ssize_t> groups = {n_head_kv, side.n_groups};
        const bool has_minima = keys || !side.minimum.empty();
        if (has_minima) {
            const int64_t n_grids = n_head_kv * side.n_groups;
            groups.push_back(n_grids == 0 ? head_dim : static_cast<int64_t>(side.scale.size()) / n_grids);
        }
        arrays["bits"] = side.bits;
        arrays["group"] = array_of(side.group, {n_tokens});
        arrays["codes"] = array_of(side.codes, values);
        arrays["scale"] = array_of(side.scale, groups);
        arrays["zero"] = array_of(side.zero, groups);
        if (has_minima) {
            arrays["minimum"] = array_of(side.minimum, groups);
            arrays["width"] = array_of(side.width, groups);
        }
        if (!side.levels.empty()) {
            arrays["levels"] = array_of(side.levels, {static_cast<py::ssize_t>(side.levels.size())});
        }
        arrays["outlier_index"] = array_of(side.outlier_index, {n_outliers, 3});
        arrays["outlier_value"] = array_of(side.outlier_value, {n_outliers});
    }
    return arrays;
}

}  // namespace livekv
