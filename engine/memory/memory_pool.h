#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace livekv {

// Memory in pieces, of stretches that are asked for as the caches grow, never for a context in advance. What is given
// back is used again for pieces of the same size, as a cache's mostly are, and a stretch without any is returned. Safe
// to use from several threads. device_pool and host_pool are the two there are.
class memory_pool {
  public:
    // Where stretches come from.
    class source {
      public:
        virtual ~source() = default;

        // A stretch of at least `bytes`, which becomes how large it is; `held`: bytes of those there are. Throws
        // std::bad_alloc.
        virtual uint8_t * allocate(size_t & bytes, size_t held) = 0;
        virtual void release(uint8_t * stretch, size_t bytes) noexcept = 0;

        // The bytes from `from` to `to` of a stretch were given out, before the piece that is taken now.
        virtual void on_used(uint8_t * /*stretch*/, size_t /*from*/, size_t /*to*/) noexcept {}
        // A piece is not in use for now.
        virtual void on_free(uint8_t * /*piece*/, size_t /*bytes*/) noexcept {}
    };

    // Pieces are aligned as stretches are, at most to `alignment`, a power of two. `from` outlives the pool.
    memory_pool(source & from, size_t alignment) : source_(from), alignment_(alignment) {}

    // Throws std::bad_alloc, and then has taken nothing.
    void * take(size_t bytes);
    // What take gave, or null. Allocates nothing.
    void give_back(void * piece) noexcept;

    // Bytes of the pieces that are in use.
    size_t bytes_taken();

    std::mutex & mutex() { return mutex_; }

  private:
    struct stretch {
        size_t bytes = 0;
        size_t used = 0;      // from its start; pieces behind it have never been given out
        size_t reported = 0;  // of these, to the source
        size_t n_pieces = 0;
    };
    struct piece {
        size_t bytes = 0;
        uint8_t * next_free = nullptr;  // of the same size, when it is free
    };

    uint8_t * stretch_of(uint8_t * at) const;
    uint8_t * stretch_with_room(size_t bytes);
    void forget_pieces(uint8_t * from, uint8_t * to) noexcept;

    source & source_;
    size_t alignment_;
    std::mutex mutex_;
    std::map<uint8_t *, stretch> stretches_;
    std::map<uint8_t *, piece> pieces_;       // taken and free
    std::map<size_t, uint8_t *> first_free_;  // by size; null: none is
    size_t bytes_taken_ = 0;
};

}  // namespace livekv
