# compare: comparisons with a scheduler that does as it is told, and their JSON.
attn_unit_test(test_compare SOURCES unit/compare/test_compare.c unit/compare/fake_sched.c LIBRARIES attnd_sched)
attn_unit_test(test_compare_json SOURCES unit/compare/test_compare_json.c LIBRARIES attnd_codec)
