# The peer of the upload benchmark.
find_package(PkgConfig REQUIRED)
pkg_check_modules(MICROHTTPD REQUIRED IMPORTED_TARGET libmicrohttpd)
add_executable(http_sink ${CMAKE_CURRENT_LIST_DIR}/http_sink.c)
target_link_libraries(http_sink PRIVATE attn_options PkgConfig::MICROHTTPD)
set_target_properties(http_sink PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
