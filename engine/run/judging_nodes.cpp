// The nodes of chunked_runner by which policies find out which tokens matter: between a layer's attention and its
// sealing.

#include <algorithm>

#include "run/chunked_runner.h"

namespace livekv {

bool chunked_runner::chooses_in(int64_t il) const {
    return std::ranges::any_of(parts_, [&](const part & p) {
        const going_on * const going = p.cache->step(il).going;
        return going && going->lets_go(il);
    });
}

void chunked_runner::weigh_node(ggml_tensor * dst, int ith, int nth, void * data) {
    chunked_runner & r = *static_cast<node *>(data)->runner;
    r.guarded([&] { r.guides_.weigh(r.kernels_, static_cast<const float *>(dst->src[0]->data), ith, nth); });
}

// One thread does it: ggml calls a node of one task from all of them.
void chunked_runner::choose_node(ggml_tensor * dst, int ith, int /* nth */, void * data) {
    if (ith > 0) {
        return;
    }
    const node & n = *static_cast<node *>(data);
    chunked_runner & r = *n.runner;
    for (const part & p : r.parts_) {
        r.guarded([&] { choose_going_on(p.cache->step(n.il)); });
    }
    if (r.rows_.change_after(n.il)) {
        r.rows_.write_going_on(n.il, {static_cast<int32_t *>(dst->data), static_cast<size_t>(dst->ne[0])});
    }
}

void chunked_runner::judge_node(ggml_tensor * dst, int ith, int nth, void * data) {
    const node & n = *static_cast<node *>(data);
    chunked_runner & r = *n.runner;
    if (r.bad_.any()) {
        return;
    }
    r.guarded([&] {
        chunked_cache & cache = *r.parts_.front().cache;
        const attention_args & call = r.calls_.front();
        const query_rows queries = {static_cast<const float *>(dst->src[0]->data), call.n_head};
        const std::span segments(call.segments, static_cast<size_t>(call.n_segments));
        for (int64_t head = ith; head < call.n_head_kv; head += nth) {
            cache.prompt().judge(cache.step(n.il), r.kernels_, segments, queries, n.scale, head);
        }
    });
}

void chunked_runner::last_guide_node(ggml_tensor * dst, int ith, int nth, void * data) {
    const node & n = *static_cast<node *>(data);
    chunked_runner & r = *n.runner;
    if (r.bad_.any()) {
        return;
    }
    shared_work work{ith, nth};
    r.guarded([&] {
        for (size_t part = 0; part < r.parts_.size(); ++part) {
            chunked_cache & cache = *r.parts_[part].cache;
            if (!cache.prompt_at_hand()) {
                continue;
            }
            const attention_args & call = r.calls_[part];
            const std::span segments(call.segments, static_cast<size_t>(call.n_segments));
            const query_rows queries = {row_of(dst->src[0], r.rows_.first(n.il, part)), call.n_head};
            work.of(call.n_head_kv, [&](int64_t head) {
                cache.prompt_at_hand()->weigh(cache.step(n.il), r.kernels_, segments, queries, n.scale, head);
            });
        }
    });
}

// One thread does it: ggml calls a node of one task from all of them.
void chunked_runner::decide_node(ggml_tensor * /* dst */, int ith, int /* nth */, void * data) {
    const node & n = *static_cast<node *>(data);
    chunked_runner & r = *n.runner;
    if (ith > 0 || r.bad_.any()) {
        return;
    }
    r.guarded([&] {
        for (const part & p : r.parts_) {
            if (guided_prompt * const prompt = p.cache->prompt_at_hand(); prompt && prompt->ends()) {
                prompt->decide(p.cache->step(n.il));
            }
        }
    });
}

void chunked_runner::question_node(ggml_tensor * dst, int ith, int nth, void * data) {
    const node & n = *static_cast<node *>(data);
    chunked_runner & r = *n.runner;
    if (r.bad_.any()) {
        return;
    }
    shared_work work{ith, nth};
    r.guarded([&] {
        for (size_t part = 0; part < r.parts_.size(); ++part) {
            const layer_step & step = r.parts_[part].cache->step(n.il);
            if (!step.condenses()) {
                continue;
            }
            const attention_args & call = r.calls_[part];
            const std::span segments(call.segments, static_cast<size_t>(call.n_segments));
            const int64_t first_row = r.rows_.first(n.il, part) + step.n_rows() - step.n_question;
            const query_rows queries = {row_of(dst->src[0], first_row), call.n_head};
            work.of(call.n_head, [&](int64_t head) {
                r.questions_.weigh(part, step, r.kernels_, segments, queries, n.scale, head);
            });
        }
    });
}

// One thread does it: ggml calls a node of one task from all of them.
void chunked_runner::keep_node(ggml_tensor * /* dst */, int ith, int /* nth */, void * data) {
    const node & n = *static_cast<node *>(data);
    chunked_runner & r = *n.runner;
    if (ith > 0 || r.bad_.any()) {
        return;
    }
    r.guarded([&] {
        for (size_t part = 0; part < r.parts_.size(); ++part) {
            if (const layer_step & step = r.parts_[part].cache->step(n.il); step.condenses()) {
                r.questions_.choose(part, step, r.calls_[part].n_head);
            }
        }
    });
}

}  // namespace livekv
