# The GPU's kernels, which nvcc compiles. A build without CUDA says that there is no device (none.cpp), and compiles them
# as C++ for the tests only, where they run emulated (kernels/cuda/simt.h). Sealing has the CPU's bytes: nothing in it may
# be contracted.
set(kernels kernels/cuda/attend.cu kernels/cuda/seal.cu)

target_include_directories(livekv_engine PRIVATE "${LIVEKV_GGML_SOURCE}/src")  # graph/kv_backend.cpp
if(LIVEKV_CUDA_FOUND)
  set(sources ${kernels} kernels/cuda/memory.cu graph/kv_backend_stream.cu)
  target_sources(livekv_engine PRIVATE ${sources})
  target_compile_definitions(livekv_engine PUBLIC LIVEKV_CUDA)
  target_include_directories(livekv_engine PRIVATE "${LIVEKV_GGML_SOURCE}/src/ggml-cuda")
  target_link_libraries(livekv_engine PUBLIC CUDA::cudart_static)
  target_link_libraries(livekv_engine PRIVATE CUDA::cublas)  # named in the header of ggml's backend
  set(options "--expt-relaxed-constexpr;-lineinfo")
  set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS "${options}")
  set_source_files_properties(kernels/cuda/seal.cu PROPERTIES COMPILE_OPTIONS "${options};-fmad=false")
else()
  target_sources(livekv_engine PRIVATE kernels/cuda/none.cpp)
  if(LIVEKV_BUILD_TESTS)
    # Objects, not an archive: a program that links them has every function of the device already, so that the linker
    # takes none.cpp from the engine's archive in no program that has them, whatever the order.
    add_library(livekv_device_emulated OBJECT ${kernels} kernels/cuda/memory_emulated.cpp kernels/cuda/simt_emulated.cpp)
    set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++;-ffp-contract=off")
    target_compile_options(livekv_device_emulated PRIVATE -Wall -Wextra -Wshadow -Wpedantic)
    target_link_libraries(livekv_device_emulated PUBLIC livekv_engine)
  endif()
endif()
