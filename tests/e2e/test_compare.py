"""POST /v1/compare and its jobs: accuracy and time per variant, on the caller's tensors or on the daemon's own."""
import json
import math
import threading
import time

import numpy as np
import pytest

import reference
import wire
from daemon import SLOW, wait_for
from refusal import check
from test_real_input import PATH, real_problem
from wire import Problem

SHAPE = {"batch": 1, "s_q": 40, "s_kv": 70, "h_q": 4, "h_kv": 2, "d": 32}


def post_json(d, value, query="", raw=None, **kw):
    body = json.dumps(value).encode() if raw is None else raw
    return d.post("/v1/compare" + query, body, "application/json", **kw)


def rows_of(job):
    assert job["state"] == "done", job
    return {row["variant"]: row for row in job["result"]["results"]}


def check_row(row, flops):
    assert "error" not in row, row
    accuracy = row["accuracy"]
    assert accuracy["pass"] is True, row
    assert 0 <= accuracy["max_abs"] <= accuracy["max_abs_allowed"]
    assert 0 <= accuracy["rmse"] <= accuracy["max_abs"]
    assert accuracy["row_excess"] <= 1 and accuracy["special_mismatch"] == 0
    assert 0 < row["min_us"] <= row["median_us"]
    assert row["rounds"] >= 1
    assert math.isclose(row["tflops"], flops / row["median_us"] / 1e6, rel_tol=0.02), row


def test_made_in_the_daemon(attnd):
    answer = post_json(attnd, {"shape": SHAPE, "seed": 7, "dtype": "fp16", "variants": ["cpu", "reference"], "return_lse": True}, "?wait=30s")
    assert answer.status == 200, answer
    job = answer.json()
    rows = rows_of(job)
    assert list(rows) == ["cpu", "reference"]
    flops = 4 * SHAPE["batch"] * SHAPE["h_q"] * SHAPE["d"] * SHAPE["s_q"] * SHAPE["s_kv"]
    for row in rows.values():
        check_row(row, flops)
        assert row["accuracy"]["lse_err"] <= row["accuracy"]["lse_allowed"]
    provenance = job["result"]["provenance"]
    assert provenance["build"] and provenance["device"] == "CPU" and provenance["time"]
    problem = job["result"]["problem"]
    assert problem["shape"] == SHAPE and problem["dtype"] == "fp16"


def test_on_the_callers_tensors(attnd):
    p, body = real_problem()
    answer = attnd.post("/v1/compare?variants=cpu,reference&wait=60s", body)
    assert answer.status == 200, answer
    rows = rows_of(answer.json())
    b, s, h, d = p.q.shape
    for row in rows.values():
        check_row(row, 4 * b * h * d * s * s)


def test_its_figures_are_those_of_the_answer(attnd):
    """max_abs and rmse of a comparison equal what the fp64 reference here says of the same variant's answer."""
    p = Problem(s_q=33, s_kv=65, h_q=4, h_kv=2, d=64, dtype="bf16", seed=5, return_lse=True, causal=True)
    body = p.safetensors()
    job = attnd.post("/v1/compare?variants=cpu&wait=30s&" + p.query(), body).json()
    accuracy = rows_of(job)["cpu"]["accuracy"]
    answer = attnd.post("/v1/attention?variant=cpu&" + p.query(), body)
    tensors, _ = wire.safetensors_parse(answer.body)
    o = reference.from_bytes(tensors["o"][2], "bf16", tensors["o"][1])
    o64, _, naive, _ = p.truth()
    assert math.isclose(accuracy["max_abs"], np.abs(o - o64).max(), rel_tol=1e-6)
    assert math.isclose(accuracy["rmse"], math.sqrt(np.mean((o - o64) ** 2)), rel_tol=1e-6)
    norm = np.linalg.norm(o64, axis=-1)
    assert math.isclose(accuracy["row_rel"], (np.linalg.norm(o - o64, axis=-1) / norm).max(), rel_tol=1e-6)
    # The plain formula is rounded in another order here: its error agrees in size, not in digits.
    allowed = 2 * np.abs(naive - o64).max() + 2 * np.abs(reference.rounded(reference.rounded(o64 + 0.3, "bf16") - 0.3, "bf16") - o64).max()
    assert 0.5 < accuracy["max_abs_allowed"] / allowed < 2


