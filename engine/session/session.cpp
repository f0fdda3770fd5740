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
        shape.on_device.push_back(device.caches_on_device(layer.on_gpu));
    }
    return shape;
}

}  // namespace

session::session(std::shared_ptr<const model> m, const session_params & params)
    : model_(std::move(m)),
      params_(params),
      device_(params.n_threads, model_->tensors.n_gpu_layers > 0, llama_graph_nodes(model_->hp)),
      cache_(make_kv_cache(params.kv, shape_of(*model_, device_, params))),
      forward_(std::in_place, model_->hp, model_->tensors, *cache_, device_) {}

session::session(std::shared_ptr<const model> m, const session_params & params, std::unique_ptr<kv_cache> cache)
    : model_(std::move(m)),
      params_(params),
      device_(params.n_threads, model_->tensors.n_gpu_layers > 0, llama_graph_nodes(model_->hp)),
      cache_(std::move(cache)),
      forward_(std::in_place, model_->hp, model_->tensors, *cache_, device_) {}

std::unique_ptr<session> session::fork() const {
    std::unique_ptr<session> copy(new session(model_, params_, cache_->fork()));
    copy->tokens_ = tokens_;
    copy->restored_logits_.assign(last_logits_.begin(), last_logits_.end());
    copy->last_logits_ = copy->restored_logits_;
    return copy;
}

void session::trim(int64_t n) {
    cache_->trim(n);
    tokens_.resize(static_cast<size_t>(n));
    last_logits_ = {};
}

void session::repeat(int64_t n) {
    cache_->repeat(n);
    const size_t n_before = tokens_.size();
    for (size_t i = n_before; i < static_cast<size_t>(cache_->n_tokens()); ++i) {
        tokens_.push_back(tokens_[i % n_before]);
    }
    last_logits_ = {};
}

void session::save(const std::string & path) const {
    livekv_file::write(path, *cache_, model_fingerprint(model_->file, model_->hp), tokens_, last_logits_);
}

void session::load(const livekv_file & file) {
    if (n_tokens() > 0) {
        fail("a saved sequence needs an empty session; this one holds ", n_tokens(), " tokens");
    }
    file.require_model(model_fingerprint(model_->file, model_->hp));
    session_params params = params_;
    params.kv = file.options();
    params.kv.measure_error = params_.kv.measure_error;
    std::unique_ptr<kv_cache> cache =
        file.restore(shape_of(*model_, device_, params), model_->hp.n_vocab, params.kv.measure_error);
    std::vector<float> logits = file.logits(model_->hp.n_vocab);
    std::vector<int32_t> tokens = file.tokens();
    forward_.emplace(model_->hp, model_->tensors, *cache, device_);
    cache_ = std::move(cache);
    params_ = std::move(params);
    tokens_ = std::move(tokens);
    restored_logits_ = std::move(logits);
    last_logits_ = restored_logits_;
}

int64_t session::pass_size(int64_t n) const {
    return std::min({n, params_.kv.chunk_size, cache_->max_new()});
}

void session::require_room(size_t n_new) const {
    const int64_t total = n_tokens() + static_cast<int64_t>(n_new);
    if (total > n_ctx()) {
        fail("the context holds ", n_ctx(), " tokens, ", total, " are needed; use a longer one (-c)");
    }
}

std::span<const float> session::pass(std::span<const int32_t> tokens, int64_t n_outputs, bool end_of_prompt) {
    last_logits_ = {};
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    try {
        const std::span<const float> logits = forward_->run(tokens, n_outputs, end_of_prompt);
        last_logits_ = n_outputs > 0 ? logits.last(static_cast<size_t>(model_->hp.n_vocab)) : logits;
        return logits;
    } catch (...) {
        tokens_.resize(static_cast<size_t>(cache_->n_tokens()));
        throw;
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
        logits = pass(tokens.subspan(done, n), last ? 1 : 0, last);
        done += n;
        if (on_chunk && !on_chunk(static_cast<int64_t>(done))) {
            return {};
        }
    }
    return logits;
}

session::eval_rows session::eval_pass(std::span<const int32_t> tokens, int64_t n_done, int64_t first_wanted) {
    const int64_t total = static_cast<int64_t>(tokens.size());
    LIVEKV_ASSERT(n_done >= 0 && n_done < total);
    require_room(tokens.size() - static_cast<size_t>(n_done));
    const int64_t n = pass_size(total - n_done);
    eval_rows r;
    r.n_done = n_done + n;
    r.n_rows = std::clamp<int64_t>(r.n_done - first_wanted, 0, n);
    r.first = r.n_done - r.n_rows;
    r.logits = pass(tokens.subspan(static_cast<size_t>(n_done), static_cast<size_t>(n)), r.n_rows, r.n_done == total);
    return r;
}

void session::eval(std::span<const int32_t> tokens, int64_t first_wanted, const logits_sink & sink,
                   const progress & on_chunk) {
    require_room(tokens.size());
    for (int64_t done = 0; done < static_cast<int64_t>(tokens.size());) {
        const eval_rows r = eval_pass(tokens, done, first_wanted);
        if (r.n_rows > 0) {
            sink(r.first, r.n_rows, r.logits);
        }
        done = r.n_done;
        if (on_chunk && !on_chunk(done)) {
            return;
        }
    }
}

std::optional<double> session::kv_bits_per_value() const {
    const hparams & hp = model_->hp;
    if (n_tokens() == 0) {
        return std::nullopt;
    }
    const double n_values = 2.0 * static_cast<double>(hp.n_layer * hp.n_embd_kv() * n_tokens());
    return 8.0 * static_cast<double>(cache_->bytes()) / n_values;
}

}  // namespace livekv
