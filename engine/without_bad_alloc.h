#pragma once

#include <new>

#include "error.h"

namespace livekv {

// What work gives; too little memory is livekv::error, which says for what.
template <typename F>
auto without_bad_alloc(const char * what, F work) {
    try {
        return work();
    } catch (const std::bad_alloc &) {
        fail("not enough memory for ", what);
    }
}

}  // namespace livekv
