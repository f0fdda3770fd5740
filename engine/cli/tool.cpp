#include "cli/tool.h"

#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <filesystem>
#include <iostream>
#include <new>
#include <system_error>
#include <vector>

#include "atomic_file.h"
#include "file_in_use.h"
#include "graph/cpu_features.h"
#include "livekv.h"
#include "options.h"
#include "policy/kv_option_table.h"
#include "utf8.h"

namespace livekv {

int run_tool(const char * name, int (*body)(int argc, char ** argv), int argc, char ** argv) {
    std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow further is a write that fails
    try {
        if (const std::string missing = missing_cpu_features(); !missing.empty()) {
            fail("this program was built for a CPU with ", missing,
                 "; build it anew here, or with -DLIVEKV_GGML_CPU=x86-64");
        }
        const int status = body(argc, argv);
        flush_stdout();
        return status;
    } catch (const usage_error & problem) {
        std::cerr << name << ": " << problem.what() << "\n";
        return 2;
    } catch (const kv_option_error & problem) {
        std::cerr << name << ": " << "--" << kv_option_name(problem.field) << ": " << problem.problem << "\n";
        return 2;
    } catch (const std::bad_alloc &) {
        std::cerr << name << ": not enough memory\n";
    } catch (const std::exception & problem) {
        std::cerr << name << ": " << problem.what() << "\n";
    }
    return 1;
}

void flush_stdout() {
    const int before = errno;  // of a text that was longer than the buffer
    errno = 0;
    const bool flushed = std::cout.flush() && std::fflush(stdout) == 0;
    if (!flushed || std::ferror(stdout)) {
        const int reason = errno ? errno : before;
        fail("cannot write to stdout: ", reason ? std::strerror(reason) : "an earlier write failed");
    }
}

void write_file(const std::string & path, const std::string & text) {
    if (path == "-") {
        std::cout << text;
        flush_stdout();
        return;
    }
    atomic_file file(path);
    file.append({reinterpret_cast<const uint8_t *>(text.data()), text.size()});
    file.commit();
}

void keep_input(const std::string & path) {
    static std::deque<file_in_use> inputs;
    inputs.emplace_back(path);
}

bool same_file(const std::string & a, const std::string & b) {
    namespace fs = std::filesystem;
    std::error_code problem;
    if (fs::equivalent(a, b, problem)) {
        return true;
    }
    const fs::path first = fs::weakly_canonical(a, problem);
    return !problem && first == fs::weakly_canonical(b, problem) && !problem;
}

void check_writable(const std::string & path) {
    if (path != "-") {
        const atomic_file trial(path);  // removed again, as it is not committed
    }
}

std::string read_text(const std::string & path) {
    const bool from_stdin = path == "-";
    errno = 0;
    FILE * const in = from_stdin ? stdin : std::fopen(path.c_str(), "rb");
    std::string text;
    bool whole = false;
    if (in) {
        std::vector<char> part(1 << 16);
        while (const size_t n = std::fread(part.data(), 1, part.size(), in)) {
            text.append(part.data(), n);
        }
        whole = !std::ferror(in);
    }
    const int reason = errno;
    if (in && !from_stdin) {
        std::fclose(in);
    }
    if (!whole) {
        fail("cannot read ", from_stdin ? "stdin" : "'" + path + "'", ": ", std::strerror(reason));
    }
    return text;
}

void require_utf8(const std::string & text, const char * what) {
    if (const auto offset = first_invalid_utf8(text)) {
        fail(what, " is not valid UTF-8 (byte ", *offset, ")");
    }
}

int64_t peak_rss_bytes() {
    struct rusage usage = {};
    ::getrusage(RUSAGE_SELF, &usage);
    return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace livekv
