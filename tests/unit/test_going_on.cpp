// Policy guided with propagate layers: which tokens go on from layer to layer, and that a layer holds these alone.

#include "guided_layers.h"

using namespace guided_layers;

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

TEST_MAIN
