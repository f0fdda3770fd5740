// A layer of policy guided, without a model: what it decides and stores is what the scalar reference says, and its
// weights on the guide are those of attention over what it stores.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <tuple>

#include "check.h"
#include "kernels/attention_job.h"
#include "kv/guided_layer.h"
#include "kv/kv_pack.h"
#include "kv/level_block.h"
#include "policy/going_on.h"
#include "policy/guided_seal.h"
#include "policy/kv_spec.h"
#include "random_rows.h"
#include "run/guide_step.h"
#include "store/tail_weights.h"

using namespace livekv;

namespace {

constexpr int64_t n_head = 4;
constexpr int64_t n_head_kv = 2;
constexpr int64_t head_dim = 16;
constexpr int64_t chunk_size = 64;

// What the policy can be told, one thing each.
constexpr const char * specs[] = {
    "guided:chunk-size=64",
    "guided:chunk-size=64:propagate=cache",
    "guided:chunk-size=64:propagate=cache:level-bits=16,4,0:min-class=5",
    "guided:chunk-size=64:propagate=cache:budget=bits:protect=off:key-axis=token:min-class=0",
    "guided:chunk-size=64:guide-norm=zscore:guide-tokens=100:key-axis=token:level-bits=5,3,3:sink-tokens=7",
    "guided:chunk-size=64:alpha=1:beta=0:gamma=0:theta-h=0.3:theta-m=0.1:min-class=1:keep-last=0",
    "guided:chunk-size=64:level-bits=8,8,0:theta-m=0.6:theta-h=0.6:sink-tokens=0"};

std::vector<chunk_plan> plans_of(const std::string & spec, int64_t n_layer) {
    kv_shape shape;
    shape.n_ctx = 4096;
    for (int64_t il = 0; il < n_layer; ++il) {
        shape.layers.push_back({n_head, n_head_kv, head_dim});
    }
    return plan_chunks(parse_kv_spec(spec), shape);
}

std::vector<int32_t> all_of(int64_t n) {
    std::vector<int32_t> tokens(static_cast<size_t>(n));
    std::iota(tokens.begin(), tokens.end(), 0);
    return tokens;
}

// Rows of a text of n tokens.
struct text_rows {
    int64_t n;
    std::vector<float> q;  // [n, n_head, head_dim]
    std::vector<float> k;  // [n, n_head_kv, head_dim]
    std::vector<float> v;

    explicit text_rows(int64_t n_tokens, uint32_t seed = 7) : n(n_tokens) {
        std::mt19937 rng(seed);
        q = random_rows(row_kind::normal, n, n_head * head_dim, rng);
        k = random_rows(row_kind::normal, n, n_head_kv * head_dim, rng);
        v = random_rows(row_kind::normal, n, n_head_kv * head_dim, rng);
        for (float & x : q) {  // some tokens are looked at far more than others
            x *= 2.0f;
        }
    }

    // Tokens first ... first + m - 1 of one of them, [heads, m, head_dim].
    static std::vector<float> by_head(const std::vector<float> & rows, int64_t heads, int64_t first, int64_t m) {
        std::vector<float> out;
        for (int64_t h = 0; h < heads; ++h) {
            for (int64_t t = first; t < first + m; ++t) {
                const auto from = rows.begin() + (t * heads + h) * head_dim;
                out.insert(out.end(), from, from + head_dim);
            }
        }
        return out;
    }

    // The same chunk for the reference.
    guided_chunk add_to(guided_layer & reference, int64_t first, int64_t m) const {
        return add_to(reference, first, all_of(m), m);
    }

