#include "model/gguf_split.h"

#include <cstdio>
#include <cstring>
#include <optional>
#include <set>
#include <string_view>

#include "error.h"
#include "model/gguf_keys.h"
#include "model/gguf_precheck.h"

namespace livekv {

namespace {

struct part_name {
    std::string prefix;
    uint32_t no;  // from 1
    uint32_t count;

    std::string of(uint32_t part) const {
        char ending[32];
        std::snprintf(ending, sizeof(ending), "-%05u-of-%05u.gguf", part, count);
        return prefix + ending;
    }
};

// None for a name that is no part's.
std::optional<part_name> read_part_name(const std::string & path) {
    constexpr std::string_view shape = "-#####-of-#####.gguf";
    if (path.size() < shape.size()) {
        return std::nullopt;
    }
    const std::string_view ending = std::string_view(path).substr(path.size() - shape.size());
    uint32_t numbers[2] = {0, 0};
    for (size_t i = 0; i < shape.size(); ++i) {
        const bool is_digit = ending[i] >= '0' && ending[i] <= '9';
        if (shape[i] == '#' ? !is_digit : ending[i] != shape[i]) {
            return std::nullopt;
        }
        if (shape[i] == '#') {
            uint32_t & number = numbers[i > shape.find("-of-") ? 1 : 0];
            number = number * 10 + static_cast<uint32_t>(ending[i] - '0');
        }
    }
    return part_name{path.substr(0, path.size() - shape.size()), numbers[0], numbers[1]};
}

void require_same(const gguf_part & part, const char * key, uint32_t expected, const char * who) {
    const std::optional<uint32_t> value = part.find_u32(key);
    if (value != expected) {
        fail("'", part.path(), "': ", key, " is ", value ? std::to_string(*value) : "missing", ", ", who, " ",
             expected);
    }
}

// Whether both hold the same under a key: type and value.
bool same_value(const gguf_part & a, const gguf_part & b, const std::string & key) {
    const gguf_context *x = a.gguf.get(), *y = b.gguf.get();
    const int64_t i = a.key_id(key), k = b.key_id(key);
    if (i < 0 || k < 0 || gguf_get_kv_type(x, i) != gguf_get_kv_type(y, k)) {
        return false;
    }
    if (gguf_get_kv_type(x, i) == GGUF_TYPE_STRING) {
        return std::string_view(gguf_get_val_str(x, i)) == gguf_get_val_str(y, k);
    }
    if (gguf_get_kv_type(x, i) != GGUF_TYPE_ARRAY) {
        return std::memcmp(gguf_get_val_data(x, i), gguf_get_val_data(y, k),
                           gguf_value_bytes(gguf_get_kv_type(x, i))) == 0;
    }
    const size_t n = gguf_get_arr_n(x, i);
    const gguf_type type = gguf_get_arr_type(x, i);
    if (n != gguf_get_arr_n(y, k) || type != gguf_get_arr_type(y, k)) {
        return false;
    }
    if (type != GGUF_TYPE_STRING) {
        return n == 0 || std::memcmp(gguf_get_arr_data(x, i), gguf_get_arr_data(y, k), n * gguf_value_bytes(type)) == 0;
    }
    for (size_t at = 0; at < n; ++at) {
        if (std::strcmp(gguf_get_arr_str(x, i, at), gguf_get_arr_str(y, k, at)) != 0) {
            return false;
        }
    }
    return true;
}

// Parts behind the first carry none of the model's metadata, or the same.
void refuse_other_metadata(const gguf_part & part, const gguf_part & first) {
    for (int64_t i = 0; i < gguf_get_n_kv(part.gguf.get()); ++i) {
        const std::string key = gguf_get_key(part.gguf.get(), i);
        if (!key.starts_with("split.") && key != GGUF_KEY_GENERAL_ALIGNMENT && !same_value(part, first, key)) {
            fail("'", part.path(), "': its key '", key, "' is not what the first part says");
        }
    }
}

void check_tensors(const std::vector<gguf_part> & parts) {
    std::set<std::string_view> names;
    for (const gguf_part & part : parts) {
        for (int64_t i = 0; i < gguf_get_n_tensors(part.gguf.get()); ++i) {
            const char * name = gguf_get_tensor_name(part.gguf.get(), i);
            if (!names.insert(name).second) {
                fail("'", part.path(), "': an earlier part has tensor '", name, "' too");
            }
        }
    }
    for (const gguf_part & part : parts) {
        const std::optional<uint32_t> claimed = part.find_u32(keys::split_tensors_count);
        if (claimed && *claimed != names.size()) {
            fail("'", part.path(), "': ", keys::split_tensors_count, " is ", *claimed, ", the ", parts.size(),
                 " parts have ", names.size(), " tensors");
        }
    }
}

}  // namespace

std::vector<gguf_part> open_gguf_parts(const std::string & path) {
    std::vector<gguf_part> parts;
    parts.emplace_back(path);
    const uint32_t count = parts[0].find_u32(keys::split_count).value_or(0);
    if (count <= 1) {  // merging tools write 0
        return parts;
    }
    const std::optional<part_name> name = read_part_name(path);
    if (!name) {
        const uint64_t no = uint64_t(parts[0].find_u32(keys::split_no).value_or(0)) + 1;
        fail("'", path, "' is part ", no, " of ", count, " of a model, and the others are found by names that end in ",
             part_name{"", 0, count}.of(static_cast<uint32_t>(no)), ": rename it");
    }
    require_same(parts[0], keys::split_count, name->count, "its name says");
    if (name->no < 1 || name->no > name->count) {
        fail("'", path, "': its name says part ", name->no, " of ", name->count);
    }
    gguf_part named = std::move(parts[0]);
    parts.clear();
    for (uint32_t no = 1; no <= count; ++no) {
        if (no == name->no) {
            parts.push_back(std::move(named));
        } else {
            try {
                parts.emplace_back(name->of(no));
            } catch (const error & reason) {
                fail("part ", no, " of ", count, " of the model: ", reason.what());
            }
        }
        require_same(parts.back(), keys::split_count, count, "its name says");
        require_same(parts.back(), keys::split_no, no - 1, "by its name it is");
        refuse_other_metadata(parts.back(), parts.front());
    }
    check_tensors(parts);
    return parts;
}

}  // namespace livekv
