#!/usr/bin/env python3
"""Everything that `unified` can do, asked for over HTTP from the GPU worker and judged by the end-to-end tests' truth in
numpy: head dims, masks, lengths, heads, scales, softcap, LSE, layouts, masked rows, NaN, and what is refused.

    tests/gpu/capabilities.py BIN [--variant unified] [--devices auto]

BIN holds attnd and attn-worker. Without a GPU `--variant cpu --devices cpu` runs the same cases. `auto` must take the
variant, and give the same bits, unless that is `reference`. Needs numpy. Exit status 77: skipped, and why.
"""
import argparse
import http.client
import importlib.util
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
if importlib.util.find_spec("numpy") is None:
    print("skipped: no numpy")
    sys.exit(77)

import numpy as np

import reference
import wire
from wire import Problem

LENGTHS = ((1, 1), (1, 1000), (2, 3), (63, 65), (64, 64), (127, 129), (128, 128), (129, 127), (239, 799), (799, 239), (1025, 1023), (300, 1),
           (0, 50), (50, 0), (0, 0))
NATIVE_DIMS = (64, 96, 128, 192, 256)
BETWEEN_DIMS = (8, 16, 40, 56, 72, 80, 88, 104, 120, 136, 160, 184, 200, 232, 248)
HEADS = ((1, 1), (3, 3), (7, 1), (12, 4), (16, 2), (6, 2))


def cases():
    for d in NATIVE_DIMS:
        for dtype in ("fp16", "bf16"):
            for causal in (False, True):
                for s_q, s_kv in ((130, 257), (200, 200), (257, 130)):
                    yield f"d {d} {dtype} causal {causal} {s_q}x{s_kv}", dict(d=d, dtype=dtype, causal=causal, s_q=s_q, s_kv=s_kv)
    for i, d in enumerate(BETWEEN_DIMS):
        yield f"d {d}", dict(d=d, dtype=("fp16", "bf16")[i % 2], causal=i % 3 > 0, s_q=150 - 40 * (i % 3), s_kv=140, b=2)
    for s_q, s_kv in LENGTHS:
        for causal in (False, True):
            yield f"{s_q}x{s_kv} causal {causal}", dict(d=128, s_q=s_q, s_kv=s_kv, causal=causal, h_q=2, h_kv=1)
    for h_q, h_kv in HEADS:
        yield f"heads {h_q}/{h_kv}", dict(d=64, s_q=70, s_kv=90, causal=True, h_q=h_q, h_kv=h_kv, b=2, dtype="bf16")
    for more in (dict(sm_scale=0.7), dict(sm_scale=1e-6), dict(sm_scale=0.03), dict(softcap=5.0), dict(softcap=30.0, sm_scale=0.5),
                 dict(softcap=2.5, scale=4.0)):
        for d in (64, 128, 256):
            yield f"{more} d {d}", dict(d=d, s_q=100, s_kv=180, causal=d == 128, dtype="bf16" if d == 64 else "fp16", **more)
    for layout in ("bshd", "bhsd"):
        for causal in (False, True):
            yield f"{layout} causal {causal}", dict(layout=layout, d=128, b=3, s_q=65, s_kv=140, causal=causal)
    cu_q, cu_k = [0, 5, 5, 133, 200, 200, 450], [0, 9, 60, 60, 260, 300, 600]  # empty in Q, in K, in neither
    for d in (64, 80, 128, 256):
        for causal in (False, True):
            yield f"thd d {d} causal {causal}", dict(d=d, cu_q=cu_q, cu_k=cu_k, causal=causal, dtype="bf16" if causal else "fp16")
    yield "thd of 60", dict(d=128, causal=True, cu_q=list(np.cumsum([0] + [i * 7 % 30 for i in range(60)])), cu_k=list(np.cumsum([0] + [i * 11 % 40 for i in range(60)])))
    yield "peaked", dict(d=128, s_q=64, s_kv=300, scale=8.0, dtype="bf16")


