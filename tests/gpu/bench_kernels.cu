// bench_kernels: what the device's kernels take, beside what it takes to copy as many bytes. 8B shapes (32 heads, 8 kv
// heads, head_dim 128, chunks of 512). Prints one JSON object a line:
//
//   copy     bandwidth of a large copy on the device, read plus written
//   decode   one token's attention over n tokens, fast kernel and joining of spans, replayed as a CUDA graph; bytes: of
//            the blocks. Layers take turns, so that no layer is in the second-level cache when its turn comes
//   prefill  512 tokens' attention after n tokens
//   seal     one chunk of one layer
//
// Each fast result is compared with the plain kernel's first; the program fails where they differ.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <iterator>
#include <random>
#include <vector>

#include "error.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kv/f16.h"
#include "kv/kv_pack.h"

using namespace livekv;

namespace {

constexpr int32_t n_head = 32;
constexpr int32_t n_head_kv = 8;
constexpr int32_t head_dim = 128;
constexpr int32_t chunk = 512;
constexpr int32_t row = n_head_kv * head_dim;
constexpr double fast_nmse = 1e-5;  // of the fast kernels' rounding to f16, as in the tests

class memory {
  public:
    explicit memory(size_t bytes) : data_(device::allocate(bytes)) {}
    ~memory() { device::release(data_); }
    memory(const memory &) = delete;

    template <typename T = uint8_t>
    T * as() const {
        return static_cast<T *>(data_);
    }

  private:
    void * data_;
};

struct shape {
    const char * name;
    int32_t k_bits;
    int32_t v_bits;
    double outlier_ratio;
    double v_outlier_ratio;
    bool key_classes;
};

kv_method method_of(const shape & s) {
    kv_method m;
    m.k_bits = s.k_bits;
    m.v_bits = s.v_bits;
    m.scale_method = kv_method::scale::ema_clipped;
    m.key_group = 128;
    m.zero_point = true;
    m.outlier_ratio = s.outlier_ratio;
    m.v_outlier_ratio = s.v_outlier_ratio;
    m.key_classes = s.key_classes;
    return m;
}

cudaStream_t the_stream() {
    static cudaStream_t s = [] {
        cudaStream_t created = nullptr;
        device::check(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking), "making a stream");
        return created;
    }();
    return s;
}

// Median seconds of work, which only puts things into the stream.
double median_seconds(const std::function<void()> & work, int32_t n_runs) {
    std::vector<double> runs;
    device::stopwatch watch;
    for (int32_t i = -2; i < n_runs; ++i) {
        watch.start(the_stream());
        work();
        watch.stop(the_stream());
        device::wait(the_stream());
        if (i >= 0) {
            runs.push_back(watch.seconds());
        }
    }
    std::sort(runs.begin(), runs.end());
    return runs[runs.size() / 2];
}

// The same, captured once and replayed: launches cost what they cost in a graph.
double median_graph_seconds(const std::function<void()> & work, int32_t n_runs) {
    work();  // what is done once only is done now
    device::wait(the_stream());
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    device::check(cudaStreamBeginCapture(the_stream(), cudaStreamCaptureModeThreadLocal), "capturing");
    work();
    device::check(cudaStreamEndCapture(the_stream(), &graph), "capturing");
    device::check(cudaGraphInstantiate(&ready, graph, 0), "making a graph");
    const double s =
        median_seconds([&] { device::check(cudaGraphLaunch(ready, the_stream()), "running a graph"); }, n_runs);
    cudaGraphExecDestroy(ready);
    cudaGraphDestroy(graph);
    return s;
}

double copy_bandwidth() {
    const size_t bytes = size_t{4} << 30;
    const memory a(bytes);
    const memory b(bytes);
    device::clear(a.as(), bytes, the_stream());
    const double s = median_seconds([&] { device::copy_on_device(b.as(), a.as(), bytes, the_stream()); }, 10);
    return 2.0 * static_cast<double>(bytes) / s;
}

std::vector<uint16_t> random_f16(size_t n, uint32_t seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    std::vector<uint16_t> x(n);
    for (uint16_t & h : x) {
        h = f32_to_f16(normal(rng));
    }
    return x;
}

