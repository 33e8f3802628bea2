# client: libattn against servers that lie, and the readers of attnctl.
attn_unit_test(test_client SOURCES unit/client/test_client.c unit/client/script_server.c LIBRARIES attn_static attn_proto)
target_include_directories(test_client PRIVATE ${CMAKE_SOURCE_DIR}/client)
attn_unit_test(test_client_parsers SOURCES unit/client/test_client_parsers.c LIBRARIES attn_static)
target_include_directories(test_client_parsers PRIVATE ${CMAKE_SOURCE_DIR}/client)
attn_unit_test(test_attnctl SOURCES unit/client/test_attnctl.c LIBRARIES attnctl_files)
attn_unit_test(test_bench SOURCES unit/client/test_bench.c LIBRARIES attnctl_load)
attn_unit_test(test_local SOURCES unit/client/test_local.c unit/client/local_kit.c unit/client/fake_door.c
  LIBRARIES attn_static attn_proto)
attn_unit_test(test_local_faults SOURCES unit/client/test_local_faults.c unit/client/local_kit.c unit/client/fake_door.c
  LIBRARIES attn_static attn_proto)
attn_unit_test(test_local_device SOURCES unit/client/test_local_device.c unit/client/local_kit.c unit/client/fake_door.c
  LIBRARIES attn_static attn_proto)