class Run:
    def __init__(self, binaries, devices, variant):
        self.variant, self.passed, self.failed = variant, 0, 0
        self.folder = tempfile.TemporaryDirectory(prefix="attnd-capabilities-")
        ports = os.path.join(self.folder.name, "ports")
        self.log = open(os.path.join(self.folder.name, "log"), "w+b")
        self.process = subprocess.Popen([os.path.join(binaries, "attnd"), "--http-port", "0", "--metrics-port", "0", "--port-file", ports,
                                         "--devices", devices, "--arena-bytes", "512M"], stderr=self.log)
        limit = time.monotonic() + 20
        while not self._ready(ports):
            if self.process.poll() is not None or time.monotonic() > limit:
                self.log.seek(0)
                sys.exit("attnd is not ready:\n" + self.log.read().decode())
            time.sleep(0.01)
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def _ready(self, ports):
        try:
            self.port = int(dict(line.split() for line in open(ports))["http"])
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, KeyError, ValueError):
            return False

    def check(self, ok, sentence):
        self.passed, self.failed = self.passed + bool(ok), self.failed + (not ok)
        if not ok:
            print("FAILED:", sentence, flush=True)
        return ok

    def post(self, problem, **query):
        query = dict({"variant": self.variant}, **query)
        self.connection.request("POST", "/v1/attention?" + problem.query(**query), problem.safetensors(), {"Content-Type": wire.SAFETENSORS})
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def tensors(self, name, problem, **query):
        """(tensors, metadata), or None after a failed check."""
        status, body = self.post(problem, **query)
        if not self.check(status == 200, f"{name}: {status} {body[:300]}"):
            return None
        tensors, metadata = wire.safetensors_parse(body)
        wanted = query.get("variant", self.variant)
        self.check(metadata["variant"] == (self.variant if wanted == "auto" else wanted), f"{name}: {wanted} became {metadata['variant']}")
        return tensors, metadata

    def stop(self):
        self.process.terminate()
        self.check(self.process.wait(30) == 0, "attnd ended with another status than 0")


def values(problem, tensors, shape=None):
    dtype, own, data = tensors["o"]
    return reference.from_bytes(data, dtype, shape or own)


def test_cases(run):
    for seed, (name, what) in enumerate(cases()):
        problem = Problem(seed=seed, **what)
        got = run.tensors(name, problem, return_lse=True)
        if got:
            wrong = problem.judge(got[0]["o"], got[0]["lse"])
            run.check(wrong == [], f"{name}: {wrong}")
            plain = run.tensors(name, problem, variant="auto") if run.variant != "reference" else None
            if plain:
                run.check(plain[0]["o"] == got[0]["o"] and "lse" not in plain[0], f"{name}: LSE changes O, or auto gives other bits")


def test_layouts_agree(run):
    """The same sequences as a batch in bshd and bhsd, packed, and with the K and V heads written out: the same bits."""
    for d, dtype, causal in ((128, "fp16", True), (64, "bf16", False)):
        base = Problem(b=3, s_q=77, s_kv=140, h_q=6, h_kv=2, d=d, dtype=dtype, causal=causal, seed=5)
        other = {}
        for layout in ("bshd", "bhsd"):
            p = Problem(b=3, s_q=77, s_kv=140, h_q=6, h_kv=2, d=d, dtype=dtype, causal=causal, seed=5, layout=layout)
            got = run.tensors(layout, p)
            if got:
                o = values(p, got[0])
                other[layout] = o.transpose(0, 2, 1, 3) if layout == "bhsd" else o
        p = Problem(cu_q=[0, 77, 154, 231], cu_k=[0, 140, 280, 420], h_q=6, h_kv=2, d=d, dtype=dtype, causal=causal)
        p.q, p.k, p.v = (x.reshape(-1, *x.shape[2:]) for x in (base.q, base.k, base.v))
        got = run.tensors("thd", p)
        if got:
            other["thd"] = values(p, got[0], (3, 77, 6, d))
        p = Problem(b=3, s_q=77, s_kv=140, h_q=6, h_kv=6, d=d, dtype=dtype, causal=causal)
        p.q, p.k, p.v = base.q, base.k.repeat(3, axis=2), base.v.repeat(3, axis=2)
        got = run.tensors("expanded heads", p)
        if got:
            other["expanded heads"] = values(p, got[0])
        first = other.get("bshd")
        for name, o in other.items():
            run.check(first is not None and np.array_equal(o, first), f"{name} gives other bits than bshd, d {d} {dtype}")
        again = [run.tensors("again", base) for _ in range(5)]
        run.check(all(a and a[0]["o"] == again[0][0]["o"] for a in again), "another run gives other bits")


