#pragma once

// Children of fork, and what they do while other threads of the parent are at work.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "check.h"

namespace forked {

// Skips the test under ThreadSanitizer, which does not know the threads that a child of several threads starts.
inline void require_fork() {
#if defined(__SANITIZE_THREAD__)
    SKIP("ThreadSanitizer does not follow a fork");
#endif
}

// The same where other threads allocate at that moment.
inline void require_fork_beside_threads() {
    require_fork();
#if defined(__SANITIZE_ADDRESS__)
    SKIP("AddressSanitizer's allocator may be locked by the other thread, and stays so in the child");
#endif
}

// The child's exit status; -1 when it had to be ended.
template <typename F>
int in_child(F run) {
    const pid_t pid = ::fork();
    if (pid == 0) {
        ::alarm(60);  // what hangs is ended by a signal
        ::_exit(run());
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Another thread that does something again and again, until this goes.
class meanwhile {
  public:
    template <typename F>
    explicit meanwhile(F work)
        : thread_([this, work] {
              while (!done_) {
                  work();
                  ++n_;
              }
          }) {}
    ~meanwhile() {
        done_ = true;
        thread_.join();
    }
    int n() const { return n_; }  // how often it did

  private:
    std::atomic<bool> done_ = false;
    std::atomic<int> n_ = 0;
    std::thread thread_;
};

}  // namespace forked
