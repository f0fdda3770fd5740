// The pools that caches grow in: pieces lie apart, are used again, and what nobody uses goes back.

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "failing_allocations.h"
#include "memory/host_pool.h"
#include "memory/memory_pool.h"

using namespace livekv;

namespace {

// Stretches of 1000 bytes, or what is asked for where that is more; none when it says so.
class counted : public memory_pool::source {
  public:
    counted() { stretches_.reserve(16); }
    ~counted() override {
        for (uint8_t * p : stretches_) {
            std::free(p);
        }
    }

    uint8_t * allocate(size_t & bytes, size_t held) override {
        if (exhausted) {
            throw std::bad_alloc();
        }
        CHECK_EQ(held, this->held);
        bytes = std::max<size_t>(bytes, 1000);
        auto * const stretch = static_cast<uint8_t *>(std::malloc(bytes));
        if (!stretch) {
            throw std::bad_alloc();
        }
        this->held += bytes;
        stretches_.push_back(stretch);
        return stretch;
    }
    void release(uint8_t * stretch, size_t bytes) noexcept override {
        held -= bytes;
        std::erase(stretches_, stretch);
        std::free(stretch);
    }
    void on_used(uint8_t *, size_t from, size_t to) noexcept override { used.emplace_back(from, to); }
    void on_free(uint8_t *, size_t bytes) noexcept override { freed += bytes; }

    size_t held = 0;
    size_t freed = 0;
    bool exhausted = false;
    std::vector<std::pair<size_t, size_t>> used;

  private:
    std::vector<uint8_t *> stretches_;
};

// Pages of memory at p that are resident.
size_t n_resident(const void * p, size_t bytes) {
    constexpr size_t page = 4096;
    const size_t first = (reinterpret_cast<size_t>(p) + page - 1) / page * page;
    std::vector<unsigned char> pages((reinterpret_cast<size_t>(p) + bytes - first) / page);
    CHECK_EQ(::mincore(reinterpret_cast<void *>(first), pages.size() * page, pages.data()), 0);
    return static_cast<size_t>(std::count_if(pages.begin(), pages.end(), [](unsigned char x) { return x & 1; }));
}

}  // namespace

TEST(pieces_share_stretches_and_are_used_again) {
    counted source;
    memory_pool pool(source, 16);
    auto * const a = static_cast<uint8_t *>(pool.take(300));
    auto * const b = static_cast<uint8_t *>(pool.take(301));
    CHECK_EQ(b - a, 304);
    CHECK_EQ(source.held, size_t{1000});
    CHECK_EQ(pool.bytes_taken(), size_t{304 + 304});
    void * const c = pool.take(1000);  // nothing else fits beside it
    CHECK_EQ(source.held, size_t{1000 + 1008});
    pool.give_back(a);
    CHECK_EQ(source.freed, size_t{304});
    CHECK(pool.take(200) != a);  // of another size
    CHECK(pool.take(300) == a);
    CHECK(pool.take(2000) != nullptr);
    CHECK_EQ(source.held, size_t{1000 + 1008 + 2000});
    pool.give_back(c);
    CHECK_EQ(source.held, size_t{1000 + 2000});
}

TEST(a_stretch_without_pieces_goes_back) {
    counted source;
    memory_pool pool(source, 16);
    void * const a = pool.take(400);
    void * const b = pool.take(400);
    void * const c = pool.take(400);
    CHECK_EQ(source.held, size_t{2000});
    pool.give_back(a);
    pool.give_back(nullptr);
    CHECK_EQ(source.held, size_t{2000});
    pool.give_back(b);
    CHECK_EQ(source.held, size_t{1000});
    auto * const d = static_cast<uint8_t *>(pool.take(400));  // not a or b, which are gone
    CHECK(d == static_cast<uint8_t *>(c) + 400);
    pool.give_back(c);
    pool.give_back(d);
    CHECK_EQ(source.held, size_t{0});
    CHECK_EQ(pool.bytes_taken(), size_t{0});
}

