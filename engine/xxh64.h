#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace livekv {

// XXH64 with seed 0 (xxHash specification 0.1.1, 64 bits), fed piece by piece: tells damage from intact files at the
// speed of memory. Not for secrets.
class xxh64 {
  public:
    void update(std::span<const uint8_t> bytes);

    // Of all bytes so far.
    uint64_t digest() const;

  private:
    static constexpr size_t stripe = 32;

    void consume(const uint8_t * bytes);

    static constexpr uint64_t prime_1 = 0x9e3779b185ebca87;
    static constexpr uint64_t prime_2 = 0xc2b2ae3d27d4eb4f;
    static constexpr uint64_t prime_3 = 0x165667b19e3779f9;
    static constexpr uint64_t prime_4 = 0x85ebca77c2b2ae63;
    static constexpr uint64_t prime_5 = 0x27d4eb2f165667c5;

    static uint64_t round(uint64_t lane, uint64_t word);

    std::array<uint64_t, 4> lanes_ = {prime_1 + prime_2, prime_2, 0, 0 - prime_1};
    std::array<uint8_t, stripe> rest_;  // bytes that do not fill a stripe yet
    size_t n_rest_ = 0;
    uint64_t n_bytes_ = 0;
};

}  // namespace livekv
