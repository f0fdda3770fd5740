#pragma once

// What the Jinja engine asks of a JSON library.

#include <nlohmann/json.hpp>

using common_json = nlohmann::ordered_json;