def test_a_wrong_kernel_does_not_pass(attnd):
    """`null` answers with zeros: the judgement must see it."""
    job = post_json(attnd, {"shape": SHAPE, "seed": 7, "dtype": "fp16", "variants": ["null", "cpu"]}, "?wait=30s").json()
    rows = rows_of(job)
    assert rows["null"]["accuracy"]["pass"] is False
    assert rows["cpu"]["accuracy"]["pass"] is True


@pytest.mark.parametrize("bad", ["test_abort", "test_error", "test_oob", "unified"])
def test_a_variant_that_fails_costs_its_own_row(attnd, bad):
    job = post_json(attnd, {"shape": SHAPE, "seed": 7, "dtype": "fp32", "variants": [bad, "cpu"]}, "?wait=60s", timeout=90).json()
    rows = rows_of(job)
    assert bad in rows[bad]["error"]["error"] or rows[bad]["error"]["missing"], rows
    assert rows["cpu"]["accuracy"]["pass"] is True


def test_a_variant_that_writes_its_input_ruins_nothing(attnd):
    job = post_json(attnd, {"shape": SHAPE, "seed": 7, "dtype": "fp32", "variants": ["test_write_input", "cpu"]}, "?wait=60s", timeout=90).json()
    assert rows_of(job)["cpu"]["accuracy"]["pass"] is True


def test_all_variants_when_none_are_named(attnd):
    job = post_json(attnd, {"shape": SHAPE, "seed": 1, "dtype": "fp32"}, "?wait=30s").json()
    rows = rows_of(job)
    assert {"cpu", "reference"} <= set(rows) and not any(name.startswith("test_") for name in rows)


def test_same_seed_same_numbers(attnd):
    ask = {"shape": SHAPE, "dtype": "fp16", "variants": ["cpu"]}
    accuracy = [rows_of(post_json(attnd, {**ask, "seed": seed}, "?wait=30s").json())["cpu"]["accuracy"]["max_abs"] for seed in (3, 3, 4)]
    assert accuracy[0] == accuracy[1] != accuracy[2]


@pytest.mark.parametrize("ask", [dict(causal=True), dict(softcap=3.0), dict(sm_scale=0.5), dict(layout="bhsd"), dict(dtype="bf16"),
                                 dict(shape={"s_q": 20, "h_q": 2, "d": 64}),
                                 dict(shape={"h_q": 4, "h_kv": 2, "d": 32}, layout="thd", cu_seqlens_q=[0, 4, 9], cu_seqlens_k=[0, 8, 8])],
                         ids=lambda a: "-".join(a))
def test_features(attnd, ask):
    job = post_json(attnd, {"shape": SHAPE, "seed": 2, "dtype": "fp16", "variants": ["cpu"], "return_lse": True, **ask}, "?wait=30s")
    assert job.status == 200, job
    assert rows_of(job.json())["cpu"]["accuracy"]["pass"] is True


def test_as_protobuf(attnd, pb):
    m, data = Problem(dtype="bf16").message(pb)
    request = pb.CompareRequest(problem=m, variants=["cpu"])
    answer = attnd.post("/v1/compare?wait=30s", wire.xattn(request.SerializeToString(), data), wire.XATTN,
                        extra=["Accept: application/x-protobuf"])
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/x-protobuf"
    job = pb.Job.FromString(answer.body)
    assert job.state == pb.Job.STATE_DONE
    (row,) = job.result.results
    assert row.variant == "cpu" and getattr(row.accuracy, "pass") is True


def test_seeded_x_attn(attnd, pb):
    m = pb.AttentionRequest(dtype=pb.DTYPE_F16)
    m.q.shape.extend([1, 16, 4, 32])
    m.k.shape.extend([1, 16, 2, 32])
    m.v.shape.extend([1, 16, 2, 32])
    request = pb.CompareRequest(problem=m, variants=["cpu"], seed=0)
    answer = attnd.post("/v1/compare?wait=30s", wire.xattn(request.SerializeToString(), b""), wire.XATTN)
    assert answer.status == 200, answer
    assert rows_of(answer.json())["cpu"]["accuracy"]["pass"] is True


