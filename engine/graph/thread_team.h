#pragma once

#include <ggml-backend.h>

#include <cstdint>

namespace livekv {

// Threads for the length of one graph. Teams are shared by the process: there are as many of n_threads as graphs are
// computed at the same time, and a backend that computes again finds its own awake. After fork the child starts new
// ones.
class thread_team {
  public:
    // cpu: a backend of ggml's CPU device, told to compute with n_threads until this is destroyed. Throws livekv::error
    // when the system grants no more threads.
    thread_team(ggml_backend_t cpu, int32_t n_threads);
    ~thread_team();
    thread_team(const thread_team &) = delete;
    thread_team & operator=(const thread_team &) = delete;

    // The backend is about to be freed.
    static void forget(ggml_backend_t cpu);

  private:
    ggml_backend_t cpu_;
};

}  // namespace livekv
