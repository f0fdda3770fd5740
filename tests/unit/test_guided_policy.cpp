// A layer of policy guided, without a model: what it decides and stores is what the scalar reference says, and its
// weights on the guide are those of attention over what it stores.

#include <tuple>

#include "guided_layers.h"

using namespace guided_layers;

namespace {

// What the policy can be told, one thing each.
constexpr const char * specs[] = {
    "guided:chunk-size=64",
    "guided:chunk-size=64:propagate=cache",
    "guided:chunk-size=64:propagate=cache:level-bits=16,4,0:min-class=5",
    "guided:chunk-size=64:propagate=cache:budget=bits:protect=off:key-axis=token:min-class=0",
    "guided:chunk-size=64:guide-norm=zscore:guide-tokens=100:key-axis=token:level-bits=5,3,3:sink-tokens=7",
    "guided:chunk-size=64:alpha=1:beta=0:gamma=0:theta-h=0.3:theta-m=0.1:min-class=1:keep-last=0",
    "guided:chunk-size=64:level-bits=8,8,0:theta-m=0.6:theta-h=0.6:sink-tokens=0"};

}  // namespace

TEST(what_a_chunk_becomes_is_what_the_reference_says) {
    constexpr int64_t n_prompt = 3 * chunk_size;
    const text_rows text(n_prompt);
    bool drops = false;
    for (const char * spec : specs) {
        for (const int64_t layer : {0, 3, 9}) {
            IN("spec=", spec, " layer=", layer);
            const guided_plan plan = *plans_of(spec, 10)[static_cast<size_t>(layer)].guided;
            guided_layer reference = reference_of(plan, n_prompt);
            float state[guided_state::n_floats] = {};
            double score_sum = 0.0;
            double n_kept = 0.0;
            double bits = 0.0;
            for (int64_t first = 0; first < n_prompt; first += chunk_size) {
                const guided_chunk expected = text.add_to(reference, first, chunk_size);
                const int64_t n_sinks = first == 0 ? plan.method.n_exact() : 0;
                const guided_decision decided = decide_chunk(plan, n_prompt, first, n_sinks, expected.attention,
                                                             guided_state::load(first == 0 ? nullptr : state));
                std::vector<uint8_t> in_block = expected.bits;
                std::fill_n(in_block.begin(), n_sinks, uint8_t{0});
                CHECK(decided.bits == in_block);
                for (size_t i = 0; i < expected.bits.size(); ++i) {
                    score_sum += expected.scores.score[i];
                    n_kept += expected.bits[i] > 0;
                    bits += expected.bits[i];
                    drops = drops || expected.bits[i] == 0;
                }
                decided.after.store(state);
                const guided_state after = guided_state::load(state);
                CHECK_EQ(after.range.low, expected.range.low);
                CHECK_EQ(after.range.high, expected.range.high);
                CHECK(std::fabs(after.range.squares - expected.range.squares) < 1e-13 * expected.range.squares);
                CHECK_EQ(after.range.n, expected.range.n);
                CHECK_EQ(after.n_kept, n_kept);
                CHECK_EQ(after.code_bits, bits);
                CHECK(std::fabs(after.score_sum - score_sum) < 1e-9 * std::fabs(score_sum));
                for (const kv_side side : {kv_side::key, kv_side::value}) {
                    const bool key = side == kv_side::key;
                    std::vector<uint16_t> rows;
                    const std::vector<float> & x = key ? text.k : text.v;
                    for (int64_t i = 0; i < chunk_size * n_head_kv * head_dim; ++i) {
                        rows.push_back(f32_to_f16(x[static_cast<size_t>(first * n_head_kv * head_dim + i)]));
                    }
                    std::vector<chunk_rows> heads;
                    for (int64_t h = 0; h < n_head_kv; ++h) {
                        heads.push_back({rows.data() + h * head_dim, n_head_kv * head_dim, chunk_size, head_dim, 0});
                    }
                    std::vector<kv_error_sums> errors(n_head_kv);
                    const kv_chunk_side sealed = seal_guided_chunk(plan.method, best_cpu_kernels(), side, heads,
                                                                   all_of(chunk_size), decided.bits, errors);
                    const guided_side & wanted = key ? expected.k : expected.v;
                    CHECK(codes_of(sealed, chunk_size) == wanted.codes);
                    double noise = 0.0;
                    double said = 0.0;
                    for (int64_t h = 0; h < n_head_kv; ++h) {
                        const size_t block_bytes = sealed.bytes->bytes() / n_head_kv;
                        const uint8_t * const block = sealed.bytes->data() + block_bytes * static_cast<size_t>(h);
                        CHECK(problem_of_levels(block, *sealed.header).empty());
                        const std::vector<float> stored = unpack_levels(block);
                        for (size_t i = 0; i < stored.size(); ++i) {
                            const bool is_in = decided.bits[i / head_dim] > 0;
                            const float truth = wanted.reconstruction[static_cast<size_t>(h) * stored.size() + i];
                            // Minima and scales are f16: as far off as these are, of numbers of that size.
                            CHECK(std::fabs(stored[i] - (is_in ? truth : 0.0f)) < 5e-3f);
                            const double lost =
                                is_in ? f16_to_f32(heads[static_cast<size_t>(h)]
                                                       .rows[i / head_dim * n_head_kv * head_dim + i % head_dim]) -
                                            stored[i]
                                      : 0.0;
                            noise += lost * lost;
                        }
                        said += errors[static_cast<size_t>(h)].noise;
                    }
                    CHECK(std::fabs(noise - said) <= 1e-9 * noise);
                }
            }
        }
    }
    CHECK(drops);
}

