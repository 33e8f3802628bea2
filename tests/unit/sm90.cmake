# sm90: the host part of the unified kernel's scheduler, and the GPU test program where CUDA is built.
attn_unit_test(test_sm90_merge SOURCES unit/sm90/test_merge.c LIBRARIES attn_kernels_table)
attn_unit_test(test_sm90_arena SOURCES unit/sm90/test_arena.c LIBRARIES attn_kernels_table)
attn_unit_test(test_sm90_scheduler SOURCES unit/sm90/test_scheduler.c LIBRARIES attn_kernels_table)
if(TARGET attn_kernels_sm90)
  add_executable(unified_test gpu/unified_test.cu)
  target_link_libraries(unified_test PRIVATE attn_kernels_sm90)
  set_target_properties(unified_test PROPERTIES CUDA_ARCHITECTURES 90a CUDA_STANDARD 17
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME unified_test COMMAND unified_test)
  set_tests_properties(unified_test PROPERTIES LABELS gpu SKIP_RETURN_CODE 77 TIMEOUT 330)
endif()
