#include "model/gguf_file.h"

#include <cstring>

#include "error.h"
#include "model/gguf_split.h"

namespace livekv {

namespace {

std::string shape_text(const int64_t * ne, int n_dims) {
    std::string text = "[";
    for (int d = 0; d < n_dims; ++d) {
        text += (d ? ", " : "") + std::to_string(ne[d]);
    }
    return text + "]";
}

}  // namespace

gguf_file::gguf_file(const std::string & path) : parts_(open_gguf_parts(path)) {
    for (size_t p = 0; p < parts_.size(); ++p) {
        for (int64_t id = 0; id < gguf_get_n_tensors(parts_[p].gguf.get()); ++id) {
            const char * name = gguf_get_tensor_name(parts_[p].gguf.get(), id);
            by_name_.emplace(name, tensors_.size());
            tensors_.push_back({ggml_get_tensor(parts_[p].tensors.get(), name), p, id});
        }
    }
}

std::span<const uint8_t> gguf_file::contents() const {
    if (parts_.size() > 1) {
        fail("'", path(), "' is one of ", parts_.size(), " parts, expected a file of its own");
    }
    return part(0);
}

int64_t gguf_file::n_keys() const {
    return gguf_get_n_kv(metadata());
}

std::string gguf_file::key(int64_t i) const {
    return gguf_get_key(metadata(), i);
}

int64_t gguf_file::key_id(const std::string & key) const {
    return parts_[0].key_id(key);
}

bool gguf_file::has(const std::string & key) const {
    return key_id(key) >= 0;
}

std::vector<std::string> gguf_file::keys_with(const std::string & prefix) const {
    std::vector<std::string> keys;
    for (int64_t id = 0; id < gguf_get_n_kv(metadata()); ++id) {
        if (std::string key = gguf_get_key(metadata(), id); key.starts_with(prefix)) {
            keys.push_back(std::move(key));
        }
    }
    return keys;
}

std::optional<uint32_t> gguf_file::find_u32(const std::string & key) const {
    return parts_[0].find_u32(key);
}

std::optional<float> gguf_file::find_f32(const std::string & key) const {
    const int64_t id = key_id(key);
    if (id < 0) {
        return std::nullopt;
    }
    switch (gguf_get_kv_type(metadata(), id)) {
        case GGUF_TYPE_FLOAT32:
            return gguf_get_val_f32(metadata(), id);
        case GGUF_TYPE_FLOAT64:
            return static_cast<float>(gguf_get_val_f64(metadata(), id));
        default:
            fail("'", path(), "': key '", key, "' is ", gguf_type_name(gguf_get_kv_type(metadata(), id)),
                 ", expected a float");
    }
}

std::optional<bool> gguf_file::find_bool(const std::string & key) const {
    const int64_t id = key_id(key);
    if (id < 0) {
        return std::nullopt;
    }
    if (gguf_get_kv_type(metadata(), id) != GGUF_TYPE_BOOL) {
        fail("'", path(), "': key '", key, "' is ", gguf_type_name(gguf_get_kv_type(metadata(), id)),
             ", expected a bool");
    }
    return gguf_get_val_bool(metadata(), id);
}

std::optional<std::string> gguf_file::find_string(const std::string & key) const {
    const int64_t id = key_id(key);
    if (id < 0) {
        return std::nullopt;
    }
    if (gguf_get_kv_type(metadata(), id) != GGUF_TYPE_STRING) {
        fail("'", path(), "': key '", key, "' is ", gguf_type_name(gguf_get_kv_type(metadata(), id)),
             ", expected a string");
    }
    return std::string(gguf_get_val_str(metadata(), id));
}

namespace {

template <typename T>
T required(const std::optional<T> & value, const std::string & path, const std::string & key) {
    if (!value) {
        fail("'", path, "': key '", key, "' is missing");
    }
    return *value;
}

}  // namespace

uint32_t gguf_file::get_u32(const std::string & key) const {
    return required(find_u32(key), path(), key);
}
float gguf_file::get_f32(const std::string & key) const {
    return required(find_f32(key), path(), key);
}
bool gguf_file::get_bool(const std::string & key) const {
    return required(find_bool(key), path(), key);
}
std::string gguf_file::get_string(const std::string & key) const {
    return required(find_string(key), path(), key);
}

int64_t gguf_file::array_id(const std::string & key, gguf_type type) const {
    const int64_t id = key_id(key);
    if (id < 0) {
        fail("'", path(), "': key '", key, "' is missing");
    }
    if (gguf_get_kv_type(metadata(), id) != GGUF_TYPE_ARRAY || gguf_get_arr_type(metadata(), id) != type) {
        fail("'", path(), "': key '", key, "' is not an array of ", gguf_type_name(type));
    }
    return id;
}

bool gguf_file::is_array(const std::string & key) const {
    const int64_t id = key_id(key);
    return id >= 0 && gguf_get_kv_type(metadata(), id) == GGUF_TYPE_ARRAY;
}

namespace {

template <typename T>
std::vector<double> as_doubles(const void * data, size_t count) {
    std::vector<T> values(count);
    if (count > 0) {
        std::memcpy(values.data(), data, count * sizeof(T));
    }
    return {values.begin(), values.end()};
}

std::optional<std::vector<double>> as_doubles(gguf_type type, const void * data, size_t count) {
    switch (type) {
        case GGUF_TYPE_UINT8:
        case GGUF_TYPE_BOOL:
            return as_doubles<uint8_t>(data, count);
        case GGUF_TYPE_INT8:
            return as_doubles<int8_t>(data, count);
        case GGUF_TYPE_UINT16:
            return as_doubles<uint16_t>(data, count);
        case GGUF_TYPE_INT16:
            return as_doubles<int16_t>(data, count);
        case GGUF_TYPE_UINT32:
            return as_doubles<uint32_t>(data, count);
        case GGUF_TYPE_INT32:
            return as_doubles<int32_t>(data, count);
        case GGUF_TYPE_UINT64:
            return as_doubles<uint64_t>(data, count);
        case GGUF_TYPE_INT64:
            return as_doubles<int64_t>(data, count);
        case GGUF_TYPE_FLOAT32:
            return as_doubles<float>(data, count);
        case GGUF_TYPE_FLOAT64:
            return as_doubles<double>(data, count);
        default:
            return std::nullopt;
    }
}

}  // namespace

std::optional<std::vector<double>> gguf_file::find_numbers(const std::string & key) const {
    const int64_t id = key_id(key);
    if (id < 0) {
        return std::nullopt;
    }
    const gguf_context * g = metadata();
    const gguf_type type = gguf_get_kv_type(g, id);
    if (type == GGUF_TYPE_ARRAY) {
        const gguf_type each = gguf_get_arr_type(g, id);
        // ggml has no data pointer for an array of texts.
        return each == GGUF_TYPE_STRING ? std::nullopt
                                        : as_doubles(each, gguf_get_arr_data(g, id), gguf_get_arr_n(g, id));
    }
    return type == GGUF_TYPE_STRING ? std::nullopt : as_doubles(type, gguf_get_val_data(g, id), 1);
}

std::vector<std::string> gguf_file::get_strings(const std::string & key) const {
    const int64_t id = array_id(key, GGUF_TYPE_STRING);
    std::vector<std::string> values(gguf_get_arr_n(metadata(), id));
    for (size_t i = 0; i < values.size(); ++i) {
        values[i] = gguf_get_arr_str(metadata(), id, i);
    }
    return values;
}

std::vector<float> gguf_file::get_floats(const std::string & key) const {
    const int64_t id = array_id(key, GGUF_TYPE_FLOAT32);
    const float * values = static_cast<const float *>(gguf_get_arr_data(metadata(), id));
    return {values, values + gguf_get_arr_n(metadata(), id)};
}

std::vector<int32_t> gguf_file::get_ints(const std::string & key) const {
    const int64_t id = array_id(key, GGUF_TYPE_INT32);
    const int32_t * values = static_cast<const int32_t *>(gguf_get_arr_data(metadata(), id));
    return {values, values + gguf_get_arr_n(metadata(), id)};
}

int64_t gguf_file::n_tensors() const {
    return static_cast<int64_t>(tensors_.size());
}

const ggml_tensor * gguf_file::tensor(int64_t i) const {
    return tensors_[static_cast<size_t>(i)].description;
}

const gguf_file::entry * gguf_file::find_entry(std::string_view name) const {
    const auto at = by_name_.find(name);
    return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

const ggml_tensor * gguf_file::find_tensor(const std::string & name) const {
    const entry * found = find_entry(name);
    return found ? found->description : nullptr;
}

const ggml_tensor * gguf_file::get_tensor(const std::string & name, const std::vector<int64_t> & shape) const {
    const ggml_tensor * tensor = find_tensor(name);
    if (!tensor) {
        fail("'", path(), "': tensor '", name, "' is missing");
    }
    bool same = true;
    for (size_t d = 0; d < GGML_MAX_DIMS; ++d) {
        same = same && tensor->ne[d] == (d < shape.size() ? shape[d] : 1);
    }
    if (!same) {
        fail("'", path(), "': tensor '", name, "' has shape ", shape_text(tensor->ne, ggml_n_dims(tensor)),
             ", expected ", shape_text(shape.data(), static_cast<int>(shape.size())));
    }
    return tensor;
}

size_t gguf_file::part_of(const ggml_tensor * tensor) const {
    const entry * found = find_entry(tensor->name);
    LIVEKV_ASSERT(found);
    return found->part;
}

const uint8_t * gguf_file::tensor_data(const ggml_tensor * tensor) const {
    const entry * found = find_entry(tensor->name);
    LIVEKV_ASSERT(found);
    const gguf_part & part = parts_[found->part];
    return part.file.data() + gguf_get_data_offset(part.gguf.get()) +
           gguf_get_tensor_offset(part.gguf.get(), found->id);
}

void gguf_file::release(const ggml_tensor * tensor) const {
    parts_[part_of(tensor)].file.release(tensor_data(tensor), ggml_nbytes(tensor));
}

}  // namespace livekv
