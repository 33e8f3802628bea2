# base: log and metrics.
attn_unit_test(test_base_log SOURCES unit/base/test_log.c LIBRARIES attnd_base)
