"""Requests that are well framed and wrong in what they say: both framings, one test for each way to be wrong."""
import struct

import pytest

import wire
from refusal import check
from wire import Problem

# (name, problem arguments, query or fields, words that the sentence must have)
ASKS = {
    "sm_scale_nan": (dict(sm_scale=float("nan")), 400, "sm_scale"),
    "sm_scale_inf": (dict(sm_scale=float("inf")), 400, "sm_scale"),
    "sm_scale_zero": (dict(sm_scale=0.0), 400, "sm_scale"),
    "sm_scale_negative": (dict(sm_scale=-1.0), 400, "sm_scale"),
    "softcap_negative": (dict(softcap=-1.0), 400, "softcap"),
    "softcap_nan": (dict(softcap=float("nan")), 400, "softcap"),
    "softcap_inf": (dict(softcap=float("inf")), 400, "softcap"),
    "unknown_variant": (dict(variant="flash9"), 404, "flash9"),
    "variant_with_odd_characters": (dict(variant="a b\"c"), (400, 404), "variant"),
    "variant_too_long": (dict(variant="x" * 300), (400, 404), "variant"),
    "priority_too_high": (dict(priority=101), 400, "priority"),
    "priority_too_low": (dict(priority=-101), 400, "priority"),
    "id_too_long": (dict(id="i" * 64), 400, "id"),
    "id_not_printable": (dict(id="a\tb"), 400, "id"),
}


def quoted(query):
    from urllib.parse import quote

    return "&".join(f"{k}={quote(str(v))}" for k, v in query.items())


@pytest.mark.parametrize("name", ASKS)
def test_ask_safetensors(attnd, name):
    ask, status, *words = ASKS[name]
    check(attnd.post("/v1/attention?" + quoted(ask), Problem().safetensors()), status, *words)


@pytest.mark.parametrize("name", ASKS)
def test_ask_xattn(attnd, pb, name):
    ask, status, *words = ASKS[name]
    check(attnd.post("/v1/attention", Problem().xattn(pb, **ask), wire.XATTN), status, *words)


def zeros(dtype, shape):
    n = 1
    for extent in shape:
        n *= extent
    return dtype, shape, bytes(n * {"fp16": 2, "bf16": 2, "fp32": 4, "int32": 4}[dtype])


