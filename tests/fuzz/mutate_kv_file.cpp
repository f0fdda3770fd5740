// How saved sequences are changed: mostly in place, and mostly with their checksum mended, so that what lies behind it
// is read.

#include <algorithm>
#include <vector>

#include "mutate.h"
#include "store/kv_file_names.h"
#include "xxh64.h"

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t * data, size_t size, size_t max_size, unsigned seed) {
    std::minstd_rand random(seed);
    if (random() % 8 == 0) {
        size = LLVMFuzzerMutate(data, size, max_size);
    } else {
        fuzz::overwrite_numbers(data, size, random);
    }
    const size_t at = livekv::kv_names::checksum_at();
    if (size >= at + sizeof(uint64_t) && random() % 16 != 0) {
        std::fill_n(data + at, sizeof(uint64_t), uint8_t(0));
        livekv::xxh64 hash;
        hash.update({data, size});
        const uint64_t sum = hash.digest();
        std::memcpy(data + at, &sum, sizeof(sum));
    }
    return size;
}
