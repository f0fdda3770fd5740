// A layer of policy kivi: when chunks are sealed and with what, whatever the passes, and what it takes.

#include "check.h"
#include "driven_layer.h"
#include "policy/kivi_seal.h"

using namespace livekv;

namespace {

chunk_plan kivi_plan(int32_t k_bits, int32_t v_bits, int64_t residual = chunk) {
    kv_options o;
    o.policy = "kivi";
    o.bits = {k_bits, v_bits};
    o.residual = residual;
    kv_shape shape;
    shape.n_ctx = 100000;
    shape.layers.resize(1);
    shape.layers[0].n_head = 4;
    shape.layers[0].n_head_kv = 2;
    shape.layers[0].head_dim = 40;
    return plan_chunks(o, shape).front();
}

// What the reference makes of one head of tokens first ... first + chunk - 1.
std::vector<uint8_t> expected_block(const chunk_plan & plan, kv_side side, int64_t first, size_t head) {
    const size_t d = static_cast<size_t>(plan.head_dim);
    std::vector<float> x;
    for (int64_t t = first; t < first + plan.chunk_size; ++t) {
        const std::vector<float> row = row_of(1, t, side == kv_side::key, plan.row());
        x.insert(x.end(), row.begin() + static_cast<std::ptrdiff_t>(head * d),
                 row.begin() + static_cast<std::ptrdiff_t>((head + 1) * d));
    }
    return kivi_block(kivi_header(side, plan.chunk_size, plan.head_dim, plan.bits(side)), x);
}

bool is_block(const uint8_t * page, size_t head, const std::vector<uint8_t> & block) {
    return std::equal(block.begin(), block.end(), page + head * block.size());
}

}  // namespace

TEST(keys_are_sealed_with_their_chunk_and_values_with_the_next) {
    for (const auto & [k_bits, v_bits] : {std::pair{2, 2}, {4, 4}, {4, 2}}) {
        const chunk_plan plan = kivi_plan(k_bits, v_bits);
        for (const int64_t n : {31, 32, 63, 64, 65, 100, 128}) {
            for (const int64_t step : {1, 7, 32}) {
                IN("bits=", k_bits, ",", v_bits, " n=", n, " step=", step);
                driven_layer l(plan);
                l.grow_to(n, step);
                const std::vector<kv_chunk> & chunks = l.layer().chunks;
                CHECK_EQ(static_cast<int64_t>(chunks.size()), n / chunk);
                CHECK_EQ(l.layer().n_tail, n % chunk);
                for (size_t i = 0; i < chunks.size(); ++i) {
                    const bool newest = i + 1 == chunks.size();
                    CHECK(chunks[i].k.sealed() && chunks[i].v.sealed() == !newest && !chunks[i].state);
                    for (size_t head = 0; head < 2; ++head) {
                        const int64_t first = static_cast<int64_t>(i) * chunk;
                        CHECK(
                            is_block(chunks[i].k.bytes->data(), head, expected_block(plan, kv_side::key, first, head)));
                        CHECK(newest || is_block(chunks[i].v.bytes->data(), head,
                                                 expected_block(plan, kv_side::value, first, head)));
                    }
                }
                CHECK(l.worst_error(true) < (k_bits == 2 ? 0.5 : 0.02) &&
                      l.worst_error(false) < (v_bits == 2 ? 0.5 : 0.02));
            }
        }
    }
}

TEST(a_fork_goes_on_alike_and_leaves_the_other_as_it_was) {
    driven_layer l(kivi_plan(2, 4));
    l.grow_to(2 * chunk + 5, chunk);
    const std::string before = l.contents();
    driven_layer other = l.fork();
    other.grow_to(4 * chunk + 1, 9);
    CHECK(l.contents() == before);
    l.grow_to(4 * chunk + 1, 1);
    CHECK(l.contents() == other.contents());
}

TEST(a_pass_that_is_not_committed_seals_nothing) {
    driven_layer l(kivi_plan(4, 4));
    l.grow_to(chunk + 10, chunk);
    const std::string before = l.contents();
    l.pass(chunk - 10);
    CHECK(l.contents() == before && !l.layer().chunks.front().v.sealed());
}

TEST(only_what_no_sealed_value_was_read_for_can_be_trimmed_to) {
    const chunk_plan plan = kivi_plan(4, 4);
    driven_layer l(plan);
    l.grow_to(3 * chunk + 9, chunk);
    CHECK_EQ(exact_trim(plan, l.layer(), 3 * chunk + 9), 3 * chunk + 9);
    CHECK_EQ(exact_trim(plan, l.layer(), 3 * chunk), 3 * chunk);
    CHECK_EQ(exact_trim(plan, l.layer(), 3 * chunk - 1), 0);
    CHECK_EQ(exact_trim(plan, l.layer(), 2 * chunk), 0);
}

TEST(chunks_put_together_are_sealed_as_passes_would_have) {
    const chunk_plan plan = kivi_plan(2, 2);
    driven_layer l(plan);
    driven_layer newest_raw(plan);
    l.grow_to(3 * chunk, chunk);
    for (int64_t n = chunk; n <= 3 * chunk; n += chunk) {  // each chunk as it was when it was the newest
        newest_raw.grow_to(n, chunk);
        l.layer().chunks[static_cast<size_t>(n / chunk - 1)] = newest_raw.layer().chunks.back();
    }
    const uint64_t n_edits = l.layer().n_edits;
    seal_older_values(plan, *find_cpu_kernels("generic"), l.layer());
    CHECK(l.contents() == newest_raw.contents());
    CHECK(l.layer().n_edits > n_edits);  // segments that are kept for the next pass are of what was
}

TEST(bits_a_value_from_the_allocations) {
    struct row {
        int32_t bits;
        int64_t n_tokens;
        double expected;
    };
    for (const auto & [bits, n_tokens, expected] :
         {row{4, 2048, 5.44}, row{4, 16384, 5.14}, row{2, 2048, 3.50}, row{2, 16384, 3.14}}) {
        IN("bits=", bits, " n=", n_tokens);
        chunk_plan plan = kivi_plan(bits, bits, 128);
        plan.n_head_kv = 1;
        plan.head_dim = 128;
        driven_layer l(plan);
        l.grow_to(n_tokens, 128);
        const double n_values = 2.0 * static_cast<double>(n_tokens) * 128;
        CHECK(std::fabs(8.0 * static_cast<double>(l.bytes()) / n_values - expected) < 0.005);
        CHECK_EQ(l.report().bytes.codes * 8, static_cast<size_t>(l.report().n_sealed * bits));
    }
}

TEST_MAIN