def test_nan(run):
    nan = float("nan")
    for d, dtype in ((128, "fp16"), (64, "bf16"), (80, "fp16")):
        p = Problem(b=2, s_q=200, s_kv=200, d=d, dtype=dtype, causal=True, seed=3)
        p.q[0, 7, 1, 3] = nan
        got = run.tensors("NaN in Q", p, return_lse=True)
        if got:
            bad = np.isnan(values(p, got[0])).any(axis=-1)
            run.check(bad[0, 7, 1] and bad.sum() == 1, f"a NaN in one row of Q reached {bad.sum()} rows, d {d}")
        for where in "kv":
            p = Problem(b=2, s_q=200, s_kv=200, d=d, dtype=dtype, causal=True, seed=4)
            getattr(p, where)[1, 150, 0, 5] = nan
            got = run.tensors(f"NaN in {where}", p)
            if got:
                bad = np.isnan(values(p, got[0])).any(axis=-1)
                seen = np.zeros_like(bad)
                seen[1, 150:, :2] = True  # the rows that see the key, of the heads that read its head
                run.check(np.array_equal(bad, seen), f"a NaN in {where} reached {bad.sum()} rows instead of {seen.sum()}, d {d}")
        p = Problem(cu_q=[0, 60, 130, 200], cu_k=[0, 60, 130, 200], d=d, dtype=dtype, seed=5)
        for x in (p.q, p.k, p.v):
            x[60:130] = nan
        got = run.tensors("NaN beside", p)
        if got:
            bad = np.isnan(values(p, got[0])).any(axis=-1)
            run.check(bad[60:130].all() and not bad[:60].any() and not bad[130:].any(), f"NaN of a sequence reached its neighbours, d {d}")


def test_large_logits(run):
    """Scores of about +-1e5: finite, and the row of V that wins."""
    for dtype in ("fp16", "bf16"):
        p = Problem(s_q=150, s_kv=300, h_q=2, h_kv=1, d=128, dtype=dtype, seed=9, scale=25.0, sm_scale=16.0)
        p.v = reference.rounded(p.v / 25, dtype)
        got = run.tensors("large logits", p)
        if not got:
            continue
        o = values(p, got[0])
        run.check(np.isfinite(o).all(), f"logits of 1e5 give {np.count_nonzero(~np.isfinite(o))} values that are not finite, {dtype}")
        s = np.einsum("ihd,jd->hij", p.q[0], p.k[0, :, 0]) * 16
        order = np.sort(s, axis=-1)
        clear = order[..., -1] - order[..., -2] > 100
        winner = p.v[0, s.argmax(axis=-1), 0]
        run.check(np.abs(s).max() > 1e5 and clear.sum() > 100, "the case is not what it is meant to be")
        # P and its sum are rounded apart, so one unit of the dtype is left; any other row is off by more than that.
        unit = np.abs(winner) * (2.0**-10 if dtype == "fp16" else 2.0**-7)
        near = np.abs(o[0].transpose(1, 0, 2) - winner) <= unit
        run.check(near[clear].all(), f"logits of 1e5: another row than the winner's, {dtype}")


def test_refusals_and_old_names(run):
    """What only `unified` and its old names say; needs the GPU."""
    for name, what, missing in (("fp32", dict(d=64, dtype="fp32"), "dtype"), ("d 68", dict(d=68), "head_dim"), ("d 1", dict(d=1), "head_dim")):
        status, body = run.post(Problem(**what))
        run.check(status == 422 and missing in body.decode(), f"{name}: {status} {body[:300]}")
    for alias, square, ask, ok in (("gqa_fwd_ws", True, dict(causal=True), True), ("gqa_fwd_ws", True, dict(), True), ("gqa_fwd_ws", False, dict(causal=True), False),
                                   ("gqa_prefill_fwd_ws", False, dict(causal=True), True), ("gqa_prefill_fwd_ws", False, dict(), False),
                                   ("gqa_prefill_fwd_ws", True, dict(causal=True, softcap=3.0), False)):
        p = Problem(d=128, s_q=100, s_kv=100 if square else 160, seed=6, **ask)
        status, body = run.post(p, variant=alias)
        if ok and run.check(status == 200, f"{alias}: {status} {body[:300]}"):
            tensors, metadata = wire.safetensors_parse(body)
            run.check(p.judge(tensors["o"], None) == [] and "deprecated" in metadata["reason"], f"{alias}: {metadata}")
        elif not ok:
            run.check(status == 422, f"{alias}: {status} {body[:300]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bin")
    parser.add_argument("--variant", default="unified")
    parser.add_argument("--devices", default="auto")
    options = parser.parse_args()
    if options.devices == "auto":
        listed = subprocess.run([os.path.join(options.bin, "attn-worker"), "--list-devices"], capture_output=True, text=True)
        if not listed.stdout.strip():
            print("skipped: no GPU")
            sys.exit(77)
    began = time.monotonic()
    run = Run(options.bin, options.devices, options.variant)
    try:
        test_cases(run)
        test_layouts_agree(run)
        test_nan(run)
        test_large_logits(run)
        if options.variant == "unified":
            test_refusals_and_old_names(run)
    finally:
        run.stop()
    print(f"{run.variant} over HTTP: {run.passed} passed, {run.failed} failed, {time.monotonic() - began:.1f} s")
    sys.exit(run.failed != 0)


main()
