#include "session/session.h"

#include <algorithm>

#include "error.h"

namespace livekv {

namespace {

kv_shape shape_of(const model & m, const backend & device, const session_params & params) {
    kv_shape shape;
    shape.n_layer = m.hp.n_layer;
    shape.n_head = m.hp.n_head;
    shape.n_head_kv = m.hp.n_head_kv;
    shape.head_dim = m.hp.head_dim;
    shape.n_ctx = params.n_ctx;
    shape.n_threads = params.n_threads;
    for (const layer_weights & layer : m.tensors.layers) {
        shape.layer_buft.push_back(device.buffer_type(layer.on_gpu));
    }
    return shape;
}

}  // namespace

session::session(std::shared_ptr<const model> m, const session_params & params)
    : model_(std::move(m)),
      params_(params),
      device_(params.n_threads, model_->tensors.n_gpu_layers > 0, llama_graph_nodes(model_->hp)),
      cache_(make_kv_cache(params.kv, shape_of(*model_, device_, params))),
      forward_(model_->hp, model_->tensors, *cache_, device_) {}

session::session(std::shared_ptr<const model> m, const session_params & params, std::unique_ptr<kv_cache> cache)
    : model_(std::move(m)),
      params_(params),
      device_(params.n_threads, model_->tensors.n_gpu_layers > 0, llama_graph_nodes(model_->hp)),
      cache_(std::move(cache)),
      forward_(model_->hp, model_->tensors, *cache_, device_) {}

std::unique_ptr<session> session::fork() const {
    return std::unique_ptr<session>(new session(model_, params_, cache_->fork()));
}

int64_t session::pass_size(int64_t n) const { return std::min({n, params_.kv.chunk_size, cache_->max_new()}); }

void session::require_room(size_t n_new) const {
    const int64_t total = n_tokens() + static_cast<int64_t>(n_new);
    if (total > n_ctx()) {
        fail("the context holds ", n_ctx(), " tokens, ", total, " are needed; use a longer one (-c)");
    }
}

std::span<const float> session::prefill(std::span<const int32_t> tokens, const progress & on_chunk) {
    if (tokens.empty()) {
        fail("nothing to process: the prompt has no tokens");
    }
    require_room(tokens.size());
    std::span<const float> logits;
    for (size_t done = 0; done < tokens.size();) {
        const size_t n = static_cast<size_t>(pass_size(static_cast<int64_t>(tokens.size() - done)));
        const bool last = done + n == tokens.size();
        logits = forward_.run(tokens.subspan(done, n), last ? 1 : 0, last);
        done += n;
        if (on_chunk && !on_chunk(static_cast<int64_t>(done))) {
            return {};
        }
    }
    return logits;
}

void session::eval(std::span<const int32_t> tokens, int64_t first_wanted, const logits_sink & sink) {
    require_room(tokens.size());
    const int64_t total = static_cast<int64_t>(tokens.size());
    for (int64_t done = 0; done < total;) {
        const int64_t n = pass_size(total - done);
        const int64_t n_wanted = std::clamp<int64_t>(done + n - first_wanted, 0, n);
        const std::span<const float> logits = forward_.run(tokens.subspan(done, n), n_wanted, done + n == total);
        if (n_wanted > 0) {
            sink(done + n - n_wanted, n_wanted, logits);
        }
        done += n;
    }
}

double session::kv_bits_per_value() const {
    const hparams & hp = model_->hp;
    const double n_values = 2.0 * static_cast<double>(hp.n_layer * hp.n_embd_kv() * n_tokens());
    return n_values > 0 ? 8.0 * static_cast<double>(cache_->bytes()) / n_values : 0.0;
}

}  // namespace livekv