    // Of a chunk of m tokens from first on, these.
    guided_chunk add_to(guided_layer & reference, int64_t first, std::span<const int32_t> tokens, int64_t m) const {
        const int64_t n_in = static_cast<int64_t>(tokens.size());
        std::vector<int64_t> positions;
        std::vector<float> rows[3];
        for (const int32_t token : tokens) {
            positions.push_back(first + token);
            for (const auto & [from, heads, to] :
                 {std::tuple(&q, n_head, 0), std::tuple(&k, n_head_kv, 1), std::tuple(&v, n_head_kv, 2)}) {
                const auto at = from->begin() + positions.back() * heads * head_dim;
                rows[to].insert(rows[to].end(), at, at + heads * head_dim);
            }
        }
        const auto of_q = by_head(rows[0], n_head, 0, n_in);
        const auto of_k = by_head(rows[1], n_head_kv, 0, n_in);
        const auto of_v = by_head(rows[2], n_head_kv, 0, n_in);
        return reference.add({of_q, of_k, of_v, positions}, m).front();
    }
};

guided_layer reference_of(const guided_plan & plan, int64_t n_prompt) {
    return {plan.method, guided_place_of(plan.method, plan.layer, plan.n_layer, n_prompt),
            guided_layer::shape{n_head, n_head_kv, head_dim}};
}

// Codes of a side of a sealed chunk, [n_head_kv, n, head_dim], 0 where there is none or they are kept as they are.
std::vector<uint8_t> codes_of(const kv_chunk_side & side, int64_t n) {
    std::vector<uint8_t> codes;
    for (int64_t h = 0; h < n_head_kv; ++h) {
        const uint8_t * const block = side.bytes->data() + side.bytes->bytes() / n_head_kv * static_cast<size_t>(h);
        std::array<int64_t, kv_n_levels> at = {};
        for (int64_t t = 0; t < n; ++t) {
            const uint8_t level = level_of_token(block, static_cast<int32_t>(t));
            const kv_level one = level == kv_no_level ? kv_level{} : level_of_block(block, level);
            for (int64_t c = 0; c < head_dim; ++c) {
                codes.push_back(0);
                if (level != kv_no_level && one.bits < 16) {
                    const sealed_chunk sealed = read_block(block + one.offset);
                    codes.back() = static_cast<uint8_t>(sealed.codes[static_cast<size_t>(at[level] * head_dim + c)]);
                }
            }
            at[level == kv_no_level ? 0 : level] += level != kv_no_level;
        }
    }
    return codes;
}

// The bits of each token of a chunk, as its blocks have them.
std::vector<uint8_t> stored_bits(const kv_chunk & chunk) {
    std::vector<uint8_t> bits;
    const uint8_t * const block = chunk.k.bytes->data();
    for (int32_t t = 0; t < chunk.n_stored; ++t) {
        const uint8_t level = level_of_token(block, t);
        bits.push_back(level == kv_no_level ? 0 : static_cast<uint8_t>(level_of_block(block, level).bits));
    }
    return bits;
}

// A layer in the host's memory and the passes over it, whose rows are a text's.
struct driven {
    chunk_plan plan;
    const text_rows & text;
    const cpu_kernels & kernels = best_cpu_kernels();
    kv_layer layer;
    std::vector<float> weights;  // of each token of the sequence

    driven(const chunk_plan & p, const text_rows & rows) : plan(p), text(rows), layer(make_layer(p, false)) {}

