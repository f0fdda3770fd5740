#include "run/chunked_runner.h"

#include <algorithm>
#include <chrono>

#include "error.h"
#include "finite.h"

namespace livekv {

chunked_runner::chunked_runner(const kv_shape & shape, int32_t n_threads)
    : shape_(shape),
      kernels_(best_cpu_kernels()),
      job_(kernels_, n_threads, static_cast<int32_t>(shape.layers.front().head_dim)) {
    for (int64_t il = 0; il < shape.n_layer(); ++il) {
        nodes_.push_back({this, il, 0.0f});
        device_nodes_.push_back({run_on_device, this, il});
    }
}

void chunked_runner::begin(std::span<const pass_part> parts, int64_t n_others) {
    parts_.clear();
    rows_.clear();
    n_others_ = n_others;
    rows_going_on_ = nullptr;
    chooses_ = false;
    reads_queries_ = false;
    keeps_unturned_ = false;
    guides_.clear();
    questions_.clear();
    layers_ = {0, shape_.n_layer()};
    judges_ = false;
    waits_for_guide_ = false;
    seal_seconds_ = 0.0;
    bad_.clear();
    failed_ = false;
    const kv_cache * growing = nullptr;
    std::vector<chunked_cache *> caches;
    int64_t n_rows = 0;
    try {
        for (const pass_part & p : parts) {
            auto & cache = static_cast<chunked_cache &>(*p.cache);
            growing = p.cache;
            layers_ = {p.layers.first, std::min(p.layers.end, shape_.n_layer())};
            judges_ = cache.reads_prompt_alone() && p.origin == token_origin::prompt;
            LIVEKV_ASSERT(parts.size() == 1 || !judges_);
            cache.begin(p);
            parts_.push_back({&cache, cache.step(layers_.first).close});
            n_rows += p.n_new;
            if (p.n_question > 0) {
                const auto most_heads = std::ranges::max_element(shape_.layers, {}, &kv_layer_shape::n_head);
                questions_.add(parts_.size() - 1, cache.step(layers_.first), most_heads->n_head);
            }
            chooses_ = chooses_ || cache.step(layers_.first).going;
            waits_for_guide_ = waits_for_guide_ || cache.prompt_at_hand();
            for (int64_t il = layers_.first; il < layers_.end; ++il) {
                reads_queries_ = reads_queries_ || cache.plan(il).reads_queries();
                keeps_unturned_ = keeps_unturned_ || cache.plan(il).turns;
                const kv_layer_shape & layer = shape_.layers[static_cast<size_t>(il)];
                if (layer.on_device) {
                    device_workspace_.reserve(cache.plan(il), layer.n_head);
                }
                if (cache.step(il).weighs_guide()) {
                    guides_.reserve(n_rows * layer.n_head);
                }
            }
            caches.push_back(&cache);
        }
        rows_.place(caches, layers_);
        passing_.place(caches, layers_);
    } catch (const std::bad_alloc &) {
        if (!growing) {
            throw;  // no cache of ours is in the pass
        }
        const bool on_device = std::any_of(shape_.layers.begin(), shape_.layers.end(),
                                           [](const kv_layer_shape & l) { return l.on_device; });
        fail(
            "not enough memory for the cache beyond ", growing->n_tokens(), " tokens (", growing->bytes() / (1 << 20),
            " MiB)",
            on_device ? ", on the GPU or beside it; put fewer layers there or use a smaller cache (preset small)" : "");
    }
}

ggml_tensor * chunked_runner::attend(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * q,
                                     ggml_tensor * k, ggml_tensor * k_unturned, ggml_tensor * v, float scale,
                                     bool attends) {
    node & n = nodes_[static_cast<size_t>(il)];
    n.scale = scale;
    rows_going_on_ = nullptr;
    if (shape_.layers[static_cast<size_t>(il)].on_device) {
        // One node a layer, so that the GPU's other nodes are interrupted once. Where it does not attend, its one
        // number is nobody's concern.
        ggml_tensor * args[] = {k, v, q};
        ggml_tensor * out = make_device_node(ctx, attends ? q->ne[0] * q->ne[1] : 1, attends ? q->ne[2] : 1, args,
                                             attends || reads_queries_ ? 3 : 2, device_nodes_[static_cast<size_t>(il)]);
        ggml_build_forward_expand(graph, out);
        return attends ? out : nullptr;
    }
    // A node's result orders it before the next one; the values are nobody's concern.
    ggml_tensor * qkv[] = {k, v, keeps_unturned_ ? k_unturned : k, q};
    const bool checks_queries = attends || reads_queries_ || condenses() || waits_for_guide_;
    ggml_tensor * stored =
        ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, qkv, checks_queries ? 4 : 3, store_node, GGML_N_TASKS_MAX, &n);
    ggml_tensor * out = nullptr;
    ggml_tensor * before = stored;
    if (attends || weighs_guide()) {
        ggml_tensor * args[] = {q, stored};
        out = before = ggml_custom_4d(ctx, GGML_TYPE_F32, q->ne[0] * q->ne[1], q->ne[2], 1, 1, args, 2, attend_node,
                                      GGML_N_TASKS_MAX, &n);
    }
    if (weighs_guide()) {
        ggml_tensor * args[] = {q, before};
        before = ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, args, 2, weigh_node, GGML_N_TASKS_MAX, &n);
    }
    if (judges_) {
        ggml_tensor * args[] = {q, before};
        before = ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, args, 2, judge_node, GGML_N_TASKS_MAX, &n);
    }
    if (condenses()) {
        ggml_tensor * args[] = {q, before};
        before = ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, args, 2, question_node, GGML_N_TASKS_MAX, &n);
        before = ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, &before, 1, keep_node, /*n_tasks=*/1, &n);
    }
    if (waits_for_guide_) {
        ggml_tensor * args[] = {q, before};
        before = ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, args, 2, last_guide_node, GGML_N_TASKS_MAX, &n);
        before = ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, &before, 1, decide_node, /*n_tasks=*/1, &n);
    }
    if (chooses_in(il)) {
        ggml_tensor * chosen =
            ggml_custom_4d(ctx, GGML_TYPE_I32, rows_.change_after(il) ? n_rows(il + 1) + n_others_ : 1, 1, 1, 1,
                           &before, 1, choose_node, /*n_tasks=*/1, &n);
        rows_going_on_ = rows_.change_after(il) ? chosen : nullptr;
        before = chosen;
    }
    ggml_build_forward_expand(graph, before);
    ggml_tensor * seal_args[] = {before, q};
    ggml_tensor * sealed = ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, seal_args, reads_queries_ ? 2 : 1, seal_node,
                                          GGML_N_TASKS_MAX, &n);
    ggml_build_forward_expand(graph, sealed);
    return attends ? out : nullptr;
}