TEST(a_source_hears_once_of_every_byte_before_the_newest_piece) {
    counted source;
    memory_pool pool(source, 16);
    pool.take(160);
    pool.take(320);
    pool.take(480);
    const std::vector<std::pair<size_t, size_t>> expected = {{0, 160}, {160, 480}};
    CHECK(source.used == expected);
}

TEST(a_failed_allocation_leaves_the_pool_as_it_was) {
    counted source;
    memory_pool pool(source, 16);
    void * const a = pool.take(600);
    source.exhausted = true;
    bool failed = false;
    try {
        pool.take(600);
    } catch (const std::bad_alloc &) {
        failed = true;
    }
    CHECK(failed);
    CHECK_EQ(pool.bytes_taken(), size_t{608});
    CHECK(pool.take(384) == static_cast<uint8_t *>(a) + 608);
}

// Under a sanitizer none fails.
TEST(whichever_of_its_own_allocations_fails_nothing_is_taken_and_giving_back_needs_none) {
    int n = 0;
    for (bool failed = true; failed; ++n) {
        counted source;
        memory_pool pool(source, 16);
        void * const a = pool.take(400);
        void * b = nullptr;
        allocations::fail_at(n, true);
        try {
            b = pool.take(800);
            failed = false;
        } catch (const std::bad_alloc &) {
        }
        allocations::fail_at(0, true);
        pool.give_back(b);
        allocations::stop();
        CHECK_EQ(pool.bytes_taken(), size_t{400});
        void * const c = pool.take(800);  // where it was to be, if that is there
        CHECK_EQ(source.held, size_t{2000});
        allocations::fail_at(0, true);
        pool.give_back(c);
        pool.give_back(a);
        allocations::stop();
        CHECK_EQ(source.held, size_t{0});
    }
    std::printf("  %d allocations\n", n - 1);
}

TEST(large_pieces_of_the_host_hold_what_is_written_and_are_resident_only_then) {
    constexpr size_t bytes = 600'001;
    const size_t before = host_pool::bytes_taken();
    std::vector<uint8_t *> pieces;
    for (int i = 0; i < 40; ++i) {  // 24 MB: several large pages
        pieces.push_back(static_cast<uint8_t *>(host_pool::take(bytes)));
        CHECK_EQ(reinterpret_cast<size_t>(pieces.back()) % 64, size_t{0});
        if (i % 4 == 0) {
            CHECK_EQ(n_resident(pieces.back(), bytes), size_t{0});
        }
        std::memset(pieces.back(), i, bytes);
    }
    CHECK(host_pool::bytes_taken() - before >= 40 * bytes);
    for (int i = 0; i < 40; ++i) {
        const uint8_t * const p = pieces[static_cast<size_t>(i)];
        CHECK(std::all_of(p, p + bytes, [&](uint8_t x) { return x == i; }));
    }
    host_pool::give_back(pieces[3], bytes);
    CHECK_EQ(n_resident(pieces[3], bytes), size_t{0});
    CHECK_EQ(pieces[2][bytes - 1], 2);
    CHECK_EQ(pieces[4][0], 4);
    CHECK(host_pool::take(bytes) == pieces[3]);
    for (uint8_t * p : pieces) {
        host_pool::give_back(p, bytes);
    }
    CHECK_EQ(host_pool::bytes_taken(), before);
}

TEST(threads_take_different_pieces) {
    constexpr size_t bytes = 70'000;
    std::vector<std::thread> threads;
    std::atomic<int> n_wrong{0};
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (int round = 0; round < 20; ++round) {
                std::vector<uint8_t *> mine;
                for (int i = 0; i < 20; ++i) {
                    mine.push_back(static_cast<uint8_t *>(host_pool::take(bytes)));
                    std::memset(mine.back(), 20 * t + i, bytes);
                }
                for (int i = 0; i < 20; ++i) {
                    const uint8_t * const p = mine[static_cast<size_t>(i)];
                    n_wrong += std::all_of(p, p + bytes, [&](uint8_t x) { return x == 20 * t + i; }) ? 0 : 1;
                    host_pool::give_back(mine[static_cast<size_t>(i)], bytes);
                }
            }
        });
    }
    for (std::thread & t : threads) {
        t.join();
    }
    CHECK_EQ(n_wrong.load(), 0);
}

TEST_MAIN
