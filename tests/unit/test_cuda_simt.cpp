// What the emulation of the GPU (kernels/cuda/simt_emulated.h) refuses: mistakes a GPU traps on, or does not notice.

#include <cstdint>

#include "check.h"
#include "error.h"
#include "kernels/cuda/launch.h"

using namespace livekv;

namespace {

constexpr size_t shared_bytes = 256;

// One block of two warps.
void run(const std::function<void()> & body) {
    simt::emulated::run({}, 2 * simt::warp_size, shared_bytes, body);
}

SIMT_KERNEL void empty_kernel(int32_t) {}

}  // namespace

TEST(accesses_are_aligned_and_within_shared_memory) {
    run([] { *simt::as<uint32_t>(simt::shared() + 4 * simt::thread()) = 1; });
    CHECK_ERROR(run([] { *simt::as<simt::two_words>(simt::shared() + 4) = {}; }), "not aligned");
    CHECK_ERROR(run([] { *simt::as<uint32_t>(simt::shared() + shared_bytes) = 1; }), "behind the shared memory");
    alignas(4) const uint8_t global[8] = {};
    CHECK_ERROR(run([&] { simt::load_once(global + 2); }), "not aligned");
#if !defined(__SANITIZE_ADDRESS__)  // which sees it first
    CHECK_ERROR(run([] { simt::shared()[shared_bytes + 7] = 1; }), "writes behind its 256 bytes");
#endif
}

TEST(matrices_and_copies_lie_where_they_must) {
    alignas(16) const uint8_t global[32] = {};
    uint32_t r[4];
    run([&] { simt::load_matrices(r, simt::shared() + 16 * (simt::lane() % 16)); });
    CHECK_ERROR(run([&] { simt::load_matrices(r, simt::shared() + 8); }), "not aligned");
    CHECK_ERROR(run([&] { simt::load_matrices_transposed(r, global); }), "not in shared memory");
    CHECK_ERROR(run([&] { simt::copy_16(simt::shared(), global + 8, true); }), "not aligned");
    CHECK_ERROR(run([&] { simt::copy_16(simt::shared() + shared_bytes - 8, global, true); }), "not aligned");
    CHECK_ERROR(run([&] { simt::copy_16(simt::shared(), simt::shared() + 16, true); }), "should be in global");
    CHECK_ERROR(run([] { simt::load_once(simt::shared()); }), "should be in global");
}

TEST(copies_are_there_once_waited_for) {
    alignas(16) const uint8_t global[16] = {7};
    uint8_t early = 0;
    uint8_t late = 0;
    run([&] {
        if (simt::thread() == 0) {
            simt::copy_16(simt::shared(), global, true);
            early = simt::shared()[0];
            simt::wait_copies();
            late = simt::shared()[0];
        }
    });
    CHECK_EQ(static_cast<int>(early), 0xff);
    CHECK_EQ(static_cast<int>(late), 7);
    CHECK_ERROR(run([&] { simt::copy_16(simt::shared(), global, true); }), "copies.empty()");
}

TEST(threads_meet_at_one_place) {
    const auto lanes_apart = [] {
        if (simt::lane() < 16) {
            simt::ballot(true);
        } else {
            simt::ballot(false);
        }
    };
    const auto warps_apart = [] {
        if (simt::warp() == 0) {
            simt::sync();
        } else {
            simt::sync();
        }
    };
    const auto one_missing = [] {
        if (simt::lane() != 5) {
            simt::sync_warp();
        }
    };
    CHECK_ERROR(run(lanes_apart), "others wait at line");
    CHECK_ERROR(run(warps_apart), "others wait at line");
    CHECK_ERROR(run(one_missing), "not all reach the same barrier");
}

TEST(late_writes_are_seen_after_a_barrier) {
    simt::emulated::set_late_writes(true);
    uint32_t by_shuffle = 0;
    uint32_t by_barrier = 0;
    run([&] {
        auto * const x = simt::as<uint32_t>(simt::shared());
        x[simt::thread()] = 0;
        simt::sync();
        x[simt::thread()] = 7;
        simt::shuffle(0, 0);
        by_shuffle += simt::thread() == 0 ? x[1] : 0u;
        simt::sync_warp();
        by_barrier += simt::thread() == 0 ? x[1] : 0u;
    });
    CHECK_EQ(by_shuffle, 0u);
    CHECK_EQ(by_barrier, 7u);
    const auto both_write = [] {
        simt::shared()[0] = static_cast<uint8_t>(simt::lane());
        simt::sync_warp();
    };
    CHECK_ERROR(run(both_write), "two threads of a kernel write byte 0");
    simt::emulated::set_late_writes(false);
}

TEST(grids_and_shared_memory_are_what_a_gpu_takes) {
    const auto launch = [](simt::dim grid, int32_t n_threads, size_t bytes) {
        device::launch(empty_kernel, grid, n_threads, bytes, nullptr, 0);
    };
    launch({1, 1, 1}, 32, 100 << 10);
    CHECK_ERROR(launch({1, 65536, 1}, 32, 0), "grid.y");
    CHECK_ERROR(launch({1, 1, 65536}, 32, 0), "grid.z");
    CHECK_ERROR(launch({1, 1, 1}, 1056, 0), "n_threads");
    CHECK_ERROR(launch({1, 1, 1}, 32, 164 << 10), "shared_memory_limit");
}

TEST_MAIN
