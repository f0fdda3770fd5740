#pragma once

#include <cstdint>
#include <cstring>

namespace livekv {

// The 64 codes of a brick in the bits kv_block.h says.
inline void pack_brick(const uint8_t * u, int32_t bits, uint8_t * brick) {
    const int32_t base = bits == 3 ? 2 : bits == 5 || bits == 6 ? 4 : bits;
    if (base == 8) {
        std::memcpy(brick, u, 64);
    } else if (base == 4) {
        for (int32_t i = 0; i < 32; ++i) {
            brick[i] = static_cast<uint8_t>((u[i] & 15) | (u[i + 32] & 15) << 4);
        }
    } else {
        for (int32_t i = 0; i < 16; ++i) {
            brick[i] =
                static_cast<uint8_t>((u[i] & 3) | (u[i + 16] & 3) << 2 | (u[i + 32] & 3) << 4 | (u[i + 48] & 3) << 6);
        }
    }
    if (bits == 6) {
        uint8_t above[64];
        for (int32_t i = 0; i < 64; ++i) {
            above[i] = u[i] >> 4;
        }
        pack_brick(above, 2, brick + 32);
    } else if (base != bits) {
        for (int32_t i = 0; i < 8; ++i) {
            int32_t byte = 0;
            for (int32_t k = 0; k < 8; ++k) {
                byte |= (u[8 * i + k] >> base & 1) << k;
            }
            brick[8 * base + i] = static_cast<uint8_t>(byte);
        }
    }
}

}  // namespace livekv
