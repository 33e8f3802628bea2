# worker: the rings, and a job's memory. A job's memory is the worker program's own file.
attn_unit_test(test_worker SOURCES unit/worker/test_ring.c ${CMAKE_SOURCE_DIR}/server/worker/memory.c
  ${CMAKE_SOURCE_DIR}/server/worker/client_memory.c
  LIBRARIES attnd_wire)
attn_unit_test(test_slab SOURCES unit/worker/test_slab.c LIBRARIES attnd_engine attn_kernels_table)
attn_unit_test(test_link_turns SOURCES unit/worker/test_link_turns.c LIBRARIES attnd_engine attn_kernels_table)
attn_unit_test(test_loop SOURCES unit/worker/test_loop.c ${CMAKE_SOURCE_DIR}/server/worker/loop.c
  LIBRARIES attnd_engine attnd_wire attn_kernels_table)
