// What check.h says of a claim that failed in a loop: which case it was about.

#include <unistd.h>

#include "check.h"
#include "error.h"

TEST(a_claim_is_in_the_cases_whose_scopes_are_open) {
    CHECK_EQ(check::where(), "");
    for (const int bits : {2, 3}) {
        IN("bits=", bits);
        for (const int n : {7, 8}) {
            IN("n=", n, " of ", 8);
            CHECK_EQ(check::where(), " [bits=" + std::to_string(bits) + ", n=" + std::to_string(n) + " of 8]");
        }
        CHECK_EQ(check::where(), " [bits=" + std::to_string(bits) + "]");
    }
    CHECK_EQ(check::where(), "");
}

TEST(an_exception_remembers_the_innermost_case_it_left) {
    try {
        IN("outer");
        IN("inner");
        livekv::fail("wrong");
    } catch (const livekv::error &) {
    }
    CHECK_EQ(check::left_case, " [outer, inner]");
    CHECK_EQ(check::where(), "");
    IN("the next case");
    CHECK_EQ(check::left_case, "");
}

TEST(a_report_ends_with_the_case) {
    std::fflush(stdout);
    const int terminal = ::dup(1);
    std::FILE * const kept = std::tmpfile();
    ::dup2(::fileno(kept), 1);
    const int before = check::failures;
    for (const int n : {1, 2, 3}) {
        IN("n=", n);
        CHECK(n != 2);
    }
    std::fflush(stdout);
    ::dup2(terminal, 1);
    ::close(terminal);
    std::rewind(kept);
    char line[1000] = "";
    const bool read = std::fgets(line, sizeof(line), kept) != nullptr;
    std::fclose(kept);
    const int reported = check::failures - before;
    check::failures = before;
    CHECK(read);
    CHECK_EQ(reported, 1);
    CHECK(std::string(line).ends_with(": n != 2 [n=2]\n"));
}

TEST_MAIN
