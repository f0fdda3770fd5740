#pragma once

#include <pybind11/pybind11.h>

// The parts of the module, each in the file of its name.
namespace livekv {

void bind_options(pybind11::module_ & m);
void bind_model(pybind11::module_ & m);
void bind_session(pybind11::module_ & m);
void bind_generation(pybind11::module_ & m);
void bind_engine(pybind11::module_ & m);
void bind_streams(pybind11::module_ & m);
void bind_streams_by_channel(pybind11::module_ & m);
void bind_streams_of_groups(pybind11::module_ & m);
void bind_guided(pybind11::module_ & m);
void bind_fastkv(pybind11::module_ & m);
void bind_finch(pybind11::module_ & m);
void bind_kvquant(pybind11::module_ & m);
void bind_text(pybind11::module_ & m);
void bind_fidelity(pybind11::module_ & m);
void bind_store(pybind11::module_ & m);

}  // namespace livekv
