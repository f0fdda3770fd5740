// What a process of its own shows: memory that grows by the blocks alone, and the CPU level LIVEKV_CPU names.

#include <malloc.h>

#include <cstdlib>

#include "check.h"
#include "error.h"
#include "kernels/cpu/kernels.h"
#include "memory/host_pool.h"
#include "session/session.h"
#include "tiny_model.h"

using namespace livekv;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;  // its own allocator
#else
constexpr bool sanitized = false;
#endif

std::vector<int32_t> some_tokens(size_t n, uint32_t seed = 3) {
    std::vector<int32_t> tokens;
    while (tokens.size() < n) {
        seed = seed * 1103515245 + 12345;
        tokens.push_back(3 + static_cast<int32_t>((seed >> 8) % 200));
    }
    return tokens;
}

// This program with arguments, in an environment with an assignment more; its output and exit status.
struct finished {
    std::string output;
    int status = 0;
};

finished run_self(const std::string & arguments, const std::string & environment) {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
    const std::string command = environment + " '" + self + "' " + arguments + " 2>&1";
    finished f;
    FILE * pipe = ::popen(command.c_str(), "r");
    char part[256];
    for (size_t n; (n = std::fread(part, 1, sizeof(part), pipe)) > 0;) {
        f.output.append(part, n);
    }
    f.status = ::pclose(pipe);
    return f;
}

// One layer whose cache outweighs all else.
tiny_spec memory_spec() {
    tiny_spec spec;
    spec.n_layer = 1;
    spec.n_embd = 32;
    spec.n_head = 8;
    spec.n_head_kv = 8;
    spec.head_dim = 128;
    spec.n_ff = 32;
    spec.n_ctx = 40000;
    return spec;
}

// Prints cache bytes, bytes in use on the heap and in the pool, and the peak of resident memory after n tokens.
int print_memory(const std::string & path, size_t n) {
    session_params p;
    p.n_ctx = 40000;
    p.n_threads = 1;  // more: chance decides how many seal at the same time
    p.kv.bypass_layers = 0;
    const std::vector<int32_t> tokens = some_tokens(40000);
    session s(model::load(path), p);
    s.prefill(std::span(tokens).first(n));
    for (int i = 0; i < 4; ++i) {
        s.prefill(std::span(tokens).subspan(n + static_cast<size_t>(i), 1));
    }
    const struct mallinfo2 heap = ::mallinfo2();
    std::ifstream status("/proc/self/status");
    std::string line;
    while (std::getline(status, line) && line.rfind("VmHWM:", 0) != 0) {
    }
    std::printf("%zu %zu %lld\n", s.cache().bytes(), heap.uordblks + heap.hblkhd + host_pool::bytes_taken(),
                1024 * std::atoll(line.c_str() + 6));
    return 0;
}

struct memory {
    double cache = 0;
    double heap = 0;
    double peak = 0;
};

memory memory_at(const std::string & path, size_t n) {
    // One arena, and what is mapped is given back: the peak is then what was needed.
    const finished f = run_self("memory '" + path + "' " + std::to_string(n),
                                "MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=0");
    memory m;
    std::istringstream(f.output) >> m.cache >> m.heap >> m.peak;
    if (f.status != 0) {
        check::report(__FILE__, __LINE__, f.output);
    }
    return m;
}

}  // namespace

TEST(memory_grows_by_the_blocks_alone) {
    if (sanitized) {
        SKIP("a sanitizer has an allocator of its own");
    }
    const temporary_file path(".gguf");
    write_tiny_model(memory_spec(), path.path());
    const double n_more = 28672;
    const double ids = n_more * sizeof(int32_t);  // the session keeps its tokens
    bool agrees = false;
    // What else lies in a process, pages of files and libraries, comes and goes by up to a MiB: three attempts.
    for (int attempt = 0; attempt < 3 && !agrees; ++attempt) {
        // A little less than powers of two: vectors that grow by doubling have no room to spare.
        const memory small = memory_at(path.path(), 4096 - 6);
        const memory large = memory_at(path.path(), 32768 - 6);
        const double blocks = large.cache - small.cache;
        const double heap = large.heap - small.heap - ids;
        const double peak = large.peak - small.peak - ids;
        std::printf("  %.0f tokens: %.0f bytes of cache, %.0f more on the heap, %.0f of peak resident memory\n", n_more,
                    blocks, heap, peak);
        const double bits = 8 * blocks / (n_more * 2 * 8 * 128);
        CHECK(bits > 4.2 && bits < 4.5);
        CHECK(std::fabs(heap / blocks - 1.0) < 0.05);
        agrees = std::fabs(peak / blocks - 1.0) < 0.05;
    }
    CHECK(agrees);
}

TEST(the_level_livekv_cpu_names_is_the_one_that_runs) {
    for (const char * name : {"generic", "avx2", "avx512"}) {
        const finished f = run_self("cpu", std::string("LIVEKV_CPU=") + name);
        if (find_cpu_kernels(name)) {
            CHECK_EQ(f.output, std::string(name) + "\n");
        } else {
            CHECK(f.output.find("this machine runs none of that name") != std::string::npos);
        }
    }
    const std::string best = find_cpu_kernels("avx512") ? "avx512\n"
                             : find_cpu_kernels("avx2") ? "avx2\n"
                                                        : "generic\n";
    CHECK_EQ(run_self("cpu", "LIVEKV_CPU=").output, best);
    for (const char * wrong : {"sse9", "AVX2", "avx"}) {
        const finished f = run_self("cpu", std::string("LIVEKV_CPU=") + wrong);
        CHECK_EQ(f.output, std::string("error: LIVEKV_CPU=") + wrong +
                               ": this machine runs none of that name; there are generic, avx2 and avx512\n");
    }
}

int main(int argc, char ** argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    try {
        if (what == "cpu") {
            std::printf("%s\n", best_cpu_kernels().name);
            return 0;
        }
        if (what == "memory" && argc == 4) {
            return print_memory(argv[2], static_cast<size_t>(std::atoll(argv[3])));
        }
    } catch (const error & e) {
        std::printf("error: %s\n", e.what());
        return 1;
    }
    return check::run_all();
}
