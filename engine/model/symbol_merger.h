#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace livekv {

// Merges neighbouring symbols, the best pair first and of equal pairs the leftmost, until no pair merges any more:
// what SentencePiece's BPE (best = highest score) and byte-level BPE (best = lowest rank) share. O(n log n).
class symbol_merger {
  public:
    struct symbol {
        std::string_view text;  // neighbours lie one behind the other in memory; empty: merged into its left neighbour
        int32_t id;             // the caller's; the rule sets that of a merged symbol
    };
    struct merge {
        double order;  // lower is earlier
        int32_t id;
    };

    void clear() {
        symbols_.clear();
        links_.clear();
    }

    void add(std::string_view text, int32_t id) {
        const size_t i = symbols_.size();
        symbols_.push_back({text, id});
        links_.push_back({i - 1, i + 1});
    }

    // rule(const symbol & left, const symbol & right) -> std::optional<merge>
    template <typename Rule>
    void run(const Rule & rule) {
        queue_.clear();
        for (size_t i = 0; i + 1 < symbols_.size(); ++i) {
            consider(i, rule);
        }
        while (!queue_.empty()) {
            std::pop_heap(queue_.begin(), queue_.end(), later);
            const candidate best = queue_.back();
            queue_.pop_back();
            if (is_stale(best)) {
                continue;
            }
            symbol & left = symbols_[best.left];
            symbol & right = symbols_[best.right];
            left = {joined(left, right), best.id};
            right.text = {};
            const size_t after = links_[best.right].next;
            links_[best.left].next = after;
            if (after < symbols_.size()) {
                links_[after].prev = best.left;
            }
            if (best.left > 0) {
                consider(links_[best.left].prev, rule);
            }
            consider(best.left, rule);
        }
    }

    // visit(const symbol &) for each that is left, in order.
    template <typename Visit>
    void for_each(const Visit & visit) const {
        for (size_t i = 0; i < symbols_.size(); i = links_[i].next) {
            visit(symbols_[i]);
        }
    }

    static std::string_view joined(const symbol & left, const symbol & right) {
        return {left.text.data(), left.text.size() + right.text.size()};
    }

  private:
    struct neighbours {
        size_t prev;
        size_t next;
    };
    struct candidate {
        double order;
        size_t left;
        size_t right;
        size_t length;  // of both texts when this was queued
        int32_t id;
    };

    static bool later(const candidate & a, const candidate & b) {
        return a.order > b.order || (a.order == b.order && a.left > b.left);
    }

    // Whether one of the two has grown or gone since. A symbol's start never moves, so lengths tell.
    bool is_stale(const candidate & c) const {
        const std::string_view left = symbols_[c.left].text;
        const std::string_view right = symbols_[c.right].text;
        return left.empty() || right.empty() || left.size() + right.size() != c.length;
    }

    template <typename Rule>
    void consider(size_t left, const Rule & rule) {
        const size_t right = links_[left].next;
        if (right >= symbols_.size()) {
            return;
        }
        if (const std::optional<merge> found = rule(symbols_[left], symbols_[right])) {
            queue_.push_back({found->order, left, right, joined(symbols_[left], symbols_[right]).size(), found->id});
            std::push_heap(queue_.begin(), queue_.end(), later);
        }
    }

    std::vector<symbol> symbols_;
    std::vector<neighbours> links_;
    std::vector<candidate> queue_;  // a heap
};

}  // namespace livekv