void chunked_runner::store_node(ggml_tensor * dst, int ith, int nth, void * data) {
    const node & n = *static_cast<node *>(data);
    chunked_runner & r = *n.runner;
    const ggml_tensor * const q = dst->src[3];  // [head_dim, n_head, n_rows], contiguous; null: nobody reads them
    for (int64_t i = ith; i < r.n_rows(n.il); i += nth) {
        const size_t p = r.rows_.part_of(n.il, i);
        const layer_step & step = r.parts_[p].cache->step(n.il);
        const ggml_tensor * const k = dst->src[step.plan->turns ? 2 : 0];
        const bool stored =
            host_step::store(step, r.kernels_, i - r.rows_.first(n.il, p), row_of(k, i), row_of(dst->src[1], i));
        if (!stored || (q && first_not_finite({row_of(q, i), q->nb[2] / sizeof(float)}))) {
            r.bad_.note(n.il, i);
        }
    }
    if (ith == 0) {
        r.guarded([&] { r.prepare_attention(n); });
    }
}

void chunked_runner::prepare_attention(const node & n) {
    const kv_layer_shape & shape = shape_.layers[static_cast<size_t>(n.il)];
    calls_.clear();
    guides_.begin_layer();
    for (size_t i = 0; i < parts_.size(); ++i) {
        chunked_cache & cache = *parts_[i].cache;
        const layer_step & step = cache.step(n.il);
        const std::span<const kv_segment> segments = cache.on_host(n.il).segments(step);
        attention_args args;
        args.n_tokens = static_cast<int32_t>(step.n_rows());
        args.n_head = static_cast<int32_t>(shape.n_head);
        args.n_head_kv = static_cast<int32_t>(shape.n_head_kv);
        args.head_dim = static_cast<int32_t>(shape.head_dim);
        args.k_rotation = step.plan->k_rotation;
        args.v_rotation = step.plan->v_rotation;
        args.turns = step.plan->turns ? &step.plan->turns->turns() : nullptr;
        args.scale = n.scale;
        args.window = shape.window;
        args.segments = segments.data();
        args.n_segments = static_cast<int64_t>(segments.size());
        args.log_sums = step.weighs_guide() ? guides_.add(step, args, rows_.first(n.il, i), cache.n_tokens()) : nullptr;
        calls_.push_back(args);
    }
    job_.prepare(calls_);
}

void chunked_runner::attend_node(ggml_tensor * dst, int ith, int nth, void * data) {
    chunked_runner & r = *static_cast<node *>(data)->runner;
    if (ith + 1 == nth) {  // when all rows are stored; the others attend meanwhile
        r.guarded([&] { r.guides_.collect(); });
    }
    r.guarded([&] { r.job_.run(ith, static_cast<const float *>(dst->src[0]->data), static_cast<float *>(dst->data)); });
}

