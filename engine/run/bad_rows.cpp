#include "run/bad_rows.h"

#include "error.h"

namespace livekv {

void bad_rows::note(int64_t il, int64_t row) {
    const int64_t here = il << 32 | row;
    for (int64_t first = first_; here < first && !first_.compare_exchange_weak(first, here);) {
    }
}

std::optional<bad_rows::place> bad_rows::first() const {
    const int64_t first = first_;
    if (first == none) {
        return std::nullopt;
    }
    return place{first >> 32, first & 0xffffffff};
}

void bad_rows::refuse(int64_t il, int64_t position) {
    fail("layer ", il, ", position ", position,
         ": a query, key or value is not a number or too large for the cache; "
         "the model's weights or its computation are broken");
}

}  // namespace livekv