// Layers of n tokens in sealed chunks. Four different chunks, in turns, each in its own memory.
class layers {
  public:
    layers(const shape & s, int64_t n_tokens, int32_t n_layers, int32_t n_new)
        : method_(method_of(s)),
          n_chunks_(static_cast<int32_t>(n_tokens / chunk)),
          k_bytes_(n_head_kv * kv_map(block_header(method_, kv_side::key, chunk, head_dim)).bytes),
          v_bytes_(n_head_kv * kv_map(block_header(method_, kv_side::value, chunk, head_dim)).bytes),
          n_layers_(n_layers),
          blocks_(static_cast<size_t>(n_layers * n_chunks_) * (k_bytes_ + v_bytes_)),
          table_(static_cast<size_t>(n_layers * n_chunks_) * sizeof(device_chunk)),
          rows_(size_t{4} * chunk * row * sizeof(uint16_t)),
          state_(size_t{2} * n_head_kv * 3 * head_dim * sizeof(float)),
          words_(sizeof(uint32_t) * device::seal_words(method_, chunk, n_head, n_head_kv, head_dim)),
          words_bytes_(sizeof(uint32_t) * device::seal_words(method_, chunk, n_head, n_head_kv, head_dim)),
          n_new_(n_new),
          q_(static_cast<size_t>(n_new * n_head * head_dim) * sizeof(float)),
          out_(static_cast<size_t>(n_new * n_head * head_dim) * sizeof(float)),
          chunk_q_(static_cast<size_t>(chunk * n_head * head_dim) * sizeof(float)),
          workspace_(sizeof(float) * device::attention_floats(chunk, n_head, n_head_kv, head_dim)) {
        const std::vector<uint16_t> values = random_f16(size_t{4} * chunk * row, 1);
        device::copy_to_device(rows_.as(), values.data(), 2 * values.size(), the_stream());
        device::clear(words_.as(), words_bytes_, the_stream());
        device::clear(state_.as(), size_t{2} * n_head_kv * 3 * head_dim * sizeof(float), the_stream());
        const std::vector<uint16_t> q16 = random_f16(static_cast<size_t>(n_new * n_head * head_dim), 2);
        std::vector<float> q;
        for (const uint16_t h : q16) {
            q.push_back(f16_to_f32(h));
        }
        device::copy_to_device(q_.as(), q.data(), q.size() * sizeof(float), the_stream());
        std::vector<float> chunk_q;
        for (const uint16_t h : random_f16(static_cast<size_t>(chunk * n_head * head_dim), 3)) {
            chunk_q.push_back(f16_to_f32(h));
        }
        device::copy_to_device(chunk_q_.as(), chunk_q.data(), chunk_q.size() * sizeof(float), the_stream());
        std::vector<device_chunk> table;
        for (int32_t i = 0; i < n_layers * n_chunks_; ++i) {
            if (i < 4) {
                seal(i);
            } else {
                device::copy_on_device(block(i), block(i % 4), k_bytes_ + v_bytes_, the_stream());
            }
            device_chunk c;
            c.k = side_of_blocks(block(i), block_header(method_, kv_side::key, chunk, head_dim));
            c.v = side_of_blocks(block(i) + k_bytes_, block_header(method_, kv_side::value, chunk, head_dim));
            c.n_tokens = chunk;
            c.first_tile = static_cast<int64_t>(i % n_chunks_) * (chunk / kv_tile_tokens);
            table.push_back(c);
        }
        device::copy_to_device(table_.as(), table.data(), table.size() * sizeof(device_chunk), the_stream());
        device::wait(the_stream());
    }

    void seal(int32_t i) {
        device_seal s;
        s.k = rows_.as<uint16_t>() + static_cast<size_t>(i % 4) * chunk * row;
        s.v = rows_.as<uint16_t>() + static_cast<size_t>((i + 1) % 4) * chunk * row;
        s.k_blocks = block(i);
        s.v_blocks = block(i) + k_bytes_;
        s.old_state = state_.as<float>();
        s.new_state = state_.as<float>() + n_head_kv * 3 * head_dim;
        s.state_floats = (method_.key_classes ? 2 : 1) * head_dim;
        s.q = chunk_q_.as<float>();
        s.n_new = chunk;
        s.n_head = n_head;
        s.n_tokens = chunk;
        s.n_head_kv = n_head_kv;
        s.head_dim = head_dim;
        s.method = method_;
        device::seal(s, words_.as<uint32_t>(), the_stream());
    }

    void attend(int32_t layer, device::attention_kernel kernel) {
        device_attention a;
        a.q = q_.as<float>();
        a.out = out_.as<float>();
        a.n_tokens = n_new_;
        a.n_head = n_head;
        a.n_head_kv = n_head_kv;
        a.head_dim = head_dim;
        a.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
        a.chunks = table_.as<device_chunk>() + layer * n_chunks_;
        a.n_chunks = n_chunks_;
        a.tiles_per_chunk = chunk / kv_tile_tokens;
        a.n_chunk_tiles = static_cast<int64_t>(n_chunks_) * (chunk / kv_tile_tokens);
        a.v_outliers = method_.v_outliers(head_dim);
        a.open.k.data = a.open.v.data = rows_.as();
        a.open.k.n_stored = a.open.v.n_stored = static_cast<uint16_t>(n_new_);
        a.open.n_tokens = n_new_;
        a.sinks.first_tile = a.sinks_tile();
        a.open.first_tile = a.open_tile();
        device::attend(a, key_width(method_), method_.v_bits, workspace_.as<float>(), nullptr, the_stream(), kernel);
    }

    std::vector<float> result() const {
        std::vector<float> x(static_cast<size_t>(n_new_ * n_head * head_dim));
        device::copy_to_host(x.data(), out_.as(), x.size() * sizeof(float), the_stream());
        return x;
    }

