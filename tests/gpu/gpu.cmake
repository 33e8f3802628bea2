# Programs for a machine with a GPU: one command each, "N passed, N failed", exit status 1 when something failed,
# "skipped: no GPU" and 77 without one. tests/gpu/run.sh runs them all and a smoke test of the service.
function(attn_gpu_test name)
  cmake_parse_arguments(PARSE_ARGV 1 GPU "" "" "SOURCES;LIBRARIES")
  add_executable(${name} ${GPU_SOURCES} ${CMAKE_SOURCE_DIR}/tests/gpu/check.c)
  target_link_libraries(${name} PRIVATE attn_options ${GPU_LIBRARIES} CUDA::cudart_static m)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests ${CMAKE_SOURCE_DIR}/server
    ${CMAKE_SOURCE_DIR}/kernels/include ${CMAKE_SOURCE_DIR}/kernels)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS gpu TIMEOUT 300 SKIP_RETURN_CODE 77)
endfunction()

attn_gpu_test(attn_gpu_reference_test SOURCES ${CMAKE_SOURCE_DIR}/tests/gpu/reference_test.c
  LIBRARIES attn_kernels_cuda attn_kernels_cpu)
attn_gpu_test(attn_gpu_engine_test SOURCES ${CMAKE_SOURCE_DIR}/tests/gpu/engine_test.c ${CMAKE_SOURCE_DIR}/tests/gpu/engine_groups.c
  ${CMAKE_SOURCE_DIR}/tests/gpu/engine_large.c LIBRARIES attnd_engine_cuda)

attn_gpu_test(attn_gpu_device_regions_test SOURCES ${CMAKE_SOURCE_DIR}/tests/gpu/device_regions_test.c
  LIBRARIES attn_static)
set_tests_properties(attn_gpu_device_regions_test PROPERTIES TIMEOUT 120)
add_dependencies(attn_gpu_device_regions_test attnd attn-worker)
