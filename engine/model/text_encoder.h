#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace livekv {

// One way to cut text without special tokens into tokens, and back.
class text_encoder {
  public:
    virtual ~text_encoder() = default;

    // Appends the tokens of any bytes; text is not empty, and prepared as the kind wants it.
    virtual void encode(std::string_view text, std::vector<int32_t> & out) const = 0;

    // The bytes that a token of text (vocab::is_text) stands for.
    virtual std::string bytes(int32_t id) const = 0;
};

}  // namespace livekv
