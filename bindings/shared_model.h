#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "fork_gate.h"
#include "livekv.h"

namespace livekv {

// A model as Python holds it, with the engines its sessions share: one for each number of threads, as long as somebody
// uses it.
class shared_model {
  public:
    // prefix_cache_bytes: of each engine; store: of all, or null (engine.h).
    shared_model(std::shared_ptr<const model> m, size_t prefix_cache_bytes, std::shared_ptr<chunk_store> store)
        : model_(std::move(m)), prefix_cache_bytes_(prefix_cache_bytes), store_(std::move(store)) {}

    const std::shared_ptr<const model> & get() const { return model_; }

    // Throws livekv::error when a device cannot be opened.
    std::shared_ptr<engine> engine_of(int32_t n_threads) {
        const fork_gate::lock lock(mutex_);
        std::shared_ptr<engine> found = engines_[n_threads].lock();
        if (!found) {
            found = std::make_shared<engine>(model_, n_threads, prefix_cache_bytes_, store_);
            engines_[n_threads] = found;
            if (prefix_cache_bytes_ > 0) {
                kept_.push_back(found);  // with what it remembers, also while nobody has a session
            }
        }
        return found;
    }

  private:
    std::shared_ptr<const model> model_;
    std::mutex mutex_;
    std::map<int32_t, std::weak_ptr<engine>> engines_;
    size_t prefix_cache_bytes_;
    std::shared_ptr<chunk_store> store_;
    std::vector<std::shared_ptr<engine>> kept_;
};

}  // namespace livekv
