"""Every feature of a request, over both framings and on every variant of the CPU, against the fp64 truth."""
import json
import threading

import pytest

import reference
import wire
from wire import Problem

CPU_VARIANTS = ("cpu", "reference")

FEATURES = {
    "plain": dict(),
    "bf16": dict(dtype="bf16"),
    "fp32": dict(dtype="fp32"),
    "batch": dict(b=3, s_q=5, s_kv=9),
    "causal_square": dict(s_q=33, s_kv=33, causal=True),
    "causal_s_q_below_s_kv": dict(s_q=17, s_kv=40, causal=True),
    "causal_s_q_above_s_kv": dict(s_q=40, s_kv=17, causal=True),
    "causal_bf16_above": dict(s_q=70, s_kv=64, causal=True, dtype="bf16"),
    "one_query": dict(s_q=1, s_kv=100, causal=True),
    "one_key": dict(s_q=30, s_kv=1, causal=True),
    "sm_scale": dict(sm_scale=0.7),
    "sm_scale_tiny": dict(sm_scale=1e-6),
    "softcap": dict(softcap=5.0, s_kv=50),
    "softcap_causal_scale": dict(softcap=2.5, causal=True, sm_scale=1.5, s_q=20, s_kv=30, dtype="fp32"),
    "mha": dict(h_q=3, h_kv=3),
    "mqa": dict(h_q=7, h_kv=1),
    "gqa": dict(h_q=12, h_kv=4, d=64),
    "d1": dict(d=1),
    "d7": dict(d=7, dtype="fp32"),
    "d80": dict(d=80),
    "d128": dict(d=128, s_q=130, s_kv=257),
    "d192_bf16": dict(d=192, dtype="bf16"),
    "d256": dict(d=256, s_q=40, s_kv=70, causal=True),
    "bhsd": dict(layout="bhsd", b=2, s_q=9, s_kv=13),
    "bhsd_causal": dict(layout="bhsd", s_q=20, s_kv=9, causal=True, dtype="bf16"),
    "thd": dict(cu_q=[0, 5, 12, 30], cu_k=[0, 9, 12, 60]),
    "thd_causal": dict(cu_q=[0, 5, 12, 30], cu_k=[0, 9, 12, 60], causal=True, dtype="bf16"),
    "thd_empty_sequences": dict(cu_q=[0, 0, 4, 4, 9], cu_k=[0, 3, 3, 8, 20], causal=True),
    "thd_one": dict(cu_q=[0, 11], cu_k=[0, 11], causal=True, dtype="fp32"),
    "no_keys": dict(s_q=6, s_kv=0),
    "no_queries": dict(s_q=0, s_kv=6),
    "nothing": dict(s_q=0, s_kv=0, causal=True),
    "peaked": dict(scale=8.0, s_kv=64, dtype="bf16"),
    "ragged_blocks": dict(b=2, s_q=129, s_kv=193, h_q=4, h_kv=2, d=64, causal=True),
}


def problem(name):
    return Problem(seed=sorted(FEATURES).index(name), **FEATURES[name])


def run_safetensors(daemon, p, **query):
    answer = daemon.post("/v1/attention?" + p.query(**query), p.safetensors())
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == wire.SAFETENSORS
    tensors, metadata = wire.safetensors_parse(answer.body)
    return tensors["o"], tensors.get("lse"), metadata


def run_xattn(daemon, pb, p, **fields):
    answer = daemon.post("/v1/attention", p.xattn(pb, **fields), wire.XATTN)
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == wire.XATTN
    meta, data = wire.xattn_parse(answer.body)
    response = pb.AttentionResponse.FromString(meta)
    dtype = {pb.DTYPE_F16: "fp16", pb.DTYPE_BF16: "bf16", pb.DTYPE_F32: "fp32"}[response.dtype]

    def tensor(t, kind):
        return kind, tuple(t.shape), data[t.body.offset : t.body.offset + t.body.length]

    total = response.o.body.length + (response.lse.body.length if response.HasField("lse") else 0)
    assert total == len(data)
    return tensor(response.o, dtype), tensor(response.lse, "fp32") if response.HasField("lse") else None, response


@pytest.mark.parametrize("variant", CPU_VARIANTS)
@pytest.mark.parametrize("name", FEATURES)
def test_safetensors(attnd, name, variant):
    p = problem(name)
    o, lse, metadata = run_safetensors(attnd, p, variant=variant, return_lse=True)
    assert metadata["variant"] == variant
    assert p.judge(o, lse) == []


