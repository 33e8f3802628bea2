# The load client of the service and upload benchmarks.
add_executable(http_load ${CMAKE_CURRENT_LIST_DIR}/http_load.c ${CMAKE_CURRENT_LIST_DIR}/http_samples.c)
target_link_libraries(http_load PRIVATE attn_options)
set_target_properties(http_load PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
# The portable tree carries it, so that the benchmark runs where the binaries were taken to.
if(ATTN_PORTABLE)
  install(TARGETS http_load RUNTIME DESTINATION bench)
endif()
