# Writes OUT with the revision of SOURCE, "+" behind it when tracked files differ; touches it only when that changes.
execute_process(COMMAND git -C ${SOURCE} describe --always --abbrev=12 --dirty=+ --match=none
  OUTPUT_VARIABLE revision OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(revision unknown)
endif()
file(CONFIGURE OUTPUT ${OUT} CONTENT "#define ATTND_REVISION \"${revision}\"\n")
