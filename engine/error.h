#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace livekv {

// text as one line of UTF-8: the bytes of control characters, of line separators and of what is no character as \xNN.
// Messages quote bytes of files, and those may be many: the middle of a line of more than 1000 bytes is left out.
std::string printable(const std::string & text);

// The one exception of the library: a message a user can act on, in one printable line, without a trailing full stop.
class error : public std::runtime_error {
  public:
    explicit error(const std::string & message) : std::runtime_error(printable(message)) {}
};

// Throws error with its arguments joined: fail("key '", key, "' is missing").
template <typename... Parts>
[[noreturn]] void fail(const Parts &... parts) {
    std::ostringstream message;
    (message << ... << parts);
    throw error(message.str());
}

}  // namespace livekv

// A contract between parts of livekv, checked in release builds too.
#define LIVEKV_ASSERT(condition)                                                                              \
    do {                                                                                                      \
        if (!(condition)) {                                                                                   \
            ::livekv::fail("internal error: ", #condition, " does not hold (", __FILE__, ":", __LINE__, ")"); \
        }                                                                                                     \
    } while (0)
