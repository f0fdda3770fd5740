#include "cli/tool.h"

#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <new>
#include <system_error>

#include "atomic_file.h"
#include "policy/kv_option_table.h"
#include "error.h"
#include "graph/cpu_features.h"
#include "model/utf8.h"
#include "options.h"

namespace livekv {

int run_tool(const char * name, int (*body)(int argc, char ** argv), int argc, char ** argv) {
    try {
        if (const std::string missing = missing_cpu_features(); !missing.empty()) {
            fail("this program was built for a CPU with ", missing, "; build it anew here, or with -DLIVEKV_GGML_CPU=x86-64");
        }
        return body(argc, argv);
    } catch (const usage_error & problem) {
        std::cerr << name << ": " << problem.what() << "\n";
        return 2;
    } catch (const kv_option_error & problem) {
        std::cerr << name << ": " << kv_flag_of(problem.field) << ": " << problem.problem << "\n";
        return 2;
    } catch (const std::bad_alloc &) {
        std::cerr << name << ": not enough memory\n";
    } catch (const std::exception & problem) {
        std::cerr << name << ": " << problem.what() << "\n";
    }
    return 1;
}

void write_file(const std::string & path, const std::string & text) {
    if (path == "-") {
        std::cout << text << std::flush;
        return;
    }
    atomic_file file(path);
    file.append({reinterpret_cast<const uint8_t *>(text.data()), text.size()});
    file.commit();
}

void check_writable(const std::string & path) {
    if (path != "-") {
        const atomic_file trial(path);  // removed again, as it is not committed
    }
}

std::string read_text(const std::string & path) {
    if (path == "-") {
        return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
    }
    if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
        fail("cannot read '", path, "': ", std::strerror(EISDIR));
    }
    errno = 0;
    std::ifstream in(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    if (!in || (text.empty() && errno != 0)) {
        fail("cannot read '", path, "': ", errno ? std::strerror(errno) : "unknown reason");
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
