#pragma once

#include <ggml.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "kernels/attention_job.h"
#include "run/bad_rows.h"
#include "run/chunked_cache.h"
#include "run/device_node.h"
#include "run/guide_step.h"
#include "run/pass_rows.h"
#include "run/passing_rows.h"
#include "run/question_step.h"

namespace livekv {

// Passes over chunked caches. A layer's three steps (store, attend, seal) are custom nodes of the graph: run by ggml's
// threads, or, where the layer is on the GPU, put into its stream. The rows of all sequences are one list of work.
class chunked_runner {
  public:
    chunked_runner(const kv_shape & shape, int32_t n_threads);
    chunked_runner(chunked_runner &&) = delete;  // nodes refer to it

    // As pass_runner's, whose rows' parts are all chunked; n_others: rows of the pass behind these.
    void begin(std::span<const pass_part> parts, int64_t n_others);
    ggml_tensor * attend(ggml_context * ctx, ggml_cgraph * graph, int64_t il, ggml_tensor * q, ggml_tensor * k,
                         ggml_tensor * k_unturned, ggml_tensor * v, float scale, bool attends);

    // The rows that go on from the layer last attended in to the next one, i32 [n_rows(il + 1) + n_others]; null: all.
    ggml_tensor * rows_going_on() const { return rows_going_on_; }

    // Parts of the graph's key: which layers have how many rows, whether some choose those that go on, whether sealing
    // reads queries, whether some cache keeps keys before RoPE, and whether some sequence's tokens are weighed (policy
    // guided).
    std::string rows_key() const { return rows_.key(); }
    bool chooses() const { return chooses_; }
    bool reads_queries() const { return reads_queries_; }
    bool keeps_unturned() const { return keeps_unturned_; }
    bool weighs_guide() const { return guides_.any(); }
    // Whether some are of prompts whose guide is at the end.
    bool waits_for_guide() const { return waits_for_guide_; }
    // The layers of the pass, and whether their rows are of a prompt that its cache judges (policy fastkv).
    layer_run layers() const { return layers_; }
    bool judges() const { return judges_; }
    // Whether some are of a context that a question condenses (policy finch).
    bool condenses() const { return questions_.any(); }

    // Throws livekv::error when the pass failed.
    void check();
    void commit() noexcept;

    // Rows of layer il, and behind the last one of part i.
    int64_t n_rows(int64_t il) const { return rows_.n(il); }
    int64_t end_of_part(int64_t il, size_t i) const { return rows_.first(il, i + 1); }
    size_t workspace_bytes() const;

  private:
    struct part {
        chunked_cache * cache;
        bool closes;
    };
    // What a node's function is given.
    struct node {
        chunked_runner * runner;
        int64_t il;
        float scale;
    };
    // What one of nth threads does of jobs that all have.
    struct shared_work {
        int32_t ith;
        int32_t nth;
        int64_t first = 0;  // of the next jobs among all

        template <typename F>
        void of(int64_t n_jobs, F && run) {
            for (int64_t job = 0; job < n_jobs; ++job) {
                if ((first + job) % nth == ith) {
                    run(job);
                }
            }
            first += n_jobs;
        }
    };
    static const float * row_of(const ggml_tensor * t, int64_t i) {
        return reinterpret_cast<const float *>(static_cast<const char *>(t->data) + static_cast<size_t>(i) * t->nb[2]);
    }
    static void store_node(ggml_tensor * dst, int ith, int nth, void * node);
    static void attend_node(ggml_tensor * dst, int ith, int nth, void * node);
    static void weigh_node(ggml_tensor * dst, int ith, int nth, void * node);
    static void choose_node(ggml_tensor * dst, int ith, int nth, void * node);
    static void judge_node(ggml_tensor * dst, int ith, int nth, void * node);
    static void last_guide_node(ggml_tensor * dst, int ith, int nth, void * node);
    static void decide_node(ggml_tensor * dst, int ith, int nth, void * node);
    static void question_node(ggml_tensor * dst, int ith, int nth, void * node);
    static void keep_node(ggml_tensor * dst, int ith, int nth, void * node);
    static void seal_node(ggml_tensor * dst, int ith, int nth, void * node);
    static void run_on_device(const device_node & node, ggml_tensor * dst, device::stream s);

    void prepare_attention(const node & n);
    bool chooses_in(int64_t il) const;  // some part

    // What nodes do runs in here: exceptions must not reach ggml's threads. The first one is thrown by check; what
    // comes after it in the pass is left out.
    template <typename F>
    void guarded(F work) {
        if (failed_) {
            return;
        }
        try {
            work();
        } catch (...) {
            if (!failed_.exchange(true)) {
                failure_ = std::current_exception();
            }
        }
    }

    kv_shape shape_;
    const cpu_kernels & kernels_;
    std::vector<node> nodes_;                // [n_layer]
    std::vector<device_node> device_nodes_;  // [n_layer]
    attention_job job_;
    device_workspace device_workspace_;
    passing_rows passing_;

    std::vector<part> parts_;
    pass_rows rows_;
    int64_t n_others_ = 0;
    ggml_tensor * rows_going_on_ = nullptr;
    bool chooses_ = false;
    bool reads_queries_ = false;  // some part
    bool keeps_unturned_ = false;
    layer_run layers_;
    bool judges_ = false;
    bool waits_for_guide_ = false;       // some part
    std::vector<attention_args> calls_;  // of the layer being computed
    guide_weigher guides_;
    question_step questions_;
    double seal_seconds_ = 0.0;
    bad_rows bad_;
    std::atomic<bool> failed_{false};
    std::exception_ptr failure_;  // why, when failed_
};

}  // namespace livekv
