#include "model/arch/arch_keys.h"

#include <cmath>
#include <vector>

namespace livekv {

int64_t arch_keys::in_range(const char * key, uint32_t value, uint32_t max) const {
    if (value < 1 || value > max) {
        refuse(key, value, ", expected 1 to ", max);
    }
    return value;
}

int64_t arch_keys::get_size(const char * key, uint32_t max, std::optional<int64_t> otherwise) {
    const std::string & whole_key = ask(key);
    if (otherwise && !file_.has(whole_key)) {
        return in_range(key, static_cast<uint32_t>(*otherwise), max);
    }
    return in_range(key, file_.get_u32(whole_key), max);
}

int64_t arch_keys::get_size_of_layers(const char * key, int64_t n_layer, uint32_t max,
                                      std::optional<int64_t> otherwise) {
    const std::string & whole_key = ask(key);
    if (!file_.is_array(whole_key)) {
        return get_size(key, max, otherwise);
    }
    const std::optional<std::vector<double>> values = file_.find_numbers(whole_key);
    if (!values || static_cast<int64_t>(values->size()) != n_layer) {
        refuse(key, "an array of ", values ? values->size() : 0, " numbers, expected one for each of ", n_layer,
               " layers");
    }
    const double first = values->front();
    for (const double value : *values) {
        if (value != first) {
            refuse(key, first, " in one layer and ", value,
                   " in another; layers of different shapes are not supported");
        }
    }
    if (!(first >= 0.0 && first <= UINT32_MAX && first == std::floor(first))) {
        refuse(key, first, ", out of range");
    }
    return in_range(key, static_cast<uint32_t>(first), max);
}

std::vector<bool> arch_keys::get_layer_pattern(const char * key, int64_t n_layer, uint32_t otherwise) {
    const std::string & whole_key = ask(key);
    std::vector<bool> layers;
    if (!file_.is_array(whole_key)) {
        const int64_t each = get_size(key, UINT32_MAX, otherwise);
        for (int64_t il = 0; il < n_layer; ++il) {
            layers.push_back((il + 1) % each == 0);
        }
        return layers;
    }
    const std::optional<std::vector<double>> values = file_.find_numbers(whole_key);
    if (!values || static_cast<int64_t>(values->size()) != n_layer) {
        refuse(key, "an array of ", values ? values->size() : 0, " numbers, expected one for each of ", n_layer,
               " layers");
    }
    for (const double value : *values) {
        if (value != 0.0 && value != 1.0) {
            refuse(key, value, " in a layer, expected 0 or 1");
        }
        layers.push_back(value == 0.0);
    }
    return layers;
}

}  // namespace livekv
