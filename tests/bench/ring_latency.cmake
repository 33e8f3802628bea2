# ring_latency: what the Unix socket's ring adds to waking another process. attnd and attn-worker are run as they are.
add_executable(ring_latency ${CMAKE_SOURCE_DIR}/tests/bench/ring_latency.c)
target_link_libraries(ring_latency PRIVATE attn_options attn_proto)
set_target_properties(ring_latency PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
add_dependencies(ring_latency attnd attn-worker)
if(ATTN_PORTABLE)
  install(TARGETS ring_latency RUNTIME DESTINATION bench)
endif()
