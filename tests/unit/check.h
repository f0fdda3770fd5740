#pragma once

// A test is a function registered by TEST; CHECK reports a failed claim and goes on. TEST_MAIN runs them all and prints
// one line for each; SKIP leaves a test with its reason, and a file whose tests were all skipped exits with 77. In a
// loop over cases, IN("bits=", bits, " n=", n) says which one a claim that failed was about, to the end of its scope.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace check {

struct test_case {
    const char * name;
    void (*run)();
};

struct skipped {
    std::string reason;
};

inline std::vector<test_case> & all() {
    static std::vector<test_case> cases;
    return cases;
}

inline std::atomic<int> failures{0};

struct registrar {
    registrar(const char * name, void (*run)()) { all().push_back({name, run}); }
};

template <typename T>
std::string text(const T & value) {
    std::ostringstream out;
    out << value;
    return out.str();
}

template <typename T>
std::string text(const std::optional<T> & value) {
    return value ? text(*value) : "none";
}

// The case that this thread is in, from the outermost scope of IN to the innermost; and the one that an exception that
// is on its way, or was last, left.
inline thread_local std::vector<std::string> cases;
inline thread_local std::string left_case;

inline std::string where() {
    std::string all;
    for (const std::string & one : cases) {
        all += (all.empty() ? " [" : ", ") + one;
    }
    return all.empty() ? all : all + "]";
}

class in_case {
  public:
    template <typename... Parts>
    explicit in_case(const Parts &... parts) : n_exceptions_(std::uncaught_exceptions()) {
        cases.push_back((text(parts) + ...));
        left_case.clear();
    }
    ~in_case() {
        if (std::uncaught_exceptions() > n_exceptions_ && left_case.empty()) {
            left_case = where();
        }
        cases.pop_back();
    }
    in_case(in_case &&) = delete;

  private:
    int n_exceptions_;
};

inline void report(const char * file, int line, const std::string & what) {
    std::printf("  %s:%d: %s%s\n", file, line, what.c_str(), where().c_str());
    ++failures;
}

inline std::string read_file(const std::string & path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// The test data beside the project; skips the calling test where it is absent.
inline std::string shared_path(const std::string & relative) {
    const std::string path = std::string(LIVEKV_ROOT) + "/../shared/" + relative;
    if (!std::filesystem::exists(path)) {
        throw skipped{"no ../shared/" + relative};
    }
    return path;
}

inline int run_all() {
    int n_skipped = 0;
    const char * wanted = std::getenv("LIVEKV_TESTS");  // only tests with this in their name
    for (const test_case & test : all()) {
        if (wanted && std::string(test.name).find(wanted) == std::string::npos) {
            ++n_skipped;
            continue;
        }
        const int before = failures;
        left_case.clear();
        try {
            test.run();
            std::printf("%s %s\n", failures == before ? "ok  " : "FAIL", test.name);
        } catch (const skipped & skip) {
            ++n_skipped;
            std::printf("skip %s: %s\n", test.name, skip.reason.c_str());
        } catch (const std::exception & problem) {
            report(test.name, 0, std::string("unexpected exception: ") + problem.what() + left_case);
        }
    }
    const bool all_skipped = n_skipped == static_cast<int>(all().size());
    return failures ? 1 : all_skipped ? 77 : 0;
}

}  // namespace check

#define TEST(name)                                                \
    static void name();                                           \
    static const check::registrar name##_registrar(#name, &name); \
    static void name()

#define CHECK_JOIN_(a, b) a##b
#define CHECK_NAME_(line) CHECK_JOIN_(in_case_, line)
#define IN(...) const check::in_case CHECK_NAME_(__LINE__)(__VA_ARGS__)

#define CHECK(condition)                                                 \
    do {                                                                 \
        if (!(condition)) check::report(__FILE__, __LINE__, #condition); \
    } while (0)

#define CHECK_EQ(actual, expected)                                                                         \
    do {                                                                                                   \
        const auto & actual_ = (actual);                                                                   \
        const auto & expected_ = (expected);                                                               \
        if (!(actual_ == expected_))                                                                       \
            check::report(__FILE__, __LINE__,                                                              \
                          #actual " is " + check::text(actual_) + ", expected " + check::text(expected_)); \
    } while (0)

// The statement must throw livekv::error whose message holds the given text.
#define CHECK_ERROR(statement, part)                                                                    \
    do {                                                                                                \
        try {                                                                                           \
            statement;                                                                                  \
            check::report(__FILE__, __LINE__, #statement " did not throw");                             \
        } catch (const livekv::error & e_) {                                                            \
            if (std::string(e_.what()).find(part) == std::string::npos)                                 \
                check::report(__FILE__, __LINE__,                                                       \
                              std::string("the error says '") + e_.what() + "', not '" + (part) + "'"); \
        }                                                                                               \
    } while (0)

#define SKIP(reason)       \
    throw check::skipped { \
        reason             \
    }

#define TEST_MAIN                \
    int main() {                 \
        return check::run_all(); \
    }