# ---- the job -----------------------------------------------------------------------------------------------------


def slow_job(d, **kw):
    answer = post_json(d, {"shape": {"s_q": 16, "h_q": 2, "d": 16}, "seed": 1, "dtype": "fp32", "variants": ["test_sleep", "cpu"],
                           "sm_scale": 1.0, "warmup": 0, "rounds": 1, **kw})
    assert answer.status == 202, answer
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    return job


def test_job_from_202_to_done(attnd):
    job = slow_job(attnd)
    assert job["state"] in ("queued", "running")
    path = f"/v1/jobs/{job['id']}"
    assert attnd.get(path).status == 200
    done = wait_for(lambda: next((j for j in [attnd.get(path).json()] if j["state"] == "done"), None), "the job to be done", 20)
    assert done["steps_done"] == done["steps_total"] > 0
    assert rows_of(done)["cpu"]["accuracy"]["pass"] is True
    # Asking an ended job to wait does not wait.
    began = time.monotonic()
    assert attnd.get(path + "?wait=20s").json()["state"] == "done"
    assert time.monotonic() - began < 5


def test_wait_that_is_too_short(attnd):
    answer = post_json(attnd, {"shape": {"s_q": 16, "h_q": 2, "d": 16}, "seed": 1, "dtype": "fp32", "variants": ["test_sleep"],
                               "sm_scale": 1.5, "warmup": 0, "rounds": 1}, "?wait=100ms")
    assert answer.status == 202, answer
    assert answer.json()["state"] in ("queued", "running")


def test_events(attnd):
    job = slow_job(attnd)
    with wire.Raw(attnd.port, timeout=30 * SLOW) as raw:
        raw.send(wire.head(f"/v1/jobs/{job['id']}/events", method="GET", content_type=None))
        while b"\n\n" not in raw.buffer.partition(b"event: end")[2] and raw.receive():
            pass
        text = raw.buffer
    assert b"text/event-stream" in text.lower()
    assert text.count(b"event: progress") >= 1 and text.count(b"event: end") == 1
    last = next(line for line in text.split(b"event: end")[1].splitlines() if line.startswith(b"data: "))
    assert json.loads(last[6:])["state"] == "done"


