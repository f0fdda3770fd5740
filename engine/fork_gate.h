#pragma once

#include <mutex>

// What a child of fork finds when other threads were at work: nobody holds an engine. A fork waits until the passes
// under way have ended, and nobody begins another before it is done.
namespace livekv::fork_gate {

// This thread works on what a child may want. Not to be held while waiting for anything but other such work.
class inside {
  public:
    inside();  // waits for a fork under way
    ~inside();
    inside(const inside &) = delete;
    inside & operator=(const inside &) = delete;
};

// For the length of long work within that other, during which this thread holds no lock: a fork need not wait for it.
class outside {
  public:
    outside();
    ~outside();  // waits for a fork under way
    outside(const outside &) = delete;
    outside & operator=(const outside &) = delete;

  private:
    int depth_;
};

// A lock that a child finds free. Nobody waits for anything but other such work while holding it.
class lock {
  public:
    explicit lock(std::mutex & m) : lock_(m) {}

  private:
    inside at_work_;
    std::lock_guard<std::mutex> lock_;
};

// Called around every fork from now on, when nobody is inside: before it, then in the parent and in the child. Throws
// livekv::error on too little memory.
struct handlers {
    void (*before)();
    void (*in_parent)();
    void (*in_child)();
};
void watch(const handlers & more);

// Held around every fork, and so free in the child. m lives for ever, and nobody waits for anything while holding it.
// Once is as good as twice.
void hold(std::mutex & m);

}  // namespace livekv::fork_gate