void chunked_runner::seal_node(ggml_tensor * dst, int ith, int nth, void * data) {
    const node & n = *static_cast<node *>(data);
    chunked_runner & r = *n.runner;
    if (r.bad_.any()) {
        return;
    }
    const auto start = std::chrono::steady_clock::now();
    shared_work work{ith, nth};
    r.guarded([&] {
        for (size_t part = 0; part < r.parts_.size(); ++part) {
            layer_step & step = r.parts_[part].cache->step(n.il);
            if (step.condenses()) {
                r.questions_.copy(part, step, ith, nth);
                continue;
            }
            const int64_t n_head = r.shape_.layers[static_cast<size_t>(n.il)].n_head;
            query_rows queries;
            if (step.plan->reads_queries()) {
                queries = {row_of(dst->src[1], r.rows_.first(n.il, part)), n_head};
            }
            for (int64_t i = ith; queries.q && !step.close && i < step.n_rows(); i += nth) {
                host_step::keep_queries(step, i, queries);
            }
            guided_prompt * const prompt = r.parts_[part].cache->prompt_at_hand();
            const bool anew = prompt && prompt->ends();
            const int64_t n_jobs = anew ? prompt->n_seal_jobs(step) : host_step::n_seal_jobs(step);
            work.of(n_jobs, [&](int64_t job) {
                anew ? prompt->seal(step, r.kernels_, job) : host_step::seal(step, r.kernels_, job, queries);
            });
        }
    });
    if (ith == 0) {
        r.seal_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
}

void chunked_runner::run_on_device(const device_node & node, ggml_tensor * dst, device::stream s) {
    chunked_runner & r = *static_cast<chunked_runner *>(node.runner);
    const float scale = r.nodes_[static_cast<size_t>(node.il)].scale;
    const ggml_tensor * k = dst->src[0];
    const ggml_tensor * v = dst->src[1];
    const ggml_tensor * q = dst->src[2];
    const bool attends = dst->ne[0] > 1;
    r.guarded([&] {
        for (size_t i = 0; i < r.parts_.size(); ++i) {
            layer_step & step = r.parts_[i].cache->step(node.il);
            device_step & work = r.parts_[i].cache->on_device(node.il);
            const int64_t first_row = r.rows_.first(node.il, i);
            const float * const queries = q ? row_of(q, first_row) : nullptr;
            work.store(step, row_of(k, first_row), k->nb[2] / sizeof(float), row_of(v, first_row),
                       v->nb[2] / sizeof(float), queries, s);
            if (attends) {
                float * const out = static_cast<float *>(dst->data) + first_row * dst->ne[0];
                work.attend(step, queries, out, scale, r.device_workspace_, s);
            }
            work.seal(step, queries, r.device_workspace_, s);
        }
    });
}

void chunked_runner::check() {
    if (failed_) {
        try {
            std::rethrow_exception(failure_);
        } catch (const std::bad_alloc &) {
            fail("not enough memory for the cache's workspace");
        }
    }
    for (int64_t il = layers_.first; il < layers_.end; ++il) {
        for (size_t i = 0; i < parts_.size(); ++i) {
            chunked_cache & cache = *parts_[i].cache;
            if (shape_.layers[static_cast<size_t>(il)].on_device && cache.on_device(il).first_bad() >= 0) {
                bad_.note(il, rows_.first(il, i) + cache.on_device(il).first_bad());
            }
        }
    }
    if (const auto first = bad_.first()) {
        const size_t i = rows_.part_of(first->il, first->row);
        chunked_cache & cache = *parts_[i].cache;
        bad_rows::refuse(first->il, cache.position_of(first->il, first->row - rows_.first(first->il, i)));
    }
    for (const part & p : parts_) {
        p.cache->finish();
    }
}

void chunked_runner::commit() noexcept {
    double total = seal_seconds_;
    int64_t n_closed = 0;
    for (const part & p : parts_) {
        n_closed += p.closes ? p.cache->step(layers_.first).n_open() : 0;
        for (int64_t il = layers_.first; il < layers_.end; ++il) {
            total += shape_.layers[static_cast<size_t>(il)].on_device ? p.cache->on_device(il).seal_seconds() : 0.0;
        }
    }
    for (const part & p : parts_) {  // a part's share of the time: its chunk's of all tokens sealed
        const double share =
            p.closes ? static_cast<double>(p.cache->step(layers_.first).n_open()) / static_cast<double>(n_closed) : 0.0;
        p.cache->commit(total * share);
    }
}

size_t chunked_runner::workspace_bytes() const {
    return passing_.bytes() + job_.bytes() + device_workspace_.bytes() + guides_.bytes() + questions_.bytes();
}

}  // namespace livekv
