#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <mutex>

#include "gil.h"
#include "livekv.h"

// What every call into the engine shares: the interpreter's lock, Ctrl-C, and one thread a session.
namespace livekv {

namespace py = pybind11;

// Python's main thread, the only one that runs signal handlers; set when the module is loaded.
inline unsigned long main_thread = 0;

// Throws what a signal handler raised: KeyboardInterrupt for Ctrl-C. Called without the interpreter's lock, between
// passes of the model, where an exception leaves a session as it is after the last pass.
inline void check_signals() {
    if (PyThread_get_thread_ident() != main_thread) {
        return;  // other threads do not wait for the lock at every token
    }
    const gil_held gil;
    if (PyErr_CheckSignals() != 0) {
        throw py::error_already_set();
    }
}

// A session as Python holds it: it may be closed, and only one thread may be in it.
struct session_handle {
    std::unique_ptr<session> s;  // null: closed
    std::mutex in_use;
    uint64_t n_changes = 0;  // a generation under way sees by it that somebody else has changed the sequence
};

// Keeps other calls out of a session for the length of one. Throws livekv::error when another call is in it.
class session_lock {
  public:
    explicit session_lock(session_handle & handle) : lock_(handle.in_use, std::try_to_lock) {
        if (!lock_.owns_lock()) {
            fail("this session is in use by another call; give each thread a session of its own");
        }
    }

  private:
    std::unique_lock<std::mutex> lock_;
};

// The session for the length of one call. Throws livekv::error when it is closed, and as session_lock does.
class held_session {
  public:
    explicit held_session(session_handle & handle) : lock_(handle), handle_(handle) {
        if (!handle_.s) {
            fail("this session is closed");
        }
    }

    session & operator*() { return *handle_.s; }
    session * operator->() { return handle_.s.get(); }
    void note_change() { ++handle_.n_changes; }

  private:
    session_lock lock_;
    session_handle & handle_;
};

}  // namespace livekv
