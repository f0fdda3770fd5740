#pragma once

#include <nlohmann/json.hpp>
#include <optional>

namespace livekv {

// What was not measured is null.
inline nlohmann::ordered_json or_null(const std::optional<double> & value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

}  // namespace livekv