    // n_prompt 0: generated. going: those that come into the layer; null: all.
    void pass(int64_t n, int64_t n_prompt, going_on * going = nullptr) {
        layer_step step(layer, plan);
        const int64_t first = layer.n_tokens();
        step.begin(n, layer.n_tail + n == plan.chunk_size, true, n_prompt, going);
        const int64_t n_rows = step.n_rows();
        raw_rows passing;
        if (step.passes_through()) {
            passing.reserve(static_cast<size_t>(n_rows) * plan.row(), host_memory());
            step.use_rows(passing.k.data(), passing.v.data());
        }
        std::vector<float> queries;
        for (int64_t i = 0; i < n_rows; ++i) {
            const size_t at = static_cast<size_t>(first + step.token_of_row(i));
            CHECK(host_step::store(step, kernels, i, text.k.data() + at * plan.row(), text.v.data() + at * plan.row()));
            const auto from = text.q.begin() + static_cast<std::ptrdiff_t>(at) * n_head * head_dim;
            queries.insert(queries.end(), from, from + n_head * head_dim);
        }
        std::vector<float> out(queries.size());
        host_step host;
        const std::span<const kv_segment> segments = host.segments(step);
        attention_args args;
        args.q = queries.data();
        args.out = out.data();
        args.n_tokens = static_cast<int32_t>(n_rows);
        args.n_head = n_head;
        args.n_head_kv = n_head_kv;
        args.head_dim = head_dim;
        args.scale = 0.25f;
        args.segments = segments.data();
        args.n_segments = static_cast<int64_t>(segments.size());
        guide_weigher guides;
        if (step.weighs_guide()) {
            guides.reserve(n_rows * n_head);
            args.log_sums = guides.add(step, args, 0, first);
            guides.collect();
        }
        attention_job job(kernels, 1, head_dim);
        job.prepare({&args, 1});
        job.run(0, args.q, args.out);
        guides.weigh(args.q, 0, 2);
        guides.weigh(args.q, 1, 2);
        choose_going_on(step);
        const float * const mine = layer.tail_weights.data() + layer.n_tail;
        weights.insert(weights.end(), mine, mine + n);
        for (int64_t seal = host_step::n_seal_jobs(step) - 1; seal >= 0; --seal) {  // in any order
            host_step::seal(step, kernels, seal, {});
        }
        step.commit();
    }
};

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

// With propagate layers, layer after layer over what the one before lets go on: the reference's choice, and its bits.
TEST(what_goes_on_is_what_the_reference_says) {
    constexpr int64_t n_layer = 10;
    constexpr int64_t n_prompt = 2 * chunk_size + 30;
    const text_rows text(n_prompt);
    for (const char * spec : {"guided:chunk-size=64:propagate=layers:guide-tokens=9",
                              "guided:chunk-size=64:propagate=layers:protect=off:guide-norm=zscore:later-ratio=0.01",
                              "guided:chunk-size=64:propagate=layers:early-ratio=1:keep-last=20"}) {
        for (const int64_t n_outputs : {0, 5}) {
            IN("spec=", spec, " outputs=", n_outputs);
            const std::vector<chunk_plan> plans = plans_of(spec, n_layer);
            std::vector<guided_layer> references;
            std::vector<guided_state> states(n_layer);
            for (const chunk_plan & plan : plans) {
                references.push_back(reference_of(*plan.guided, n_prompt));
            }
            for (int64_t first = 0; first < n_prompt; first += chunk_size) {
                const int64_t n = std::min(chunk_size, n_prompt - first);
                const bool keeps_last = first > 0 && n_outputs > 0;  // as a protected token: none else is as good
                going_on going(*plans[0].guided, n_prompt, first, n, keeps_last ? n_outputs : 0);
                std::vector<int32_t> in = all_of(n);
                for (int64_t il = 0; il < n_layer; ++il) {
                    IN("first=", first, " layer=", il);
                    const guided_plan & plan = *plans[static_cast<size_t>(il)].guided;
                    CHECK(std::ranges::equal(going.come_in(il), in));
                    CHECK_EQ(going.computed(il).size(), keeps_last ? static_cast<size_t>(n) : in.size());
                    CHECK_EQ(going.lets_go(il), il == 0 || il == 3 || il == 7);
                    const guided_chunk expected = text.add_to(references[static_cast<size_t>(il)], first, in, n);
                    std::vector<float> weights(static_cast<size_t>(n), tail_weight::absent);
                    std::vector<uint8_t> bits(static_cast<size_t>(n));
                    for (size_t i = 0; i < in.size(); ++i) {
                        weights[static_cast<size_t>(in[i])] = expected.attention[i];
                        bits[static_cast<size_t>(in[i])] = expected.bits[i];
                    }
                    guided_state & state = states[static_cast<size_t>(il)];
                    if (going.lets_go(il)) {
                        going.choose(il, weights, state);
                    }
                    std::vector<int32_t> kept;
                    for (const int32_t i : expected.kept) {
                        kept.push_back(in[static_cast<size_t>(i)]);
                    }
                    if (keeps_last) {
                        CHECK(going.stay(il).back() == n - 1 && going.stay(il).size() >= kept.size());
                        kept.assign(going.stay(il).begin(), going.stay(il).end());
                    } else {
                        CHECK(std::ranges::equal(going.stay(il), kept));
                        const int64_t n_sinks = first == 0 ? plan.method.n_exact() : 0;
                        const guided_decision decided = decide_chunk(plan, n_prompt, first, n_sinks, weights, state);
                        std::fill_n(bits.begin(), n_sinks, uint8_t{0});
                        CHECK(decided.bits == bits);
                        CHECK_EQ(decided.after.range.n, state.range.n + static_cast<double>(in.size()));
                        state = decided.after;
                    }
                    in = kept;
                }
            }
        }
    }
}

// A layer that lets tokens go, and one behind it, whose rows are of those alone, in whatever pieces they come.
TEST(a_layer_holds_what_goes_on) {
    constexpr int64_t n_prompt = 2 * chunk_size + 40;
    const text_rows text(n_prompt + chunk_size);
    for (const int64_t n_outputs : {0, 3}) {
        for (const int64_t piece : {chunk_size, int64_t{24}}) {
            IN("outputs=", n_outputs, " piece=", piece);
            const std::vector<chunk_plan> plans =
                plans_of("guided:chunk-size=64:propagate=layers:guide-tokens=70:keep-last=3", 4);
            std::vector<driven> layers;
            std::vector<guided_layer> references;
            for (const int64_t il : {0, 1, 2}) {
                layers.emplace_back(plans[static_cast<size_t>(il)], text);
                references.push_back(reference_of(*plans[static_cast<size_t>(il)].guided, n_prompt));
            }
            std::vector<std::vector<int32_t>> held(3);  // tokens of the sequence that a layer has
            double error = 0.0;
            double all = 0.0;
            for (int64_t done = 0; done < n_prompt;) {
                const int64_t n = std::min({piece, n_prompt - done, chunk_size - done % chunk_size});
                going_on going(*plans[0].guided, n_prompt, done, n, n_outputs);
                for (size_t il = 0; il < 3; ++il) {
                    layers[il].pass(n, n_prompt, &going);
                    const auto come_in = going.come_in(static_cast<int64_t>(il));
                    for (const int32_t token : going.stay(static_cast<int64_t>(il))) {
                        held[il].push_back(static_cast<int32_t>(done) + token);
                    }
                    for (const int32_t token : come_in) {
                        CHECK(tail_weight::came_in(layers[il].weights[static_cast<size_t>(done + token)]));
                    }
                    if (piece == chunk_size && n_outputs == 0) {  // else some see more than they would
                        const guided_chunk expected = text.add_to(references[il], done, come_in, n);
                        for (size_t i = 0; i < come_in.size(); ++i) {
                            const double a = expected.attention[i];
                            const float w = layers[il].weights[static_cast<size_t>(done + come_in[i])];
                            error += std::pow(tail_weight::of(w) - a, 2);
                            all += a * a;
                        }
                    }
                }
                done += n;
            }
            CHECK(error <= 1e-3 * all);
            for (size_t il = 0; il < 3; ++il) {
                IN("layer=", il);
                const kv_layer & layer = layers[il].layer;
                CHECK_EQ(layer.n_tokens(), n_prompt);
                std::vector<int32_t> found;
                for (int64_t i = 0; i < n_prompt; ++i) {
                    const int64_t chunk = i / chunk_size;
                    const bool in_tail = chunk == 2;
                    const uint8_t * const block =
                        in_tail ? nullptr : layer.chunks[static_cast<size_t>(chunk)].k.bytes->data();
                    const bool is_sink = i < 4;
                    if (is_sink ||
                        (in_tail ? tail_weight::is_held(layer.tail_weights.data()[i % chunk_size])
                                 : level_of_token(block, static_cast<int32_t>(i % chunk_size)) != kv_no_level)) {
                        found.push_back(static_cast<int32_t>(i));
                    }
                }
                CHECK(found == held[il]);
                const auto in_tail = std::ranges::count_if(held[il], [](int32_t t) { return t >= 2 * chunk_size; });
                CHECK_EQ(layer.n_tail_rows(), in_tail);
                const uint16_t * row = layer.tail.k.data();  // the rows are theirs, one after the other
                for (const int32_t token : held[il]) {
                    for (size_t c = 0; token >= 2 * chunk_size && c < layer.row(); ++c) {
                        CHECK_EQ(*row++, f32_to_f16(text.k[static_cast<size_t>(token) * layer.row() + c]));
                    }
                }
                const std::vector<float> stored = unpack_levels(layer.chunks[1].k.bytes->data());
                double lost = 0.0;
                double size = 0.0;
                for (const int32_t token : held[il]) {
                    for (size_t c = 0; token / chunk_size == 1 && c < head_dim; ++c) {
                        const double x = text.k[static_cast<size_t>(token) * layer.row() + c];
                        lost += std::pow(stored[static_cast<size_t>(token % chunk_size) * head_dim + c] - x, 2);
                        size += x * x;
                    }
                }
                CHECK(lost < 0.1 * size);
            }
            // Generated text comes into every layer, and the chunk is sealed with what is left of it.
            const int64_t n_tail_rows = layers[2].layer.n_tail_rows();
            layers[2].layer.trim(n_prompt - 3);
            CHECK_EQ(layers[2].layer.n_tail_rows(), n_tail_rows - 3);  // keep-last
            layers[2].pass(chunk_size - 37, 0);
            const std::vector<uint8_t> bits = stored_bits(layers[2].layer.chunks[2]);
            CHECK_EQ(std::ranges::count_if(bits, [](uint8_t b) { return b > 0; }), n_tail_rows - 3 + chunk_size - 37);
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
