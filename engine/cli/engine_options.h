#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "options.h"
#include "session/session.h"

namespace livekv {

// What every tool asks for: the model, the machine, and how prompts are chunked.
struct engine_options {
    std::string model_path;
    int64_t n_threads = 0;  // 0 until declared: then the machine's
    int64_t n_gpu_layers = 0;
    int64_t chunk_size = 512;
    std::string kv = "f16";

    // kv_is_list: the tool compares several caches and declares its own --kv.
    void declare(option_table & table, bool kv_is_list);

    session_params params(int64_t n_ctx) const;

    // Throws usage_error when a required option is missing.
    void check() const;
};

// Runs a tool's body and turns what it throws into one line on stderr and the exit status: 2 for a usage_error, 1 for
// anything else.
int run_tool(const char * name, int (*body)(int argc, char ** argv), int argc, char ** argv);

// Writes text to a file beside path and renames it, so that path is complete or untouched; "-" is stdout.
// Throws livekv::error when the file cannot be written.
void write_file(const std::string & path, const std::string & text);

// Throws livekv::error now when write_file would fail later.
void check_writable(const std::string & path);

// The whole file, or stdin when path is "-". Throws livekv::error.
std::string read_text(const std::string & path);

// Throws livekv::error naming the first byte that is not UTF-8; what: how the message calls the text.
void require_utf8(const std::string & text, const char * what);

// Highest resident memory of this process so far, bytes.
int64_t peak_rss_bytes();

}  // namespace livekv
