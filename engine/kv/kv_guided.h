#pragma once

// Importance-guided widths (policy guided): how many bits a prompt's token gets, or whether it is kept at all, by the
// attention between it and a few of the prompt's tokens, the guide. Of layer l of L, token i of a prompt of T tokens:
//
//   A_i = mean over query heads of the weight that token i gives to the guide, or that the guide's tokens give to i
//   A^  = (A - low) / (high - low), 0 if high - low <= 1e-8, or (A - mean) / deviation: over the layer's tokens so far
//   s   = alpha A^ w + beta ln(i + 1) / ln T + gamma min(1, N / T), N the guide's length, w from 1 to 0.5 over layers
//   high bits if s >= theta_h, mid if s >= theta_m, else low, where 0 bits are none: the token is dropped
//
// Of a chunk of n tokens, the layer's share of n is kept, best first. Codes lie between minimum and maximum:
//
//   s = (high - low) / (2^b - 1), code = clamp(rint((x - low) / s), 0, 2^b - 1), x' = code s + low

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace livekv {

struct guided_method {
    enum class norm { minmax, zscore };
    enum class guide_at { first, last };            // of the prompt
    enum class propagation { off, cache, layers };  // every token is kept; a layer's cache drops; later layers do, too
    enum class budget_of { tokens, bits };
    enum class key_axis { channel, token };  // what of keys has a minimum and a scale: a channel of a level, or a token

    double alpha = 0.4;
    double beta = 0.3;
    double gamma = 0.3;
    double theta_h = 0.7;
    double theta_m = 0.3;
    std::array<int32_t, 3> bits = {8, 4, 2};  // high, mid, low: of 16, 8, 5, 4, 3, 2, not rising; the last may be 0
    std::array<double, 3> shares = {0.8, 0.6, 0.4};  // kept by the first three tenths of the layers, four, the rest
    norm normalized = norm::minmax;
    guide_at guide = guide_at::first;
    int64_t guide_tokens = 0;  // 0: a fifth of the prompt, 1 to 128
    propagation propagates = propagation::layers;
    budget_of budget = budget_of::tokens;
    bool protects = true;     // sinks, guide and the last tokens are never dropped and have mid bits at least
    int64_t sink_tokens = 4;  // exact where the method protects
    int64_t keep_last = 8;
    key_axis keys = key_axis::channel;
    int64_t min_class = 32;  // fewer tokens of a level in a chunk join the next wider one

    int64_t n_exact() const { return protects ? sink_tokens : 0; }

    // What is wrong with it, the first fault; none: nothing.
    struct fault {
        const char * option;  // as kv_option_fields.h calls it
        std::string why;
    };
    std::optional<fault> first_fault() const;
};

// What a score depends on beside the attention.
struct guided_place {
    int64_t layer = 0;
    int64_t n_layer = 1;
    int64_t n_prompt = 1;     // T
    int64_t guide_first = 0;  // position
    int64_t n_guide = 1;      // N

    double layer_weight() const;
    double share(const guided_method & method) const;  // of a chunk's tokens that the layer keeps
    // Whether later layers see fewer tokens than this one: the first of those of a share, with propagate layers.
    bool lets_go(const guided_method & method) const;
    // Whether the token at this position is never dropped.
    bool is_safe(const guided_method & method, int64_t position) const;
};

// Where the guide of a prompt of n_prompt tokens, 1 at least, lies. Throws livekv::error for one longer than the
// prompt.
guided_place guided_place_of(const guided_method & method, int64_t layer, int64_t n_layer, int64_t n_prompt);

// What attention weights were so far in a layer.
struct guided_range {
    float low = 0.0f;
    float high = 0.0f;
    double n = 0.0;
    double sum = 0.0;
    double squares = 0.0;

    void add(std::span<const float> attention);
};

// Of tokens [n].
struct guided_scores {
    std::vector<float> attention_hat;
    std::vector<float> position_bias;
    double relevance = 0.0;
    std::vector<float> score;
    std::vector<uint8_t> label;  // 2 high, 1 mid, 0 low
    std::vector<uint8_t> is_protected;
};

// positions, attention: [n]; range: over the layer's tokens so far, these among them.
guided_scores guided_scores_of(const guided_method & method, const guided_place & place, const guided_range & range,
                               std::span<const int64_t> positions, std::span<const float> attention);

struct guided_bits {
    std::vector<int32_t> kept;  // ascending indices into the tokens
    std::vector<uint8_t> bits;  // [n], 0: not stored, 16: exact
};

// Which of the chunk's tokens are kept, and at how many bits. n_chunk: tokens it had before earlier layers dropped any.
guided_bits guided_bits_of(const guided_method & method, const guided_place & place, const guided_scores & scores,
                           std::span<const int64_t> positions, int64_t n_chunk);

// How many of a chunk's n tokens from position first on are kept, of which n_in came in, all safe ones among them.
// last_too: the last one is never dropped either.
int64_t n_best_tokens(const guided_method & method, const guided_place & place, int64_t first, int64_t n, int64_t n_in,
                      bool last_too);

// Joins levels of too few tokens with the next wider one. fixed: [n], tokens that are of no level (exact sinks).
void join_small_levels(const guided_method & method, std::span<const uint8_t> fixed, std::span<uint8_t> bits);

// Numbers that share a minimum and a scale: x[0], x[stride], ... n of them.
struct guided_grid {
    float low = 0.0f;
    float scale = 0.0f;

    int32_t code(float x, int32_t bits) const;
    float level(int32_t code) const { return static_cast<float>(code) * scale + low; }
};
guided_grid guided_grid_of(const float * x, size_t n, size_t stride, int32_t bits);

}  // namespace livekv
