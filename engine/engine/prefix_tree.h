#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "chunks/chunk_piece.h"

namespace livekv {

// A piece of the tree, as one may look at it. The tree is a list of them, each followed by those that go on from it.
struct prefix_node {
    size_t depth = 0;  // pieces in front of it
    int64_t n_tokens = 0;
    size_t bytes = 0;
    bool in_use = false;  // by a sequence
};

// The sealed chunks of prompts that were read, by their tokens: a new sequence starts from the longest beginning that
// is known. Chunks are shared with the sequences that made or use them. What no sequence uses any more is kept up to a
// budget, and leaves from the ends of the branches, the least recently used first; what is in use costs the tree
// nothing and stays. Only where a window has given chunks back, which the tree alone keeps from then on, may that be
// too much: then the end behind them is forgotten, in use or not. Not thread-safe.
class prefix_tree {
  public:
    // budget: bytes of chunks that are kept for nobody but the next prompt; 0: nothing is remembered.
    explicit prefix_tree(size_t budget) : budget_(budget) {}

    // Notes the chunks of a sequence, whose tokens these are, as far as they were read as a prompt, a pass each, so
    // that another sequence that reads the same text has the same bytes. Throws std::bad_alloc.
    void add(const chunked_cache & cache, std::span<const int32_t> tokens);

    // A sequence that begins as tokens do, with at most all but the last of them; null when none of it is known. Only
    // beginnings after which a new sequence would hold the same are taken: not those within the warm-up.
    std::unique_ptr<chunked_cache> longest(const kv_options & options, const kv_shape & shape,
                                           std::span<const int32_t> tokens);

    // Lets go of what is over the budget.
    void shrink() noexcept;

    size_t n_chunks() const;
    size_t idle_bytes() const;  // of chunks that no sequence uses
    std::vector<prefix_node> nodes() const;

  private:
    struct node {
        chunk_piece piece;
        uint64_t last_used = 0;
        std::map<std::vector<int32_t>, std::unique_ptr<node>> next;  // by their pieces' tokens

        bool in_use() const;        // a sequence has some of it
        size_t idle_bytes() const;  // of what no sequence has
        size_t bytes() const;
    };

    // The leaf that leaves first among those that are idle or lie behind what is, with who holds it: one that nobody
    // uses, then the least recently used.
    struct leaf {
        node * parent = nullptr;
        const std::vector<int32_t> * tokens = nullptr;
        bool in_use = true;
        uint64_t last_used = UINT64_MAX;
    };
    static void find_oldest(node & parent, bool behind_idle, leaf & oldest);
    static size_t count(const node & n);
    static void list(const node & parent, size_t depth, std::vector<prefix_node> & all);
    static size_t idle_below(const node & n);

    size_t budget_;
    uint64_t clock_ = 0;
    std::map<std::string, node> roots_;  // by cache options
};

}  // namespace livekv
