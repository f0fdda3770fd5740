#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <mutex>

#include "error.h"
#include "session/session.h"

// What every call into the engine shares: the interpreter's lock, Ctrl-C, and one thread a session.
namespace livekv {

namespace py = pybind11;

// Takes the interpreter's lock back and throws what a signal handler raised: KeyboardInterrupt for Ctrl-C. Called
// between passes of the model, where an exception leaves a session as it is after the last pass.
inline void check_signals() {
    const py::gil_scoped_acquire gil;
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

// The session for the length of one call. Throws livekv::error when it is closed or another call is in it.
class held_session {
  public:
    explicit held_session(session_handle & handle) : handle_(handle), lock_(handle.in_use, std::try_to_lock) {
        if (!lock_.owns_lock()) {
            fail("this session is in use by another call; give each thread a session of its own");
        }
        if (!handle_.s) {
            fail("this session is closed");
        }
    }

    session & operator*() { return *handle_.s; }
    session * operator->() { return handle_.s.get(); }
    void note_change() { ++handle_.n_changes; }

  private:
    session_handle & handle_;
    std::unique_lock<std::mutex> lock_;
};

}  // namespace livekv
