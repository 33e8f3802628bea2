# The load client of the service and upload benchmarks.
add_executable(http_load ${CMAKE_CURRENT_LIST_DIR}/http_load.c)
target_link_libraries(http_load PRIVATE attn_options)
set_target_properties(http_load PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
