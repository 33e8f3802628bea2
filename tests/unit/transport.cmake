# transport: the HTTP door with a scheduler that only waits.
attn_unit_test(test_transport SOURCES unit/transport/test_http.c unit/transport/fake.c LIBRARIES attnd_transport)
attn_unit_test(test_turns SOURCES unit/transport/test_turns.c ${CMAKE_SOURCE_DIR}/server/transport/http_turns.c
  LIBRARIES attnd_transport)
attn_unit_test(test_http_plain SOURCES unit/transport/test_http_plain.c LIBRARIES attnd_transport)
# The Unix socket's door with a real worker. Calls of the allocator are counted in both.
add_executable(counting-worker unit/allocations.c ${CMAKE_SOURCE_DIR}/server/worker/main.c
  ${CMAKE_SOURCE_DIR}/server/worker/loop.c ${CMAKE_SOURCE_DIR}/server/worker/engine_null.c
  ${CMAKE_SOURCE_DIR}/server/worker/engine_cpu.c)
target_link_libraries(counting-worker PRIVATE attn_options attnd_wire attnd_engine)
target_include_directories(counting-worker PRIVATE ${CMAKE_SOURCE_DIR}/tests/unit)
set_target_properties(counting-worker PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
attn_unit_test(test_unix SOURCES unit/transport/test_unix.c unit/allocations.c LIBRARIES attnd_transport)
target_compile_definitions(test_unix PRIVATE TEST_WORKER_PATH="$<TARGET_FILE:counting-worker>")
add_dependencies(test_unix counting-worker)
