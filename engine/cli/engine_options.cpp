#include "cli/engine_options.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <new>
#include <thread>

#include "model/utf8.h"

namespace livekv {

void engine_options::declare(option_table & table, bool kv_is_list) {
    n_threads = std::max(1u, std::thread::hardware_concurrency());
    table.group("Model and machine");
    table.text("-m,--model", model_path, "FILE", "GGUF file of a LLaMA-architecture model");
    table.integer("-t,--threads", n_threads, 1, 512, "CPU threads");
    table.integer("-ngl,--gpu-layers", n_gpu_layers, 0, 100000, "layers computed on the GPU, when the build has one");
    table.group("Cache");
    if (!kv_is_list) {
        table.choice("--kv", kv, kv_policy_names(), "how keys and values are stored");
    }
    table.integer("--chunk-size", chunk_size, 32, 4096, "prompt tokens processed together, a multiple of 32");
    table.require([this](const std::string &) { return chunk_size % 32 == 0; }, "a multiple of 32");
}

session_params engine_options::params(int64_t n_ctx) const {
    session_params p;
    p.n_ctx = n_ctx;
    p.chunk_size = chunk_size;
    p.n_threads = static_cast<int32_t>(n_threads);
    p.kv = kv;
    return p;
}

void engine_options::check() const {
    if (model_path.empty()) {
        throw usage_error("no model given (-m FILE)");
    }
}

int run_tool(const char * name, int (*body)(int argc, char ** argv), int argc, char ** argv) {
    try {
        return body(argc, argv);
    } catch (const usage_error & problem) {
        std::cerr << name << ": " << problem.what() << "\n";
        return 2;
    } catch (const std::bad_alloc &) {
        std::cerr << name << ": not enough memory\n";
    } catch (const std::exception & problem) {
        std::cerr << name << ": " << problem.what() << "\n";
    }
    return 1;
}

namespace {

std::string temporary_beside(const std::string & path) { return path + ".tmp" + std::to_string(::getpid()); }

}  // namespace

void write_file(const std::string & path, const std::string & text) {
    if (path == "-") {
        std::cout << text << std::flush;
        return;
    }
    const std::string temporary = temporary_beside(path);
    std::ofstream out(temporary, std::ios::binary);
    out << text << std::flush;
    if (!out || std::rename(temporary.c_str(), path.c_str()) != 0) {
        const int reason = errno;
        std::remove(temporary.c_str());
        fail("cannot write '", path, "': ", std::strerror(reason));
    }
}

void check_writable(const std::string & path) {
    if (path == "-") {
        return;
    }
    const std::string temporary = temporary_beside(path);
    std::ofstream out(temporary);
    const int reason = errno;
    if (!out) {
        fail("cannot write '", path, "': ", std::strerror(reason));
    }
    out.close();
    std::remove(temporary.c_str());
}

std::string read_text(const std::string & path) {
    if (path == "-") {
        return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
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