    double layer_bytes() const { return static_cast<double>(n_chunks_) * static_cast<double>(k_bytes_ + v_bytes_); }

  private:
    uint8_t * block(int32_t i) const { return blocks_.as() + static_cast<size_t>(i) * (k_bytes_ + v_bytes_); }

    kv_method method_;
    int32_t n_chunks_;
    size_t k_bytes_;
    size_t v_bytes_;
    int32_t n_layers_;
    memory blocks_;
    memory table_;
    memory rows_;
    memory state_;
    memory words_;
    size_t words_bytes_;
    int32_t n_new_;
    memory q_;
    memory out_;
    memory chunk_q_;  // of a chunk's tokens
    memory workspace_;
};

void require_equal(layers & l, device::attention_kernel kernel) {
    l.attend(0, device::attention_kernel::plain);
    const std::vector<float> expected = l.result();
    l.attend(0, kernel);
    const std::vector<float> got = l.result();
    double error = 0.0;
    double energy = 0.0;
    for (size_t i = 0; i < got.size(); ++i) {
        error += std::pow(static_cast<double>(got[i]) - expected[i], 2);
        energy += std::pow(static_cast<double>(expected[i]), 2);
    }
    if (!(error <= fast_nmse * energy)) {
        fail("the fast kernel differs from the plain one: NMSE ", error / energy);
    }
}

void bench_decode(const shape & s, int64_t n, double bandwidth) {
    constexpr int32_t n_layers = 8;
    layers small(s, 4096, 1, 1);
    require_equal(small, device::attention_kernel::step);
    layers l(s, n, n_layers, 1);
    const double seconds = median_graph_seconds(
                               [&] {
                                   for (int32_t i = 0; i < n_layers; ++i) {
                                       l.attend(i, device::attention_kernel::step);
                                   }
                               },
                               20) /
                           n_layers;
    std::printf(
        "{\"bench\": \"decode\", \"shape\": \"%s\", \"tokens\": %lld, \"us\": %.2f, \"bytes\": %.0f, "
        "\"GB_s\": %.1f, \"of_copy\": %.3f}\n",
        s.name, static_cast<long long>(n), 1e6 * seconds, l.layer_bytes(), 1e-9 * l.layer_bytes() / seconds,
        l.layer_bytes() / seconds / bandwidth);
    std::fflush(stdout);
}

void bench_prefill(const shape & s, int64_t n) {
    layers small(s, 1024, 1, 160);
    require_equal(small, device::attention_kernel::rows);
    layers l(s, n, 1, chunk);
    const double seconds = median_seconds([&] { l.attend(0, device::attention_kernel::rows); }, 5);
    const double operations = 4.0 * n_head * head_dim * chunk * (static_cast<double>(n) + 0.5 * chunk);
    std::printf("{\"bench\": \"prefill\", \"shape\": \"%s\", \"tokens\": %lld, \"us\": %.1f, \"TFLOPS\": %.1f}\n",
                s.name, static_cast<long long>(n), 1e6 * seconds, 1e-12 * operations / seconds);
    std::fflush(stdout);
}

void bench_seal(const shape & s) {
    layers l(s, 4 * chunk, 1, 1);
    const double seconds = median_graph_seconds(
                               [&] {
                                   for (int32_t i = 0; i < 4; ++i) {
                                       l.seal(i);
                                   }
                               },
                               20) /
                           4;
    std::printf("{\"bench\": \"seal\", \"shape\": \"%s\", \"tokens\": %d, \"us\": %.2f}\n", s.name, chunk,
                1e6 * seconds);
    std::fflush(stdout);
}

}  // namespace

int main() {
    try {
        const shape shapes[] = {{"default", 4, 4, 0.005, 0.0, false},    {"quality", 5, 4, 0.01, 0.0, false},
                                {"small", 4, 3, 0.005, 0.0, false},      {"reference", 4, 4, 0.01, 0.01, false},
                                {"bypass", 8, 8, 0.0, 0.0, false},       {"by class, 4 4", 4, 4, 0.0, 0.0, true},
                                {"by class, 3 3", 3, 3, 0.0, 0.0, true}, {"by class, 2 2", 2, 2, 0.0, 0.0, true}};
        const double bandwidth = copy_bandwidth();
        std::printf("{\"bench\": \"copy\", \"GB_s\": %.1f}\n", 1e-9 * bandwidth);
        std::fflush(stdout);
        for (const int64_t n : {32768, 131072}) {
            bench_decode(shapes[0], n, bandwidth);
        }
        bench_seal(shapes[0]);
        for (const int64_t n : {4096, 32768, 131072}) {
            bench_prefill(shapes[0], n);
        }
        bench_prefill(shapes[5], 32768);
        for (size_t i = 1; i < std::size(shapes); ++i) {
            bench_decode(shapes[i], 131072, bandwidth);
            bench_seal(shapes[i]);
        }
        return 0;
    } catch (const std::exception & problem) {
        std::fprintf(stderr, "bench_kernels: %s\n", problem.what());
        return 1;
    }
}
