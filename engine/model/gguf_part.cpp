#include "model/gguf_part.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "error.h"
#include "model/ggml_log.h"
#include "model/ggml_memory.h"
#include "model/gguf_precheck.h"

namespace livekv {

namespace {

// As the head says, of a file that was prechecked.
size_t n_tensors_of(const mapped_file & file) {
    uint64_t n = 0;
    std::memcpy(&n, file.data() + 8, sizeof(n));
    return n;
}

}  // namespace

gguf_part::gguf_part(const std::string & path) : file(path) {
    set_up_ggml();
    try {
        precheck_gguf(file.data(), file.size());
    } catch (const error & reason) {
        fail("'", path, "': ", reason.what());
    }
    take_ggml_errors();
    const ggml_loan loan((n_tensors_of(file) + 1) * ggml_tensor_overhead() + (64 << 10));
    ggml_context * described = nullptr;
    gguf.reset(gguf_init_from_buffer(file.data(), file.size(), {/*no_alloc=*/true, &described}));
    tensors.reset(described);
    if (loan.taken()) {
        gguf.reset();
        tensors.reset();
        fail("not enough memory to open '", path, "'");
    }
    if (!gguf) {
        fail("'", path, "': ", take_ggml_errors());
    }
    const uint64_t data_offset = gguf_get_data_offset(gguf.get());
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf.get()); ++i) {
        // Compared without sums: sizes and offsets come from the file and may be near 2^64.
        const uint64_t offset = gguf_get_tensor_offset(gguf.get(), i);
        const uint64_t size = gguf_get_tensor_size(gguf.get(), i);
        const uint64_t available = file.size() - std::min<uint64_t>(data_offset, file.size());
        if (offset > available || size > available - offset) {
            fail("'", path, "': the file ends at byte ", file.size(), ", inside tensor '",
                 gguf_get_tensor_name(gguf.get(), i), "' (", size, " bytes from byte ", data_offset + offset, ")");
        }
    }
}

std::optional<uint32_t> gguf_part::find_u32(const std::string & key) const {
    const gguf_context * g = gguf.get();
    const int64_t id = key_id(key);
    if (id < 0) {
        return std::nullopt;
    }
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
            fail("'", path(), "': key '", key, "' is ", gguf_type_name(gguf_get_kv_type(g, id)),
                 ", expected an integer");
    }
    if (value < 0 || value > std::numeric_limits<uint32_t>::max()) {
        fail("'", path(), "': key '", key, "' is ", value, ", out of range");
    }
    return static_cast<uint32_t>(value);
}

}  // namespace livekv
