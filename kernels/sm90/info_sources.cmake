# Pure-C parts of sm90 that are linked everywhere: the rows of the table of variants.
set(ATTN_SM90_INFO_SOURCES ${CMAKE_CURRENT_LIST_DIR}/unified_info.c ${CMAKE_CURRENT_LIST_DIR}/scheduler.c
  ${CMAKE_CURRENT_LIST_DIR}/merge.c ${CMAKE_CURRENT_LIST_DIR}/arena.c)
