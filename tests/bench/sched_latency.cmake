# sched_latency: submit to completion through the scheduler, the ring and a worker.
if(TARGET attnd_sched)
  add_executable(sched_latency ${CMAKE_CURRENT_LIST_DIR}/sched_latency.c)
  target_link_libraries(sched_latency PRIVATE attn_options attnd_sched)
  set_target_properties(sched_latency PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
  if(ATTN_PORTABLE)
    install(TARGETS sched_latency RUNTIME DESTINATION bench)
  endif()
endif()