# Shapes that disagree: the bytes are there and match their own shape, the request makes no sense.
SHAPES = {
    "heads_do_not_divide": ((1, 4, 4, 8), (1, 4, 3, 8), (1, 4, 3, 8), "heads"),
    "more_key_heads": ((1, 4, 2, 8), (1, 4, 4, 8), (1, 4, 4, 8), "heads"),
    "no_key_heads": ((1, 4, 2, 8), (1, 4, 0, 8), (1, 4, 0, 8)),
    "no_query_heads": ((1, 4, 0, 8), (1, 4, 2, 8), (1, 4, 2, 8)),
    "d_zero": ((1, 4, 2, 0), (1, 4, 2, 0), (1, 4, 2, 0)),
    "d_257": ((1, 4, 2, 257), (1, 4, 2, 257), (1, 4, 2, 257), "256"),
    "d_differs": ((1, 4, 2, 8), (1, 4, 2, 16), (1, 4, 2, 16)),
    "batch_differs": ((1, 4, 2, 8), (2, 4, 2, 8), (2, 4, 2, 8), "batch"),
    "k_and_v_differ": ((1, 4, 2, 8), (1, 4, 2, 8), (1, 5, 2, 8)),
    "rank_3": ((4, 2, 8), (4, 2, 8), (4, 2, 8)),
    "rank_5": ((1, 1, 4, 2, 8), (1, 1, 4, 2, 8), (1, 1, 4, 2, 8)),
    "rank_0": ((), (), ()),
    "rank_differs": ((1, 4, 2, 8), (4, 2, 8), (4, 2, 8)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape_safetensors(attnd, name):
    q, k, v, *words = SHAPES[name]
    body = wire.safetensors({"q": zeros("fp16", q), "k": zeros("fp16", k), "v": zeros("fp16", v)})
    check(attnd.post("/v1/attention", body), 400, *words)


def shaped(pb, q, k, v):
    m, data = pb.AttentionRequest(dtype=pb.DTYPE_F16), b""
    for name, shape in zip("qkv", (q, k, v)):
        raw = zeros("fp16", shape)[2]
        t = getattr(m, name)
        t.shape.extend(shape)
        t.body.offset, t.body.length = len(data), len(raw)
        data += raw
    return m, data


@pytest.mark.parametrize("name", SHAPES)
def test_shape_xattn(attnd, pb, name):
    q, k, v, *words = SHAPES[name]
    m, data = shaped(pb, q, k, v)
    check(attnd.post("/v1/attention", wire.xattn(m.SerializeToString(), data), wire.XATTN), 400, *words)


# Packed sequences: total_q = 6, total_k = 8.
CU = {
    "decreases": ([0, 4, 2, 6], [0, 2, 4, 8], "cu_seqlens_q"),
    "k_decreases": ([0, 2, 4, 6], [0, 5, 4, 8], "cu_seqlens_k"),
    "begins_above_zero": ([1, 2, 4, 6], [0, 2, 4, 8], "cu_seqlens_q"),
    "begins_below_zero": ([-1, 2, 4, 6], [0, 2, 4, 8], "cu_seqlens_q"),
    "ends_below_total": ([0, 2, 4, 5], [0, 2, 4, 8], "cu_seqlens_q"),
    "ends_above_total": ([0, 2, 4, 7], [0, 2, 4, 8], "cu_seqlens_q"),
    "k_ends_above_total": ([0, 2, 4, 6], [0, 2, 4, 2**31 - 1], "cu_seqlens_k"),
    "counts_differ": ([0, 2, 4, 6], [0, 4, 8]),
    "one_entry": ([6], [8]),
    "no_entries": ([], []),
    "only_q": ([0, 6], None, "cu_seqlens_k"),
    "only_k": (None, [0, 8], "cu_seqlens_q"),
}


@pytest.mark.parametrize("name", CU)
def test_cu_seqlens_safetensors(attnd, name):
    cu_q, cu_k, *words = CU[name]
    tensors = {"q": zeros("fp16", (6, 2, 8)), "k": zeros("fp16", (8, 2, 8)), "v": zeros("fp16", (8, 2, 8))}
    for key, cu in (("cu_seqlens_q", cu_q), ("cu_seqlens_k", cu_k)):
        if cu is not None:
            tensors[key] = ("int32", (len(cu),), struct.pack(f"<{len(cu)}i", *cu))
    check(attnd.post("/v1/attention", wire.safetensors(tensors)), 400, *words)


@pytest.mark.parametrize("name", CU)
def test_cu_seqlens_xattn(attnd, pb, name):
    cu_q, cu_k, *words = CU[name]
    m, data = shaped(pb, (6, 2, 8), (8, 2, 8), (8, 2, 8))
    m.layout = pb.LAYOUT_THD
    m.cu_seqlens_q.extend(cu_q or [])
    m.cu_seqlens_k.extend(cu_k or [])
    check(attnd.post("/v1/attention", wire.xattn(m.SerializeToString(), data), wire.XATTN), 400, *words)


def test_cu_seqlens_with_a_dense_layout(attnd, pb):
    m, data = Problem().message(pb)
    m.cu_seqlens_q.extend([0, 16])
    m.cu_seqlens_k.extend([0, 16])
    check(attnd.post("/v1/attention", wire.xattn(m.SerializeToString(), data), wire.XATTN), 400, "cu_seqlens")


def test_cu_seqlens_of_another_dtype(attnd):
    tensors = Problem(cu_q=[0, 4], cu_k=[0, 4]).tensors()
    tensors["cu_seqlens_q"] = ("fp32", (2,), struct.pack("<2f", 0, 4))
    check(attnd.post("/v1/attention", wire.safetensors(tensors)), 400, "cu_seqlens_q")


def test_dtypes_that_differ(attnd):
    tensors = Problem().tensors()
    tensors["k"] = ("bf16", *tensors["k"][1:])
    check(attnd.post("/v1/attention", wire.safetensors(tensors)), 400, "dtype")


QUERIES = {
    "unknown_parameter": ("window_left=7", (400, 501), "window_left"),
    "misspelt_parameter": ("causl=true", 400, "causl"),
    "duplicate_parameter": ("causal=true&causal=false", 400, "causal"),
    "duplicate_equal": ("causal=true&causal=true", 400, "causal"),
    "bool_word": ("causal=yes", 400, "causal"),
    "bool_empty": ("causal=", 400, "causal"),
    "bool_no_value": ("causal", 400, "causal"),
    "number_word": ("sm_scale=big", 400, "sm_scale"),
    "number_trailing": ("sm_scale=1.0x", 400, "sm_scale"),
    "number_empty": ("sm_scale=", 400, "sm_scale"),
    "number_overflow": ("sm_scale=1e400", 400, "sm_scale"),
    "number_underflow": ("sm_scale=1e-300", 400, "sm_scale"),
    "layout_unknown": ("layout=hbsd", 400, "layout"),
    "layout_thd_without_cu": ("layout=thd", 400),
    "deadline_negative": ("deadline_ms=-5", 400, "deadline_ms"),
    "deadline_word": ("deadline_ms=soon", 400, "deadline_ms"),
    "deadline_huge": ("deadline_ms=99999999999999999999", 400, "deadline_ms"),
    "priority_fraction": ("priority=1.5", 400, "priority"),
    "bad_escape": ("variant=%zz", 400),
    "nul_escape": ("variant=cpu%00x", 400),
    "id_empty": ("id=", 400, "id"),
}


@pytest.mark.parametrize("name", QUERIES)
def test_query(attnd, name):
    query, status, *words = QUERIES[name]
    check(attnd.post("/v1/attention?" + query, Problem().safetensors()), status, *words)


def test_query_with_x_attn(attnd, pb):
    """The metadata says everything; a parameter beside it would be silently ignored, so it is refused."""
    check(attnd.post("/v1/attention?causal=true", Problem().xattn(pb), wire.XATTN), 400, "causal")


@pytest.mark.parametrize("layout", [9, -1, 2**31 - 1])
def test_unknown_layout_xattn(attnd, pb, layout):
    m, data = Problem().message(pb)
    m.layout = layout
    check(attnd.post("/v1/attention", wire.xattn(m.SerializeToString(), data), wire.XATTN), 400, "layout")


@pytest.mark.parametrize("dtype", [0, 9, -1])
def test_unknown_dtype_xattn(attnd, pb, dtype):
    m, data = Problem().message(pb)
    m.dtype = dtype
    check(attnd.post("/v1/attention", wire.xattn(m.SerializeToString(), data), wire.XATTN), 400, "dtype")


def test_variant_that_cannot_do_it_lists_everything(attnd, pb):
    p = Problem(d=7, dtype="fp32")
    for answer in (attnd.post("/v1/attention?variant=unified", p.safetensors()),
                   attnd.post("/v1/attention", p.xattn(pb, variant="unified"), wire.XATTN)):
        error = check(answer, 422, "unified")
        assert len(error["missing"]) >= 2, error
