# The load client of the service and upload benchmarks, and what the loopback takes without a service.
find_package(Threads REQUIRED)
add_executable(http_load ${CMAKE_CURRENT_LIST_DIR}/http_load.c ${CMAKE_CURRENT_LIST_DIR}/http_samples.c)
target_link_libraries(http_load PRIVATE attn_options Threads::Threads)
set_target_properties(http_load PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
add_executable(http_floor ${CMAKE_CURRENT_LIST_DIR}/http_floor.c)
target_link_libraries(http_floor PRIVATE attn_options)
set_target_properties(http_floor PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
# The portable tree carries them, so that the benchmarks run where the binaries were taken to.
if(ATTN_PORTABLE)
  install(TARGETS http_load http_floor RUNTIME DESTINATION bench)
endif()
