// Layers of policy guided whose guide is at the prompt's end, without a model: what becomes of the chunks is what the
// scalar reference says of the keys and values that were held.

#include <span>

#include "guided_layers.h"

using namespace guided_layers;

namespace {

constexpr int64_t n_layer = 4;

// What the policy can be told, one thing each; the first ones hold chunks as they are.
const std::string specs[] = {
    "guided:chunk-size=64:guide=last:level-bits=16,4,2",
    "guided:chunk-size=64:guide=last:level-bits=16,5,0:propagate=cache:min-class=5:key-axis=token",
    "guided:chunk-size=64:guide=last",
    "guided:chunk-size=64:guide=last:propagate=cache",
    "guided:chunk-size=64:guide=last:propagate=cache:budget=bits:protect=off:key-axis=token:min-class=0",
    "guided:chunk-size=64:guide=last:guide-norm=zscore:guide-tokens=1:level-bits=5,3,3:sink-tokens=7",
    "guided:chunk-size=64:guide=last:alpha=1:beta=0:gamma=0:theta-h=0.3:theta-m=0.1:min-class=1:keep-last=0"};

// The text as a layer holds it: what its chunks stand for, and of open tokens the rows.
text_rows held_text(const kv_layer & layer, const text_rows & text) {
    text_rows held = text;
    int64_t first = 0;
    for (const kv_chunk & c : layer.chunks) {
        for (int64_t h = 0; h < n_head_kv; ++h) {
            for (const bool key : {true, false}) {
                const kv_chunk_side & side = key ? c.k : c.v;
                const std::vector<float> x =
                    unpack_levels(side.bytes->data() + side.bytes->bytes() / n_head_kv * static_cast<size_t>(h));
                for (int64_t t = c.n_sinks; t < c.n_tokens; ++t) {  // sinks are as they were
                    std::copy_n(x.begin() + t * head_dim, head_dim,
                                (key ? held.k : held.v).begin() + ((first + t) * n_head_kv + h) * head_dim);
                }
            }
        }
        first += c.n_tokens;
    }
    return held;
}

std::vector<guided_chunk> reference_chunks(const guided_plan & plan, const text_rows & text, int64_t n_prompt) {
    guided_layer reference = reference_of(plan, n_prompt);
    std::vector<guided_chunk> all;
    for (int64_t first = 0; first < n_prompt; first += chunk_size) {
        const int64_t n = std::min(chunk_size, n_prompt - first);
        std::vector<int64_t> positions(static_cast<size_t>(n));
        std::iota(positions.begin(), positions.end(), first);
        all = reference.add(
            {text_rows::by_head(text.q, n_head, first, n), text_rows::by_head(text.k, n_head_kv, first, n),
             text_rows::by_head(text.v, n_head_kv, first, n), positions},
            n);
    }
    return all;
}

}  // namespace

TEST(a_prompt_becomes_what_the_reference_says_of_what_was_held) {
    bool drops = false;
    bool differ = false;
    for (const std::string & spec : specs) {
        const std::vector<chunk_plan> plans = plans_of(spec, n_layer);
        for (const int64_t n_prompt : {1, 3, 63, 64, 65, 128, 212}) {
            IN("spec=", spec, " n=", n_prompt);
            const text_rows text(n_prompt, static_cast<uint32_t>(n_prompt));
            driven_prompt one(plans, n_head, text.q, text.k, text.v, best_cpu_kernels());
            const int64_t n_last = n_prompt % chunk_size == 0 ? chunk_size : n_prompt % chunk_size;
            for (int64_t done = 0; done + n_last < n_prompt; done += chunk_size) {
                one.pass(chunk_size, false);
            }
            std::vector<text_rows> held;
            for (const kv_layer & layer : one.layers) {
                held.push_back(held_text(layer, text));
                for (const kv_chunk & c : layer.chunks) {
                    std::vector<uint8_t> high(chunk_size, static_cast<uint8_t>(plans[0].guided->method.bits[0]));
                    std::fill_n(high.begin(), c.n_sinks, uint8_t{0});
                    CHECK(stored_bits(c) == high);
                }
            }
            CHECK(!one.prompt.is_complete());
            one.pass(n_last, true);
            CHECK(one.prompt.is_complete());
            CHECK_EQ(one.prompt.n_tokens(), n_prompt);
            for (size_t il = 0; il < plans.size(); ++il) {
                const kv_layer & layer = one.layers[il];
                const std::vector<guided_chunk> expected = reference_chunks(*plans[il].guided, held[il], n_prompt);
                CHECK_EQ(layer.chunks.size(), expected.size());
                CHECK_EQ(layer.n_tail, 0);
                double n_kept = 0.0;
                for (size_t i = 0; i < expected.size(); ++i) {
                    const kv_chunk & c = layer.chunks[i];
                    const auto n = static_cast<int64_t>(expected[i].bits.size());
                    std::vector<uint8_t> bits = expected[i].bits;
                    std::fill_n(bits.begin(), c.n_sinks, uint8_t{0});
                    CHECK(stored_bits(c) == bits);
                    CHECK(codes_of(c.k, n) == expected[i].k.codes);
                    CHECK(codes_of(c.v, n) == expected[i].v.codes);
                    const auto n_none = std::ranges::count(expected[i].bits, uint8_t{0});
                    n_kept += static_cast<double>(n - n_none);
                    drops = drops || n_none > 0;
                    const guided_state after = guided_state::load(c.state->as<float>());
                    CHECK_EQ(after.n_kept, n_kept);
                    CHECK_EQ(after.range.n, static_cast<double>(n_prompt));
                    CHECK(std::fabs(after.range.high - expected[i].range.high) <= 1e-5f * expected[i].range.high);
                }
                CHECK_EQ(layer.n_tokens(), n_prompt);
                differ = differ || bytes_of({one.layers[il]}) != bytes_of({one.layers[0]});
            }
        }
    }
    CHECK(drops && differ);
}

