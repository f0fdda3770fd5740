#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind.h"
#include "livekv.h"

namespace livekv {

namespace py = pybind11;

namespace {

std::shared_ptr<chunk_store> open(const std::string & path, int64_t limit) {
    if (limit < 1) {
        fail("limit is ", limit, "; it must be 1 or more bytes");
    }
    const py::gil_scoped_release released;
    return std::make_shared<chunk_store>(path, static_cast<uint64_t>(limit));
}

py::dict counts_of(const chunk_store & store) {
    py::dict counts;
    visit_numbers(store.counts(), [&](const char * name, int64_t n) { counts[name] = n; });
    return counts;
}

py::list pieces_of(const chunk_store & store) {
    std::vector<stored_piece> pieces;
    {
        const py::gil_scoped_release released;
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
        .def(py::init(&open), py::arg("path"), py::arg("limit"))
        .def("counts", &counts_of)
        .def("problem", &chunk_store::problem)
        .def("pieces", &pieces_of);
}

}  // namespace livekv
