#include <pybind11/pybind11.h>

#include <new>
#include <string>

#include "bind.h"
#include "calls.h"
#include "graph/cpu_features.h"
#include "model/ggml_log.h"

// What the extension's __cxa_atexit is (CMakeLists.txt): no static object is destroyed at exit, as threads that use it
// may still run. Python does not unload extensions, and the process's memory ends with it.
extern "C" int __wrap___cxa_atexit(void (*)(void *), void *, void *) {
    return 0;
}

PYBIND11_MODULE(_livekv, m) {
    namespace py = pybind11;
    m.doc() = "The engine, as the livekv package uses it; see _livekv.pyi";
    if (const std::string missing = livekv::missing_cpu_features(); !missing.empty()) {
        throw py::import_error("this livekv was built for a CPU with " + missing +
                               "; build it anew here, or with -Ccmake.define.LIVEKV_GGML_CPU=x86-64");
    }
    m.attr("__version__") = LIVEKV_VERSION;
    const py::object main_thread = py::module_::import("threading").attr("main_thread")();
    livekv::main_thread = main_thread.attr("ident").cast<unsigned long>();
    py::register_exception<livekv::error>(m, "Error").attr("__module__") = "livekv";
    py::register_exception_translator([](std::exception_ptr thrown) {
        try {
            std::rethrow_exception(thrown);
        } catch (const std::bad_alloc &) {
            py::set_error(py::module_::import("livekv._livekv").attr("Error"), "not enough memory");
        }
    });
    livekv::set_up_ggml();
    livekv::bind_options(m);
    livekv::bind_store(m);
    livekv::bind_model(m);
    livekv::bind_session(m);
    livekv::bind_generation(m);
    livekv::bind_engine(m);
    livekv::bind_streams(m);
    livekv::bind_streams_by_channel(m);
    livekv::bind_streams_of_groups(m);
    livekv::bind_guided(m);
    livekv::bind_fastkv(m);
    livekv::bind_finch(m);
    livekv::bind_kvquant(m);
    livekv::bind_text(m);
    livekv::bind_fidelity(m);
}