def test_delete_cancels(start):
    d = start("--test-variants", "--watchdog-floor-ms", "60000")
    job = slow_job(d, sm_scale=30.0)
    time.sleep(0.3)
    assert d.get(f"/v1/jobs/{job['id']}", method="DELETE").status == 200
    wait_for(lambda: d.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled", "the job to be cancelled", 10)
    assert d.post("/v1/attention", Problem().safetensors()).status == 200


def test_a_waiting_caller_that_leaves_cancels_its_job(start):
    d = start("--test-variants", "--watchdog-floor-ms", "60000")
    body = json.dumps({"shape": {"s_q": 16, "h_q": 2, "d": 16}, "seed": 1, "dtype": "fp32", "variants": ["test_sleep"], "sm_scale": 40.0,
                       "warmup": 0, "rounds": 1}).encode()
    raw = wire.Raw(d.port)
    raw.send(wire.head("/v1/compare?wait=60s", len(body), content_type="application/json") + body)
    time.sleep(0.5)
    raw.sock.close()
    from test_http import arena_in_use

    wait_for(lambda: arena_in_use(d) == 0, "the job's memory to come back", 10)


def test_unknown_job(attnd):
    check(attnd.get("/v1/jobs/nope"), 404)
    check(attnd.get("/v1/jobs/nope", method="DELETE"), 404)
    check(attnd.get("/v1/jobs/nope/events"), 404)


def test_serving_goes_on_meanwhile(attnd):
    """A comparison runs in the lab: callers of the serve worker are answered while it sleeps."""
    job = slow_job(attnd, sm_scale=1.5)
    began = time.monotonic()
    for _ in range(10):
        assert attnd.post("/v1/attention?variant=cpu", Problem().safetensors()).status == 200
    took = time.monotonic() - began
    assert took < 1.4 * SLOW
    wait_for(lambda: attnd.get(f"/v1/jobs/{job['id']}").json()["state"] == "done", "the job to be done", 20)


def test_many_jobs_at_once(attnd):
    states, threads = [], []

    def one(seed):
        answer = post_json(attnd, {"shape": SHAPE, "seed": seed, "dtype": "fp16", "variants": ["cpu"]}, "?wait=60s", timeout=90)
        states.append(answer.json().get("state") if answer.status == 200 else answer.status)

    for seed in range(6):
        threads.append(threading.Thread(target=one, args=(seed,)))
    [t.start() for t in threads]
    [t.join() for t in threads]
    # More jobs than are kept at once would be told to come back; nothing else is right.
    assert set(states) <= {"done", 503} and "done" in states, states


BAD = {
    "no_shape": ({"seed": 1}, 400, "shape"),
    "unknown_member": ({"shape": SHAPE, "seed": 1, "window_left": 3}, (400, 501), "window_left"),
    "misspelt": ({"shape": SHAPE, "seeed": 1}, 400, "seeed"),
    "unknown_extent": ({"shape": {**SHAPE, "heads": 3}}, 400, "heads"),
    "negative_extent": ({"shape": {**SHAPE, "d": -1}}, 400, "d"),
    "fraction": ({"shape": {**SHAPE, "s_q": 1.5}}, 400, "s_q"),
    "huge_extent": ({"shape": {**SHAPE, "s_q": 2**62}}, (400, 413)),
    "product_overflow": ({"shape": {**SHAPE, "s_q": 2**40, "batch": 1000000}}, (400, 413)),
    "never_fits": ({"shape": {**SHAPE, "s_q": 2**30}}, 413),
    "heads_do_not_divide": ({"shape": {**SHAPE, "h_kv": 3}}, 400, "heads"),
    "variants_not_a_list": ({"shape": SHAPE, "variants": "cpu"}, 400, "variants"),
    "variants_17": ({"shape": SHAPE, "variants": ["cpu"] * 17}, 400, "variants"),
    "unknown_variant": ({"shape": SHAPE, "variants": ["flash9"]}, 404, "flash9"),
    "reference_unknown": ({"shape": SHAPE, "variants": ["cpu"], "reference": "flash9"}, (400, 404)),
    "rounds_0_negative": ({"shape": SHAPE, "rounds": -1}, 400, "rounds"),
    "rounds_too_many": ({"shape": SHAPE, "rounds": 1001}, 400, "rounds"),
    "dtype": ({"shape": SHAPE, "dtype": "fp8"}, 400, "dtype"),
    "sm_scale_0": ({"shape": SHAPE, "sm_scale": 0}, 400, "sm_scale"),
    "softcap_negative": ({"shape": SHAPE, "softcap": -1}, 400, "softcap"),
    "array": ([1, 2], 400),
    "thd_without_cu": ({"shape": {"h_q": 2, "d": 8}, "layout": "thd"}, 400, "cu_seqlens"),
    "cu_decreases": ({"shape": {"h_q": 2, "d": 8}, "layout": "thd", "cu_seqlens_q": [0, 5, 3], "cu_seqlens_k": [0, 1, 2]}, 400, "cu_seqlens_q"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_json(attnd, name):
    value, status, *words = BAD[name]
    check(post_json(attnd, value), status, *words)


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 50000, b'{"shape": {"d": 1}, "shape": {"d": 1}}', b'{"seed": 1e999}', b"\xff\xfe{}", b'{"a":NaN}'])
def test_bad_json_text(attnd, raw):
    check(post_json(attnd, None, raw=raw), 400)


@pytest.mark.parametrize("query,word", [("?wait=soon", "wait"), ("?wait=-1s", "wait"), ("?wait=99999h", "wait"), ("?variantz=cpu", "variantz"),
                                        ("?rounds=0&variants=cpu", "rounds"), ("?variants=", "variants"), ("?variants=cpu,,", "variants")])
def test_bad_query(attnd, query, word):
    check(attnd.post("/v1/compare" + query, PATH.read_bytes()), 400, word)


def test_compare_over_the_arena(start):
    d = start("--arena-bytes", "64M")
    check(post_json(d, {"shape": {"s_q": 100000, "h_q": 32, "d": 128}, "seed": 1}), 413)
