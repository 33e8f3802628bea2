# The `cpu` side of the benchmark against PyTorch's CPU scaled_dot_product_attention.
add_executable(cpu_sdpa ${CMAKE_CURRENT_LIST_DIR}/cpu_sdpa.c)
target_include_directories(cpu_sdpa PRIVATE ${CMAKE_SOURCE_DIR}/kernels)
target_link_libraries(cpu_sdpa PRIVATE attn_options attn_kernels_cpu)
set_target_properties(cpu_sdpa PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
