# transport: the HTTP door with a scheduler that only waits.
attn_unit_test(test_transport SOURCES unit/transport/test_http.c unit/transport/fake.c LIBRARIES attnd_transport)
# The Unix socket's door with a real worker. Calls of the allocator are counted; a sanitizer has one of its own.
attn_unit_test(test_unix SOURCES unit/transport/test_unix.c LIBRARIES attnd_transport)
target_compile_definitions(test_unix PRIVATE TEST_WORKER_PATH="$<TARGET_FILE:attn-worker>")
target_link_options(test_unix PRIVATE -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=posix_memalign)
add_dependencies(test_unix attn-worker)
