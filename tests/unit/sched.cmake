# sched: admission, queue, quarantine; and the scheduler with real workers. Sanitizers slow real time down.
if(ATTN_SANITIZE)
  set(ATTN_TEST_SLOWNESS 10)
else()
  set(ATTN_TEST_SLOWNESS 1)
endif()
attn_unit_test(test_sched SOURCES unit/sched/test_sched.c unit/sched/harness.c LIBRARIES attnd_sched TIMEOUT 600)
target_compile_definitions(test_sched PRIVATE TEST_WORKER_PATH="$<TARGET_FILE:attn-worker>"
  TEST_SLOWNESS=${ATTN_TEST_SLOWNESS})
add_dependencies(test_sched attn-worker)
attn_unit_test(test_sched_parts SOURCES unit/sched/test_parts.c LIBRARIES attnd_sched)
