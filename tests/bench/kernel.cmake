# The benchmark of the sm90 kernels; kernel_peers.py needs them as a shared object that PyTorch's process can load.
if(TARGET attn_kernels_sm90)
  add_executable(kernel_bench ${CMAKE_CURRENT_LIST_DIR}/kernel_bench.cu)
  target_link_libraries(kernel_bench PRIVATE attn_kernels_sm90)
  set_target_properties(kernel_bench PROPERTIES CUDA_ARCHITECTURES 90a CUDA_STANDARD 17
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
  add_library(attn_unified_shared SHARED EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/kernels/types.c
    ${CMAKE_SOURCE_DIR}/kernels/status.c)
  target_include_directories(attn_unified_shared PRIVATE ${CMAKE_SOURCE_DIR}/kernels/include)
  target_link_libraries(attn_unified_shared PRIVATE -Wl,--whole-archive attn_kernels_sm90 -Wl,--no-whole-archive)
  set_target_properties(attn_unified_shared PROPERTIES OUTPUT_NAME unified CUDA_ARCHITECTURES 90a LINKER_LANGUAGE CUDA
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
endif()
