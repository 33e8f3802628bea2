# socket_floor: what the machine itself takes for the steps of a request, for tests/bench/socket_bench.py.
if(ATTN_HAVE_CUDA)
  add_executable(socket_floor ${CMAKE_CURRENT_LIST_DIR}/socket_floor.c)
  target_link_libraries(socket_floor PRIVATE attn_options CUDA::cudart_static ${CMAKE_DL_LIBS})
  set_target_properties(socket_floor PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
  if(ATTN_PORTABLE)
    install(TARGETS socket_floor RUNTIME DESTINATION bench)
  endif()
endif()
