#include "xxh64.h"

#include <algorithm>
#include <bit>

#include "unaligned.h"

namespace livekv {

uint64_t xxh64::round(uint64_t lane, uint64_t word) {
    return std::rotl(lane + word * prime_2, 31) * prime_1;
}

void xxh64::consume(const uint8_t * bytes) {
    for (size_t i = 0; i < lanes_.size(); ++i) {
        lanes_[i] = round(lanes_[i], load<uint64_t>(bytes + 8 * i));
    }
}

void xxh64::update(std::span<const uint8_t> bytes) {
    n_bytes_ += bytes.size();
    while (!bytes.empty()) {
        if (n_rest_ == 0 && bytes.size() >= stripe) {
            consume(bytes.data());
            bytes = bytes.subspan(stripe);
            continue;
        }
        const size_t n = std::min(bytes.size(), stripe - n_rest_);
        std::copy_n(bytes.begin(), n, rest_.begin() + static_cast<int64_t>(n_rest_));
        bytes = bytes.subspan(n);
        n_rest_ += n;
        if (n_rest_ == stripe) {
            consume(rest_.data());
            n_rest_ = 0;
        }
    }
}

uint64_t xxh64::digest() const {
    uint64_t hash = prime_5;
    if (n_bytes_ >= stripe) {
        hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
        for (const uint64_t lane : lanes_) {
            hash = (hash ^ round(0, lane)) * prime_1 + prime_4;
        }
    }
    hash += n_bytes_;
    size_t i = 0;
    for (; i + 8 <= n_rest_; i += 8) {
        hash = std::rotl(hash ^ round(0, load<uint64_t>(rest_.data() + i)), 27) * prime_1 + prime_4;
    }
    if (i + 4 <= n_rest_) {
        hash = std::rotl(hash ^ load<uint32_t>(rest_.data() + i) * prime_1, 23) * prime_2 + prime_3;
        i += 4;
    }
    for (; i < n_rest_; ++i) {
        hash = std::rotl(hash ^ rest_[i] * prime_5, 11) * prime_1;
    }
    hash = (hash ^ hash >> 33) * prime_2;
    hash = (hash ^ hash >> 29) * prime_3;
    return hash ^ hash >> 32;
}

}  // namespace livekv