TEST(weights_are_those_of_attention_over_what_is_stored) {
    constexpr int64_t n_prompt = 3 * chunk_size + 20;
    const text_rows text(n_prompt + chunk_size);
    for (const char * spec : specs) {
        for (const int64_t piece : {chunk_size, int64_t{24}}) {
            IN("spec=", spec, " piece=", piece);
            const chunk_plan plan = plans_of(spec, 2)[1];
            driven one(plan, text);
            for (int64_t done = 0; done < n_prompt;) {
                const int64_t n = std::min({piece, n_prompt - done, chunk_size - done % chunk_size});
                one.pass(n, n_prompt);
                done += n;
            }
            guided_layer reference = reference_of(*plan.guided, n_prompt);
            double error = 0.0;
            double all = 0.0;
            guided_state state;
            for (int64_t first = 0; first < n_prompt; first += chunk_size) {
                const int64_t n = std::min(chunk_size, n_prompt - first);
                const guided_chunk expected = text.add_to(reference, first, n);
                const std::span mine =
                    std::span(one.weights).subspan(static_cast<size_t>(first), static_cast<size_t>(n));
                for (size_t i = 0; i < mine.size(); ++i) {
                    const double lost = static_cast<double>(mine[i]) - expected.attention[i];
                    error += lost * lost;
                    all += static_cast<double>(expected.attention[i]) * expected.attention[i];
                }
                if (n == chunk_size) {
                    const kv_chunk & chunk = one.layer.chunks[static_cast<size_t>(first / chunk_size)];
                    const guided_decision decided =
                        decide_chunk(*plan.guided, n_prompt, first, chunk.n_sinks, mine, state);
                    CHECK(stored_bits(chunk) == decided.bits);
                    state = decided.after;
                }
            }
            // Queries and weights are rounded to 8 bits; a token whose level that moves changes the sums behind it.
            CHECK(error < 1e-3 * all);
            CHECK_EQ(one.layer.n_tail, 20);
        }
    }
}

TEST(generated_text_has_the_bits_of_the_first_level) {
    const text_rows text(3 * chunk_size);
    for (const char * spec : specs) {
        IN("spec=", spec);
        const chunk_plan plan = plans_of(spec, 1).front();
        driven one(plan, text);
        one.pass(chunk_size, 110);
        one.pass(46, 110);
        const guided_state before = guided_state::load(one.layer.chunks[0].state->as<float>());
        for (int64_t i = 0; i < chunk_size - 46 + chunk_size; ++i) {
            one.pass(1, 0);
        }
        CHECK_EQ(one.layer.chunks.size(), 3u);
        const uint8_t high = static_cast<uint8_t>(plan.guided->method.bits[0]);
        const std::vector<uint8_t> mixed = stored_bits(one.layer.chunks[1]);
        CHECK(std::all_of(mixed.begin() + 46, mixed.end(), [&](uint8_t b) { return b == high; }));
        CHECK(stored_bits(one.layer.chunks[2]) == std::vector<uint8_t>(chunk_size, high));
        CHECK(std::all_of(one.weights.begin() + 110, one.weights.end(),
                          [](float w) { return w == tail_weight::generated; }));
        // The prompt ends with its last token in the chunk, which is protected where the method does that.
        guided_decision decided = decide_chunk(*plan.guided, 110, chunk_size, 0,
                                               std::span(one.weights).subspan(chunk_size, chunk_size), before);
        CHECK(mixed == decided.bits);
        CHECK_EQ(guided_state::load(one.layer.chunks[2].state->as<float>()).range.n, 110.0);
    }
}

TEST(a_chunk_of_which_nothing_is_stored_is_one_all_the_same) {
    const text_rows text(2 * chunk_size);
    const chunk_plan plan =
        plans_of("guided:chunk-size=64:level-bits=8,4,0:theta-m=9:theta-h=9:protect=off", 1).front();
    driven one(plan, text);
    one.pass(chunk_size, 2 * chunk_size);
    one.pass(chunk_size, 2 * chunk_size);
    CHECK(stored_bits(one.layer.chunks[1]) == std::vector<uint8_t>(chunk_size, 0));
    std::vector<kv_segment> segments;
    one.layer.append_segments(segments);
    CHECK(segments.empty());
    CHECK(problem_of_levels(one.layer.chunks[1].k.bytes->data(), *one.layer.chunks[1].k.header).empty());
}

TEST_MAIN
