# config: the table of options.
attn_unit_test(test_config SOURCES unit/config/test_options.c LIBRARIES attnd_config)
