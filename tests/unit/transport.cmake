# transport: the HTTP door with a scheduler that only waits.
attn_unit_test(test_transport SOURCES unit/transport/test_http.c unit/transport/fake.c LIBRARIES attnd_transport)
