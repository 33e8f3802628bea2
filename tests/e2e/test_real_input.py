"""The activations of a real model, over both framings, on every variant of this machine."""
import json
import struct

import pytest

import reference
import wire
from daemon import ROOT
from wire import Problem

PATH = ROOT / "tests" / "data" / "minilm_qkv.safetensors"


def real_problem(**ask):
    body = PATH.read_bytes()
    tensors, _ = wire.safetensors_parse(body)
    dtype, (b, s, h, d), _ = tensors["q"]
    p = Problem(b=b, s_q=s, s_kv=s, h_q=h, h_kv=h, d=d, dtype=dtype, **ask)
    p.q, p.k, p.v = (reference.from_bytes(tensors[n][2], *tensors[n][:2]) for n in "qkv")
    return p, body


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("variant", ["auto", "cpu", "reference"])
def test_posted_as_the_file_is(attnd, variant, causal):
    p, body = real_problem(causal=causal)
    answer = attnd.post(f"/v1/attention?return_lse=true&variant={variant}&causal={str(causal).lower()}", body)
    assert answer.status == 200, answer
    tensors, metadata = wire.safetensors_parse(answer.body)
    assert metadata["variant"] == ("cpu" if variant == "auto" else variant)
    assert p.judge(tensors["o"], tensors["lse"]) == []


def test_x_attn(attnd, pb):
    p, _ = real_problem(return_lse=True)
    answer = attnd.post("/v1/attention", p.xattn(pb), wire.XATTN)
    assert answer.status == 200, answer
    meta, data = wire.xattn_parse(answer.body)
    r = pb.AttentionResponse.FromString(meta)
    part = lambda t: data[t.body.offset : t.body.offset + t.body.length]
    assert p.judge(("fp16", tuple(r.o.shape), part(r.o)), ("fp32", tuple(r.lse.shape), part(r.lse))) == []


def test_provenance():
    body = PATH.read_bytes()
    (n,) = struct.unpack_from("<Q", body)
    metadata = json.loads(body[8 : 8 + n])["__metadata__"]
    assert "all-MiniLM-L6-v2" in metadata["source"] and metadata["made_by"] == "tests/data/make_minilm_qkv.py"
    assert len(body) < 1 << 20
