# kernels: the table of variants, the size routine, the CPU engines and the accuracy module.
foreach(area spec table accuracy cpu)
  attn_unit_test(test_kernels_${area} SOURCES unit/kernels/test_${area}.c unit/kernels/kit.c
    LIBRARIES attn_kernels_cpu m TIMEOUT 300)
endforeach()
