#pragma once

// What attention over blocks of every kind is tested with: shapes, positions and lengths that kernels find awkward.

#include "check.h"
#include "kernels/attention_job.h"
#include "random_sequence.h"
#include "worst_nmse.h"

inline livekv::rope_params rope_of(livekv::rope_order order, int64_t n_rot) {
    livekv::rope_params rope;
    rope.order = order;
    rope.n_rot = n_rot;
    return rope;
}

// f(setup, n): numbers of query heads that share the one kv head, head sizes, and blocks of n tokens.
template <typename F>
void for_awkward_shapes(F f) {
    for (const int32_t head_dim : {64, 128, 80}) {
        for (const int32_t group : {1, 2, 3, 4, 5, 6, 7, 8}) {
            for (const int32_t n : {1, 15, 17, 31, 32, 47, 65}) {
                for (const int32_t n_new : {1, 3}) {
                    IN("head_dim=", head_dim, " group=", group, " n=", n, " new=", n_new);
                    sequence_setup s;
                    s.n_head_kv = 1;
                    s.n_head = group;
                    s.head_dim = head_dim;
                    s.n_new = n_new;
                    f(s, n);
                }
            }
        }
    }
}

// f(setup): keys after RoPE, and before it in either order; few new tokens, and more than are computed row by row.
template <typename F>
void for_each_turn(F f) {
    const livekv::rope_tiles normal(rope_of(livekv::rope_order::normal, 64));
    const livekv::rope_tiles neox(rope_of(livekv::rope_order::neox, 64));
    for (const livekv::rope_turns * turns :
         {static_cast<const livekv::rope_turns *>(nullptr), &normal.turns(), &neox.turns()}) {
        for (const int32_t n_new : {1, 5, 40}) {
            IN("turns=", turns == nullptr ? -1 : turns->neighbours, " new=", n_new);
            sequence_setup s;
            s.n_new = n_new;
            s.turns = turns;
            f(s);
        }
    }
}

// Contexts that are cut into spans, with windows and without. configure(setup): chooses the blocks. limit: of the NMSE.
template <typename F>
void check_long_contexts(double limit, F configure) {
    for (const int32_t n_new : {1, 20}) {
        for (const int64_t window : {0, 300}) {
            IN("new=", n_new, " window=", window);
            sequence_setup s;
            s.n_new = n_new;
            s.window = window;
            configure(s);
            random_sequence seq(s);
            for (int32_t i = 0; i < 20; ++i) {
                seq.add(128, true, true);
            }
            seq.add(33, false, false);
            check_worst(seq, limit);
        }
    }
}
