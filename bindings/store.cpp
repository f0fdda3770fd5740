#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "bind.h"
#include "gil.h"
#include "livekv.h"

namespace livekv {

namespace py = pybind11;

namespace {

// A Python object with get(name), bytes or None, and offer(name, changed), which raise nothing: what they raise all the
// same counts as none.
class python_remote : public chunk_remote {
  public:
    explicit python_remote(py::object remote) : remote_(std::move(remote)) {}
    ~python_remote() override {
        const gil_held gil;
        remote_ = py::object();
    }
    python_remote(const python_remote &) = delete;
    python_remote & operator=(const python_remote &) = delete;

    std::optional<std::string> get(const std::string & name) noexcept override {
        return called<std::optional<std::string>>([&] {
            const py::object found = remote_.attr("get")(name);
            return found.is_none() ? std::nullopt : std::optional(std::string(py::bytes(found)));
        });
    }

    void offer(const std::string & name, bool changed) noexcept override {
        called<bool>([&] { return remote_.attr("offer")(name, changed), true; });
    }

  private:
    template <typename R, typename F>
    static R called(F && f) noexcept {
        const gil_held gil;
        try {
            return staying(f);
        } catch (py::error_already_set & problem) {
            problem.discard_as_unraisable("a livekv.ChunkStore's remote");
        } catch (const std::exception &) {
        }
        return {};
    }

    py::object remote_;
};

std::shared_ptr<chunk_store> open(const std::string & path, int64_t limit, const py::object & remote,
                                  bool fetches_ahead) {
    if (limit < 1) {
        fail("limit is ", limit, "; it must be 1 or more bytes");
    }
    const auto beyond = remote.is_none() ? nullptr : std::make_shared<python_remote>(remote);
    const gil_released released;
    return std::make_shared<chunk_store>(path, static_cast<uint64_t>(limit), beyond, fetches_ahead);
}

py::dict counts_of(const chunk_store & store) {
    py::dict counts;
    visit_numbers(store.counts(), [&](const char * name, int64_t n) { counts[name] = n; });
    return counts;
}

py::list pieces_of(const chunk_store & store) {
    std::vector<stored_piece> pieces;
    {
        const gil_released released;
        pieces = stored_pieces(store.path());
    }
    py::list all;
    for (const stored_piece & p : pieces) {
        all.append(py::dict(py::arg("name") = p.name, py::arg("bytes") = p.bytes, py::arg("used_s") = p.used_s,
                            py::arg("readable") = p.readable, py::arg("first_token") = p.first_token,
                            py::arg("n_tokens") = p.n_tokens, py::arg("policy") = printable(p.policy),
                            py::arg("weights") = printable(p.weights)));
    }
    return all;
}

}  // namespace

void bind_store(py::module_ & module) {
    py::class_<chunk_store, std::shared_ptr<chunk_store>>(module, "ChunkStore")
        .def(py::init(&open), py::arg("path"), py::arg("limit"), py::arg("remote"), py::arg("fetches_ahead"))
        .def("counts", &counts_of)
        .def("problem", &chunk_store::problem)
        .def("pieces", &pieces_of);
}

}  // namespace livekv