TEST(pieces_and_cpu_levels_change_no_byte) {
    constexpr int64_t n_prompt = 212;
    const text_rows text(n_prompt);
    for (const std::string & spec : specs) {
        const std::vector<chunk_plan> plans = plans_of(spec, n_layer);
        driven_prompt whole(plans, n_head, text.q, text.k, text.v, best_cpu_kernels());
        whole.read(n_prompt, chunk_size);
        for (const int64_t piece : {int64_t{1}, int64_t{7}, int64_t{24}}) {
            IN("spec=", spec, " piece=", piece);
            driven_prompt one(plans, n_head, text.q, text.k, text.v, best_cpu_kernels());
            one.read(n_prompt, piece);
            CHECK(bytes_of(one.layers) == bytes_of(whole.layers));
        }
        for (const cpu_kernels * kernels : cpu_levels()) {
            IN("spec=", spec, " level=", kernels->name);
            driven_prompt one(plans, n_head, text.q, text.k, text.v, *kernels);
            one.read(n_prompt, chunk_size);
            CHECK(bytes_of(one.layers) == bytes_of(whole.layers));
        }
    }
}

TEST(a_pass_that_fails_changes_nothing) {
    constexpr int64_t n_prompt = 150;
    const text_rows text(n_prompt);
    const std::vector<chunk_plan> plans = plans_of(specs[3], n_layer);
    driven_prompt one(plans, n_head, text.q, text.k, text.v, best_cpu_kernels());
    driven_prompt other(plans, n_head, text.q, text.k, text.v, best_cpu_kernels());
    one.pass(chunk_size, false, /*commits=*/false);
    one.pass(chunk_size, false);
    one.pass(20, true, /*commits=*/false);
    CHECK(!one.prompt.is_complete());
    other.pass(chunk_size, false);
    CHECK(bytes_of(one.layers) == bytes_of(other.layers));
    for (driven_prompt * x : {&one, &other}) {
        x->pass(chunk_size, false);
        x->pass(n_prompt - 2 * chunk_size, true);
    }
    CHECK(bytes_of(one.layers) == bytes_of(other.layers));
}

TEST(noise_is_measured_once_against_what_was_held) {
    constexpr int64_t n_prompt = 2 * chunk_size;
    const text_rows text(n_prompt);
    const std::vector<chunk_plan> plans = plans_of(specs[0] + ":sink-tokens=0:kv-error", 1);
    driven_prompt one(plans, n_head, text.q, text.k, text.v, best_cpu_kernels());
    one.read(n_prompt, chunk_size);
    const kv_layer & layer = one.layers.front();
    for (int64_t h = 0; h < n_head_kv; ++h) {
        double noise = 0.0;
        for (int64_t t = 0; t < n_prompt; ++t) {
            const kv_chunk_side & side = layer.chunks[static_cast<size_t>(t / chunk_size)].k;
            const std::vector<float> x =
                unpack_levels(side.bytes->data() + side.bytes->bytes() / n_head_kv * static_cast<size_t>(h));
            for (int64_t c = 0; c < head_dim; ++c) {
                const double lost = text.k[static_cast<size_t>((t * n_head_kv + h) * head_dim + c)] -
                                    x[static_cast<size_t>(t % chunk_size * head_dim + c)];
                noise += lost * lost;
            }
        }
        CHECK(std::fabs(layer.errors[static_cast<size_t>(h)].noise - noise) <= 1e-9 * noise);
    }
}

TEST_MAIN
