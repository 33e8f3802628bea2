# base: arenas.
attn_unit_test(test_base_arena SOURCES unit/base/test_arena.c LIBRARIES attnd_base)
