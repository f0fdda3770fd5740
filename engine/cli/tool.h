#pragma once

#include <cstdint>
#include <string>

// What every tool does with the outside world.
namespace livekv {

// Runs a tool's body and turns what it throws into one line on stderr and the exit status: 2 for a usage_error, 1 for
// anything else, output that could not be written included.
int run_tool(const char * name, int (*body)(int argc, char ** argv), int argc, char ** argv);

// Throws livekv::error when something written to stdout is lost: a full disk, nobody reads.
void flush_stdout();

// Writes text to a file beside path and renames it, so that path is complete or untouched; "-" is stdout.
// Throws livekv::error when the file cannot be written.
void write_file(const std::string & path, const std::string & text);

// From now on no file that this process writes replaces the one at path, by whatever name: what a tool reads is kept.
void keep_input(const std::string & path);

// Whether two paths lead to one file, or would once it is there.
bool same_file(const std::string & a, const std::string & b);

// Throws livekv::error now when write_file would fail later.
void check_writable(const std::string & path);

// The whole file, or stdin when path is "-". Throws livekv::error.
std::string read_text(const std::string & path);

// Throws livekv::error naming the first byte that is not UTF-8; what: how the message calls the text.
void require_utf8(const std::string & text, const char * what);

// Highest resident memory of this process so far, bytes.
int64_t peak_rss_bytes();

}  // namespace livekv
