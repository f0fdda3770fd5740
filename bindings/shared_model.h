#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "livekv.h"

namespace livekv {

// A model as Python holds it, with the engines its sessions share: one for each number of threads, as long as somebody
// uses it.
class shared_model {
  public:
    explicit shared_model(std::shared_ptr<const model> m) : model_(std::move(m)) {}

    const std::shared_ptr<const model> & get() const { return model_; }

    // Throws livekv::error when a device cannot be opened.
    std::shared_ptr<engine> engine_of(int32_t n_threads) {
        const std::lock_guard lock(mutex_);
        std::shared_ptr<engine> found = engines_[n_threads].lock();
        if (!found) {
            found = std::make_shared<engine>(model_, n_threads);
            engines_[n_threads] = found;
        }
        return found;
    }

  private:
    std::shared_ptr<const model> model_;
    std::mutex mutex_;
    std::map<int32_t, std::weak_ptr<engine>> engines_;
};

}  // namespace livekv