@pytest.mark.parametrize("variant", CPU_VARIANTS)
@pytest.mark.parametrize("name", FEATURES)
def test_xattn(attnd, pb, name, variant):
    p = problem(name)
    o, lse, response = run_xattn(attnd, pb, p, variant=variant, return_lse=True)
    assert response.outcome.variant == variant
    assert p.judge(o, lse) == []


def test_framings_agree_to_the_bit(attnd, pb):
    p = problem("ragged_blocks")
    one, two = (run_safetensors(attnd, p, variant="cpu", return_lse=True)[:2],
                run_xattn(attnd, pb, p, variant="cpu", return_lse=True)[:2])
    assert [t[2] for t in one] == [t[2] for t in two]


def test_same_bits_on_every_run(attnd):
    p = problem("ragged_blocks")
    answers = {run_safetensors(attnd, p, variant="cpu", return_lse=True)[0][2] for _ in range(5)}
    assert len(answers) == 1


def test_lse_only_when_asked(attnd, pb):
    p = problem("plain")
    assert run_safetensors(attnd, p)[1] is None
    assert run_safetensors(attnd, p, return_lse=False)[1] is None
    assert run_xattn(attnd, pb, p)[1] is None
    assert run_xattn(attnd, pb, p, return_lse=False)[1] is None


def test_auto_says_what_ran_and_why(attnd, pb):
    p = problem("plain")
    for query in ({}, {"variant": "auto"}):
        _, _, metadata = run_safetensors(attnd, p, **query)
        assert metadata["variant"] == "cpu"
        assert metadata["reason"]
    _, _, response = run_xattn(attnd, pb, p)
    assert response.outcome.variant == "cpu" and response.outcome.reason
    _, _, named = run_safetensors(attnd, p, variant="reference")
    assert named["variant"] == "reference"
    assert named["reason"] != metadata["reason"]


def test_what_happened(attnd, pb):
    p = problem("gqa")
    _, _, metadata = run_safetensors(attnd, p, id="my-request-7")
    assert set(metadata) >= set("variant reason device batch_size queue_us copy_in_us kernel_us copy_out_us total_us id".split())
    assert metadata["id"] == "my-request-7"
    assert metadata["device"] == "CPU"
    assert int(metadata["batch_size"]) == 1
    assert float(metadata["kernel_us"]) > 0
    assert float(metadata["total_us"]) >= float(metadata["kernel_us"])
    _, _, response = run_xattn(attnd, pb, p, id="my-request-8")
    assert response.id == "my-request-8"
    outcome = response.outcome
    assert outcome.device == "CPU" and outcome.batch_size == 1 and outcome.attempts == 1
    assert outcome.timing.kernel_us > 0


def test_named_variant_is_never_replaced(attnd):
    """`unified` needs a Hopper GPU: on the CPU it is refused with everything that is missing, not run elsewhere."""
    p = Problem(d=128)
    answer = attnd.post("/v1/attention?variant=unified", p.safetensors())
    assert answer.status == 422, answer
    error = answer.json()
    assert error["code"] == "FAILED_PRECONDITION"
    assert error["missing"] and "unified" in error["error"]
    assert error["retryable"] is False


def test_answer_loads_with_the_safetensors_package(attnd, tmp_path):
    from safetensors.numpy import load_file

    p = Problem(s_q=20, s_kv=30, return_lse=True)
    answer = attnd.post("/v1/attention?" + p.query(), p.safetensors())
    (tmp_path / "answer.safetensors").write_bytes(answer.body)
    loaded = load_file(tmp_path / "answer.safetensors")
    assert loaded["o"].shape == (1, 20, 4, 32) and loaded["o"].dtype == "float16"
    assert loaded["lse"].shape == (1, 4, 20) and loaded["lse"].dtype == "float32"


def test_x_attn_tensors_in_any_order(attnd, pb):
    p = problem("batch")
    m, _ = p.message(pb, variant="cpu", return_lse=True)
    raw = {name: p.tensors()[name][2] for name in "qkv"}
    data = raw["v"] + raw["q"] + raw["k"]
    m.v.body.offset, m.q.body.offset, m.k.body.offset = 0, len(raw["v"]), len(raw["v"]) + len(raw["q"])
    answer = attnd.post("/v1/attention", wire.xattn(m.SerializeToString(), data), wire.XATTN)
    assert answer.status == 200, answer
    _, out = wire.xattn_parse(answer.body)
    o, lse, _ = run_xattn(attnd, pb, p, variant="cpu", return_lse=True)
    assert out == o[2] + lse[2]


