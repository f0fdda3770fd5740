#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <utility>

// The interpreter's lock, for threads that may outlast the interpreter. When Python ends, daemon threads go on inside
// the engine, and as soon as they ask for the lock Python before 3.14 ends them with pthread_exit. That unwinds the
// stack, and where a destructor or another noexcept function is on it, std::terminate takes the whole process and the
// status it was to exit with. So they wait where they are for the process to end, as Python 3.14 has them do.
namespace livekv {

namespace py = pybind11;

[[noreturn]] inline void wait_for_the_end() {
    for (;;) {
        ::pause();
    }
}

// f(), which may ask for the lock: all calls of Python's code do, every few milliseconds. Holds the lock afterwards.
// libstdc++ has no object to bind what is caught to, which UndefinedBehaviorSanitizer takes for a null pointer.
template <typename F>
#ifdef __GLIBCXX__
__attribute__((no_sanitize("undefined")))
#endif
auto staying(F && f) {
#ifdef __GLIBCXX__
    try {
        return std::forward<F>(f)();
    } catch (const abi::__forced_unwind &) {
        wait_for_the_end();
    }
#else
    return std::forward<F>(f)();
#endif
}

// Without the lock as long as it lives.
class gil_released {
  public:
    gil_released() : state_(PyEval_SaveThread()) {}
    ~gil_released() {
        staying([&] { PyEval_RestoreThread(state_); });
    }
    gil_released(const gil_released &) = delete;
    gil_released & operator=(const gil_released &) = delete;

  private:
    PyThreadState * state_;
};

// With the lock, in any thread, which may have it already.
class gil_held {
  public:
    gil_held() : state_(staying(take)) {}
    ~gil_held() { PyGILState_Release(state_); }
    gil_held(const gil_held &) = delete;
    gil_held & operator=(const gil_held &) = delete;

  private:
    static PyGILState_STATE take() {
        if (!PyGILState_GetThisThreadState() && !Py_IsInitialized()) {
            wait_for_the_end();  // a thread of the engine's own: there is no interpreter any more to make it known to
        }
        return PyGILState_Ensure();
    }

    PyGILState_STATE state_;
};

}  // namespace livekv
