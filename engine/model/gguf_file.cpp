#include "model/gguf_file.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "error.h"
#include "model/ggml_log.h"
#include "model/ggml_memory.h"
#include "model/gguf_keys.h"
#include "model/gguf_precheck.h"

namespace livekv {

namespace {

std::string shape_text(const int64_t * ne, int n_dims) {
    std::string text = "[";
    for (int d = 0; d < n_dims; ++d) {
        text += (d ? ", " : "") + std::to_string(ne[d]);
    }
    return text + "]";
}

// As the head says, of a file that was prechecked.
size_t n_tensors_of(const mapped_file & file) {
    uint64_t n = 0;
    std::memcpy(&n, file.data() + 8, sizeof(n));
    return n;
}

}  // namespace

gguf_file::gguf_file(const std::string & path) : file_(path) {
    silence_ggml();
    try {
        precheck_gguf(file_.data(), file_.size());
    } catch (const error & reason) {
        fail("'", path, "': ", reason.what());
    }
    take_ggml_errors();
    const ggml_loan loan((n_tensors_of(file_) + 1) * ggml_tensor_overhead() + (64 << 10));
    ggml_context * tensors = nullptr;
    gguf_.reset(gguf_init_from_buffer(file_.data(), file_.size(), {/*no_alloc=*/true, &tensors}));
    tensors_.reset(tensors);
    if (loan.taken()) {
        gguf_.reset();
        tensors_.reset();
        fail("not enough memory to open '", path, "'");
    }
    if (!gguf_) {
        fail("'", path, "': ", take_ggml_errors());
    }
    refuse_parts();
    const uint64_t data_offset = gguf_get_data_offset(gguf_.get());
    for (int64_t i = 0; i < n_tensors(); ++i) {
        // Compared without sums: sizes and offsets come from the file and may be near 2^64.
        const uint64_t offset = gguf_get_tensor_offset(gguf_.get(), i);
        const uint64_t size = gguf_get_tensor_size(gguf_.get(), i);
        const uint64_t available = file_.size() - std::min<uint64_t>(data_offset, file_.size());
        if (offset > available || size > available - offset) {
            fail("'", path, "': the file ends at byte ", file_.size(), ", inside tensor '",
                 gguf_get_tensor_name(gguf_.get(), i), "' (", size, " bytes from byte ", data_offset + offset, ")");
        }
    }
}

void gguf_file::refuse_parts() const {
    if (const uint32_t n_parts = find_u32(keys::split_count).value_or(1); n_parts > 1) {
        fail("'", path(), "' is part ", uint64_t(find_u32(keys::split_no).value_or(0)) + 1, " of ", n_parts,
             " of a split file: merge the parts into one first (llama-gguf-split --merge FIRST_PART OUT.gguf)");
    }
}

int64_t gguf_file::n_keys() const {
    return gguf_get_n_kv(gguf_.get());
}

std::string gguf_file::key(int64_t i) const {
    return gguf_get_key(gguf_.get(), i);
}

int64_t gguf_file::key_id(const std::string & key) const {
    return gguf_find_key(gguf_.get(), key.c_str());
}

bool gguf_file::has(const std::string & key) const {
    return key_id(key) >= 0;
}

std::vector<std::string> gguf_file::keys_with(const std::string & prefix) const {
    std::vector<std::string> keys;
    for (int64_t id = 0; id < gguf_get_n_kv(gguf_.get()); ++id) {
        if (std::string key = gguf_get_key(gguf_.get(), id); key.starts_with(prefix)) {
            keys.push_back(std::move(key));
        }
    }
    return keys;
}

uint32_t gguf_file::u32_at(int64_t id) const {
    const gguf_context * g = gguf_.get();
    int64_t value = -1;
    switch (gguf_get_kv_type(g, id)) {
        case GGUF_TYPE_UINT8:
            value = gguf_get_val_u8(g, id);
            break;
        case GGUF_TYPE_INT8:
            value = gguf_get_val_i8(g, id);
            break;
        case GGUF_TYPE_UINT16:
            value = gguf_get_val_u16(g, id);
            break;
        case GGUF_TYPE_INT16:
            value = gguf_get_val_i16(g, id);
            break;
        case GGUF_TYPE_UINT32:
            value = gguf_get_val_u32(g, id);
            break;
        case GGUF_TYPE_INT32:
            value = gguf_get_val_i32(g, id);
            break;
        case GGUF_TYPE_UINT64:
            value = static_cast<int64_t>(gguf_get_val_u64(g, id));
            break;
        case GGUF_TYPE_INT64:
            value = gguf_get_val_i64(g, id);
            break;
        default:
            fail("'", path(), "': key '", gguf_get_key(g, id), "' is ", gguf_type_name(gguf_get_kv_type(g, id)),
                 ", expected an integer");
    }
    if (value < 0 || value > std::numeric_limits<uint32_t>::max()) {
        fail("'", path(), "': key '", gguf_get_key(g, id), "' is ", value, ", out of range");
    }
    return static_cast<uint32_t>(value);
}

std::optional<uint32_t> gguf_file::find_u32(const std::string & key) const {
    const int64_t id = key_id(key);
    return id < 0 ? std::nullopt : std::optional(u32_at(id));
}

std::optional<float> gguf_file::find_f32(const std::string & key) const {
    const int64_t id = key_id(key);
    if (id < 0) {
        return std::nullopt;
    }
    switch (gguf_get_kv_type(gguf_.get(), id)) {
        case GGUF_TYPE_FLOAT32:
            return gguf_get_val_f32(gguf_.get(), id);
        case GGUF_TYPE_FLOAT64:
            return static_cast<float>(gguf_get_val_f64(gguf_.get(), id));
        default:
            fail("'", path(), "': key '", key, "' is ", gguf_type_name(gguf_get_kv_type(gguf_.get(), id)),
                 ", expected a float");
    }
}

std::optional<bool> gguf_file::find_bool(const std::string & key) const {
    const int64_t id = key_id(key);
    if (id < 0) {
        return std::nullopt;
    }
    if (gguf_get_kv_type(gguf_.get(), id) != GGUF_TYPE_BOOL) {
        fail("'", path(), "': key '", key, "' is ", gguf_type_name(gguf_get_kv_type(gguf_.get(), id)),
             ", expected a bool");
    }
    return gguf_get_val_bool(gguf_.get(), id);
}

std::optional<std::string> gguf_file::find_string(const std::string & key) const {
    const int64_t id = key_id(key);
    if (id < 0) {
        return std::nullopt;
    }
    if (gguf_get_kv_type(gguf_.get(), id) != GGUF_TYPE_STRING) {
        fail("'", path(), "': key '", key, "' is ", gguf_type_name(gguf_get_kv_type(gguf_.get(), id)),
             ", expected a string");
    }
    return std::string(gguf_get_val_str(gguf_.get(), id));
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
    if (gguf_get_kv_type(gguf_.get(), id) != GGUF_TYPE_ARRAY || gguf_get_arr_type(gguf_.get(), id) != type) {
        fail("'", path(), "': key '", key, "' is not an array of ", gguf_type_name(type));
    }
    return id;
}

bool gguf_file::is_array(const std::string & key) const {
    const int64_t id = key_id(key);
    return id >= 0 && gguf_get_kv_type(gguf_.get(), id) == GGUF_TYPE_ARRAY;
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
    const gguf_context * g = gguf_.get();
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
    std::vector<std::string> values(gguf_get_arr_n(gguf_.get(), id));
    for (size_t i = 0; i < values.size(); ++i) {
        values[i] = gguf_get_arr_str(gguf_.get(), id, i);
    }
    return values;
}

std::vector<float> gguf_file::get_floats(const std::string & key) const {
    const int64_t id = array_id(key, GGUF_TYPE_FLOAT32);
    const float * values = static_cast<const float *>(gguf_get_arr_data(gguf_.get(), id));
    return {values, values + gguf_get_arr_n(gguf_.get(), id)};
}

std::vector<int32_t> gguf_file::get_ints(const std::string & key) const {
    const int64_t id = array_id(key, GGUF_TYPE_INT32);
    const int32_t * values = static_cast<const int32_t *>(gguf_get_arr_data(gguf_.get(), id));
    return {values, values + gguf_get_arr_n(gguf_.get(), id)};
}

int64_t gguf_file::n_tensors() const {
    return gguf_get_n_tensors(gguf_.get());
}

const ggml_tensor * gguf_file::tensor(int64_t i) const {
    return find_tensor(gguf_get_tensor_name(gguf_.get(), i));
}

const ggml_tensor * gguf_file::find_tensor(const std::string & name) const {
    return ggml_get_tensor(tensors_.get(), name.c_str());
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

const uint8_t * gguf_file::tensor_data(const ggml_tensor * tensor) const {
    const int64_t id = gguf_find_tensor(gguf_.get(), tensor->name);
    LIVEKV_ASSERT(id >= 0);
    return file_.data() + gguf_get_data_offset(gguf_.get()) + gguf_get_tensor_offset(gguf_.get(), id);
}

}  // namespace livekv
