/* codec/compare_proto.h: how a job stands, in protobuf. Pure; any thread. */
#ifndef ATTND_CODEC_COMPARE_PROTO_H
#define ATTND_CODEC_COMPARE_PROTO_H

#include <stdbool.h>
#include <stddef.h>

#include "sched/compare.h"

/* An attn.v1.Job with its result; malloc'ed. False without memory. */
bool attn_compare_proto_write(const attn_compare_view_t *view, void **ret, size_t *ret_bytes);

#endif
