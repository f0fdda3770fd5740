#pragma once

// The device's kernels as the host calls them, and its memory. All calls of a stream run in order, none waits unless it
// says so. Errors of the device: livekv::error.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/cuda/device_kv.h"

namespace livekv::device {

using stream = void *;  // a cudaStream_t

// Memory of the device. Throws std::bad_alloc when there is not enough.
void * allocate(size_t bytes);
void release(void * p);
// The host's memory that kernels may write to (a flag): the same address on both sides.
void * allocate_on_host(size_t bytes);
void release_on_host(void * p);

void copy_to_device(void * to, const void * from, size_t bytes, stream s);  // waits
void copy_to_host(void * to, const void * from, size_t bytes, stream s);    // waits
void copy_on_device(void * to, const void * from, size_t bytes, stream s);
void clear(void * p, size_t bytes, stream s);
void wait(stream s);

// Between two places, each on the device or not, whose last use is over; waits.
void copy_between(void * to, bool to_device, const void * from, bool from_device, size_t bytes);

struct memory_use {
    size_t free = 0;
    size_t total = 0;
};
memory_use memory();
int32_t n_multiprocessors();
size_t shared_memory_limit();  // bytes a block of threads may have

// Whether the device computes the caches of a machine without a GPU: never, but for the emulation when a test asks it
// to (simt_emulated.h).
bool stands_in();

// Seconds the device spent between start and stop, once it is through; the pair may be used again then.
class stopwatch {
  public:
    stopwatch();
    ~stopwatch();
    stopwatch(stopwatch &&) noexcept;

    void start(stream s);
    void stop(stream s);
    double seconds() const;

  private:
    struct events;
    std::unique_ptr<events> events_;
};

// Which attention kernel; best: by shape and number of rows.
enum class attention_kernel { best, plain, step, rows };

// What the fast kernels are made for; others take the plain one.
bool has_fast_attention(int32_t head_dim, int32_t k_bits, int32_t v_bits);

// Floats of workspace (partial_o, partial_m and partial_l together) attend may need for passes of up to n_tokens;
// whatever the context.
size_t attention_floats(int32_t n_tokens, int32_t n_head, int32_t n_head_kv, int32_t head_dim);

// a without n_spans and partial results, which are made here of the workspace. q_rotated: [n_tokens, n_head, head_dim],
// used when keys are stored rotated. k_bits (key_width), v_bits: of the sealed chunks; 0: there are none.
void attend(device_attention a, int32_t k_bits, int32_t v_bits, float * workspace, float * q_rotated, stream s,
            attention_kernel kernel = attention_kernel::best);

// An entry of a table of chunks, without waiting as a copy from the host's memory does.
void put_chunk(const device_chunk & c, device_chunk * to, stream s);

// Keys and values of a pass into f16 rows.
void store_rows(const device_store & args, stream s);

void check_rows(const device_rows & rows, stream s);

// Tokens of the longest chunk seal takes on this device.
int32_t longest_chunk();

// Words of workspace seal needs for chunks of up to n_tokens, zeros at first; whatever the context.
size_t seal_words(const kv_method & method, int32_t n_tokens, int32_t n_head, int32_t n_head_kv, int32_t head_dim);

// s without workspace, headers and maps, which are made here.
void seal(device_seal s, uint32_t * workspace, stream on);

// What query_squares::pack makes of a pass's queries, f32 [n_tokens, n_head, head_dim]: [n_tokens, n_head_kv,
// head_dim]. With error feedback, what query_means::pack does; the first one is token `first` of its chunk.
void pack_queries(const kv_method & method, const float * q, int32_t first, int32_t n_tokens, int32_t n_head,
                  int32_t n_head_kv, int32_t head_dim, uint8_t * to, stream on);

}  // namespace livekv::device
