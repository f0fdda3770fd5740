#include "store/kv_calibration.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "atomic_file.h"
#include "error.h"
#include "kv/kv_block.h"
#include "model/mapped_file.h"
#include "xxh64.h"

namespace livekv {

namespace {

constexpr char magic[] = {'L', 'K', 'V', 'Q', 'U', 'A', 'N', 'T'};
constexpr uint32_t file_version = 1;
constexpr size_t checked_from = sizeof(magic) + sizeof(uint32_t) + sizeof(uint64_t);  // what the checksum covers

class writer {
  public:
    template <typename T>
    void put(T value) {
        const auto * from = reinterpret_cast<const uint8_t *>(&value);
        bytes.insert(bytes.end(), from, from + sizeof(T));
    }
    void text(const std::string & s) {
        put(static_cast<uint32_t>(s.size()));
        bytes.insert(bytes.end(), s.begin(), s.end());
    }

    std::vector<uint8_t> bytes;
};

class reader {
  public:
    reader(const std::string & path, std::span<const uint8_t> bytes) : path_(path), left_(bytes) {}

    template <typename T>
    T take() {
        T value;
        std::memcpy(&value, take_bytes(sizeof(T)).data(), sizeof(T));
        return value;
    }
    std::string text() {
        const std::span<const uint8_t> from = take_bytes(take<uint32_t>());
        return {from.begin(), from.end()};
    }
    // Finite numbers.
    std::vector<float> floats(size_t n) {
        const std::span<const uint8_t> from = take_bytes(n * sizeof(float));
        std::vector<float> values(n);
        std::memcpy(values.data(), from.data(), from.size());
        if (!std::ranges::all_of(values, [](float x) { return std::isfinite(x); })) {
            refuse("one of its numbers is not finite");
        }
        return values;
    }
    bool at_end() const { return left_.empty(); }

    [[noreturn]] void refuse(const char * why) const { fail("'", path_, "': ", why); }

  private:
    std::span<const uint8_t> take_bytes(size_t n) {
        if (n > left_.size()) {
            refuse("it ends too early: the file was cut off");
        }
        const std::span<const uint8_t> taken = left_.first(n);
        left_ = left_.subspan(n);
        return taken;
    }

    const std::string & path_;
    std::span<const uint8_t> left_;
};

uint64_t checksum_of(std::span<const uint8_t> bytes) {
    xxh64 hash;
    hash.update(bytes);
    return hash.digest();
}

kv_calibration::layer read_layer(reader & from, int32_t bits) {
    kv_calibration::layer layer;
    layer.n_head_kv = from.take<uint32_t>();
    layer.head_dim = from.take<uint32_t>();
    if (layer.n_head_kv < 1 || layer.head_dim < 1 || layer.head_dim > kv_max_head_dim || layer.n_head_kv > 65536) {
        from.refuse("a layer's shape is impossible");
    }
    const auto row = static_cast<size_t>(layer.n_head_kv * layer.head_dim);
    const std::vector<float> lower = from.floats(row);
    const std::vector<float> upper = from.floats(row);
    for (size_t c = 0; c < row; ++c) {
        layer.keys.push_back({lower[c], upper[c]});
        if (lower[c] > upper[c]) {
            from.refuse("a lower threshold is above the upper one");
        }
    }
    for (std::vector<float> * book : {&layer.k_codebook, &layer.v_codebook}) {
        *book = from.floats(size_t{1} << bits);
        if (!std::ranges::is_sorted(*book)) {
            from.refuse("a codebook does not ascend");
        }
    }
    return layer;
}

// Of what follows the checksum.
kv_calibration calibration_of(reader from) {
    kv_calibration all;
    all.bits = static_cast<int32_t>(from.take<uint32_t>());
    const auto n_facts = from.take<uint32_t>();
    const auto n_layer = from.take<uint32_t>();
    if (all.bits < kvquant_min_bits || all.bits > kvquant_max_bits) {
        from.refuse("its bits are not 2, 3 or 4");
    }
    for (uint32_t i = 0; i < n_facts; ++i) {
        std::string name = from.text();
        all.model.emplace_back(std::move(name), from.text());
    }
    for (uint32_t il = 0; il < n_layer; ++il) {
        all.layers.push_back(read_layer(from, all.bits));
    }
    if (!from.at_end()) {
        from.refuse("it is longer than what it holds");
    }
    return all;
}

}  // namespace

void write_kv_calibration(const std::string & path, const kv_calibration & calibration) {
    writer body;
    body.put(static_cast<uint32_t>(calibration.bits));
    body.put(static_cast<uint32_t>(calibration.model.size()));
    body.put(static_cast<uint32_t>(calibration.layers.size()));
    for (const auto & [name, value] : calibration.model) {
        body.text(name);
        body.text(value);
    }
    for (const kv_calibration::layer & layer : calibration.layers) {
        LIVEKV_ASSERT(layer.keys.size() == static_cast<size_t>(layer.n_head_kv * layer.head_dim));
        body.put(static_cast<uint32_t>(layer.n_head_kv));
        body.put(static_cast<uint32_t>(layer.head_dim));
        for (const kvquant_range & range : layer.keys) {
            body.put(range.lower);
        }
        for (const kvquant_range & range : layer.keys) {
            body.put(range.upper);
        }
        for (const std::vector<float> * book : {&layer.k_codebook, &layer.v_codebook}) {
            std::ranges::for_each(*book, [&](float level) { body.put(level); });
        }
    }
    calibration_of(reader(path, body.bytes));
    writer head;
    std::ranges::for_each(magic, [&](char c) { head.put(c); });
    head.put(file_version);
    head.put(checksum_of(body.bytes));
    atomic_file file(path);
    file.append(head.bytes);
    file.append(body.bytes);
    file.commit();
}

kv_calibration read_kv_calibration(const std::string & path) {
    const mapped_file file(path);
    const std::span<const uint8_t> all(file.data(), file.size());
    if (all.size() < sizeof(magic) || std::memcmp(all.data(), magic, sizeof(magic)) != 0) {
        fail("'", path, "': not a calibration; python -m python_eval.calibrate makes one");
    }
    reader head(path, all.subspan(sizeof(magic)));
    if (const auto version = head.take<uint32_t>(); version != file_version) {
        fail("'", path, "': a calibration of file version ", version, ", this livekv reads ", file_version);
    }
    const auto stored = head.take<uint64_t>();
    if (checksum_of(all.subspan(checked_from)) != stored) {
        head.refuse("its checksum is wrong: the calibration was cut off, changed or damaged");
    }
    return calibration_of(reader(path, all.subspan(checked_from)));
}

void require_calibrated(const std::string & path, const kv_calibration & calibration, const model_facts & model) {
    size_t n_older = 0;  // facts that an older file does not have
    for (const auto & [name, value] : model) {
        const auto saved = std::ranges::find(calibration.model, name, &model_facts::value_type::first);
        if (saved == calibration.model.end() && name == contents_fact) {
            n_older = 1;
            continue;
        }
        if (saved == calibration.model.end()) {
            fail("'", path, "': a calibration of another model: it says nothing of ", name);
        }
        if (saved->second != value && (name == "weights" || name == contents_fact || name == "vocabulary")) {
            fail("'", path, "': a calibration of another model: its ", name, " differ");
        }
        if (saved->second != value) {
            fail("'", path, "': a calibration of another model: its ", name, " was ", saved->second, ", this one's is ",
                 value);
        }
    }
    if (calibration.model.size() + n_older != model.size()) {
        fail("'", path, "': a calibration of another model, of which more is said than of this one");
    }
}

}  // namespace livekv
