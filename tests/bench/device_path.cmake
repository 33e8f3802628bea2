# What the engine of a GPU worker carries, without sockets, and whether the link always carries the same; carried by the
# portable tree like the load client.
if(TARGET attnd_engine_cuda)
  add_executable(device_path ${CMAKE_CURRENT_LIST_DIR}/device_path.c)
  target_link_libraries(device_path PRIVATE attn_options attnd_engine_cuda)
  add_executable(link_steadiness ${CMAKE_CURRENT_LIST_DIR}/link_steadiness.c)
  target_link_libraries(link_steadiness PRIVATE attn_options attnd_engine_cuda)
  set_target_properties(device_path link_steadiness PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
  if(ATTN_PORTABLE)
    install(TARGETS device_path link_steadiness RUNTIME DESTINATION bench)
  endif()
endif()