def test_safetensors_tensors_in_any_order(attnd):
    p = problem("thd")
    tensors = p.tensors()
    shuffled = {name: tensors[name] for name in ("cu_seqlens_k", "v", "q", "cu_seqlens_q", "k")}
    one = attnd.post("/v1/attention?variant=cpu", wire.safetensors(shuffled, {"from": "a test"}))
    two = attnd.post("/v1/attention?variant=cpu", wire.safetensors(tensors))
    assert one.status == two.status == 200, (one, two)
    assert wire.safetensors_parse(one.body)[0] == wire.safetensors_parse(two.body)[0]


def test_unaligned_tensors(attnd):
    """cu_seqlens of odd length before fp16 tensors of odd size: nothing in the body is aligned to anything."""
    p = Problem(cu_q=[0, 1, 3], cu_k=[0, 3, 5], h_q=1, h_kv=1, d=3, return_lse=True)
    answer = attnd.post("/v1/attention?" + p.query(variant="cpu"), p.safetensors())
    assert answer.status == 200, answer
    tensors, _ = wire.safetensors_parse(answer.body)
    assert p.judge(tensors["o"], tensors["lse"]) == []


def test_nan_inputs_stay_in_their_rows(attnd):
    p = Problem(b=2, s_q=4, s_kv=4, dtype="fp32", return_lse=True)
    p.q[0, 1, 2, :] = float("nan")
    answer = attnd.post("/v1/attention?" + p.query(variant="cpu"), p.safetensors())
    assert answer.status == 200, answer
    o = reference.from_bytes(wire.safetensors_parse(answer.body)[0]["o"][2], "fp32", (2, 4, 4, 32))
    import numpy as np

    bad = np.isnan(o).any(axis=-1)
    assert bad[0, 1, 2] and bad.sum() == 1


def test_deadline_that_is_met_and_one_that_is_not(attnd):
    p = Problem()
    assert attnd.post("/v1/attention?deadline_ms=20000", p.safetensors()).status == 200
    slow = Problem(sm_scale=2.0)
    answer = attnd.post("/v1/attention?variant=test_sleep&deadline_ms=150&sm_scale=2", slow.safetensors())
    assert answer.status == 504, answer
    assert answer.json()["code"] == "DEADLINE_EXCEEDED"


def test_priority_is_taken(attnd):
    p = Problem()
    for priority in (-100, 0, 100):
        assert attnd.post(f"/v1/attention?priority={priority}", p.safetensors()).status == 200


def test_many_callers_at_once(attnd):
    """Requests of different shapes from 12 connections: nobody gets another's answer."""
    problems = [Problem(seed=i, s_q=3 + i, s_kv=5 + 2 * i, id=f"caller-{i}", return_lse=True) for i in range(12)]
    wrong = []

    def call(p):
        with wire.Raw(attnd.port) as raw:
            for _ in range(10):
                body = p.safetensors()
                raw.send(wire.head("/v1/attention?" + p.query(), len(body)) + body)
                answer = raw.answer()
                if answer is None or answer.status != 200:
                    wrong.append(repr(answer))
                    return
                tensors, metadata = wire.safetensors_parse(answer.body)
                wrong.extend(p.judge(tensors["o"], tensors["lse"]))
                if metadata["id"] != p.ask["id"]:
                    wrong.append(json.dumps(metadata))

    threads = [threading.Thread(target=call, args=(p,)) for p in problems]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert wrong == []


@pytest.mark.parametrize("case", ["plain", "causal_s_q_below_s_kv", "bf16", "gqa"])
def test_against_pytorch(attnd, case):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; the numpy reference judges everything too")
    p = problem(case)
    o, lse, _ = run_safetensors(attnd, p, variant="cpu", return_lse=True)
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[p.dtype]
    q, k, v = (torch.from_numpy(x).transpose(1, 2) for x in (p.q, p.k, p.v))
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    s_q, s_kv = q.shape[2], k.shape[2]
    seen = torch.ones(s_q, s_kv, dtype=torch.bool)
    if p.ask.get("causal"):
        seen = seen.tril(diagonal=s_kv - s_q)
    truth = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2)
    got = torch.frombuffer(bytearray(o[2]), dtype=kind).reshape(truth.shape).double()
    plain = torch.nn.functional.scaled_dot_product_attention(
        q.to(kind), k.to(kind), v.to(kind), attn_mask=seen).transpose(1, 2).double()
    shifted = ((truth.to(kind) + 0.3) - 0.3).double()
    allowed = 2 * (plain - truth).abs().max() + 2 * (shifted - truth).abs().max()
    assert (got - truth).abs().max() <= allowed
