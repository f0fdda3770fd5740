# The GPU's kernels. With CUDA nvcc compiles them; without, they are C++ and run emulated (kernels/cuda/simt.h), which
# nothing reaches but tests. Sealing has the CPU's bytes: nothing in it may be contracted.
set(LIVEKV_CUDA_SOURCES kernels/cuda/attend.cu kernels/cuda/memory.cu kernels/cuda/seal.cu)

target_include_directories(livekv_engine PRIVATE "${LIVEKV_GGML_SOURCE}/src")  # graph/device_backend.cpp
if(LIVEKV_CUDA_FOUND)
  target_sources(livekv_engine PRIVATE graph/device_stream.cu)
  target_compile_definitions(livekv_engine PUBLIC LIVEKV_CUDA)
  target_include_directories(livekv_engine PRIVATE "${LIVEKV_GGML_SOURCE}/src/ggml-cuda")
  target_link_libraries(livekv_engine PUBLIC CUDA::cudart_static)
  target_link_libraries(livekv_engine PRIVATE CUDA::cublas)  # named in the header of ggml's backend
  set(options "--expt-relaxed-constexpr;-lineinfo")
  set_source_files_properties(${LIVEKV_CUDA_SOURCES} graph/device_stream.cu PROPERTIES COMPILE_OPTIONS "${options}")
  set_source_files_properties(kernels/cuda/seal.cu PROPERTIES COMPILE_OPTIONS "${options};-fmad=false")
else()
  target_sources(livekv_engine PRIVATE kernels/cuda/simt_emulated.cpp)
  set_source_files_properties(${LIVEKV_CUDA_SOURCES} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++;-ffp-contract=off")
endif()
