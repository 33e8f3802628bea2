"""attnctl: every command, as text and as JSON, its files, its exit codes, and whose words its errors are."""
import json
import struct

import numpy as np
import pytest

import reference
import wire
from daemon import BIN, ROOT
from wire import Problem

INPUT = ROOT / "tests" / "data" / "minilm_qkv.safetensors"


@pytest.fixture
def ctl(attnd, attnctl):
    def run(command, *args, **kw):
        return attnctl(command, "--server", attnd.url, *args, **kw)

    return run


def test_help_and_version(attnctl):
    assert "compare" in attnctl("--help").stdout
    assert attnctl("--version").stdout.startswith("attnctl ")
    for command in ("run", "compare", "bench", "variants", "stats", "top", "health"):
        assert "--server" in attnctl(command, "--help").stdout


def test_run_real_input(ctl, tmp_path):
    out = tmp_path / "o.safetensors"
    done = ctl("run", INPUT, "--variant", "cpu", "--return-lse", "--causal", "--output", out)
    assert "cpu" in done.stdout
    from test_real_input import real_problem

    p, _ = real_problem(causal=True)
    tensors, metadata = wire.safetensors_parse(out.read_bytes())
    assert metadata["variant"] == "cpu"
    assert p.judge(tensors["o"], tensors["lse"]) == []


def test_run_json(ctl):
    answer = json.loads(ctl("run", INPUT, "--variant", "reference", "--json").stdout)
    assert answer["variant"] == "reference" and answer["kernel_us"] > 0


def test_run_npy(ctl, tmp_path):
    p = Problem(s_q=9, s_kv=13, dtype="fp32")
    paths = []
    for name in "qkv":
        path = tmp_path / f"{name}.npy"
        np.save(path, getattr(p, name).astype(np.float32))
        paths += [f"--{name}", path]
    out = tmp_path / "o.safetensors"
    ctl("run", *paths, "--variant", "cpu", "--output", out)
    tensors, _ = wire.safetensors_parse(out.read_bytes())
    assert p.judge(tensors["o"], None) == []


def test_run_packed_npy(ctl, tmp_path):
    p = Problem(cu_q=[0, 3, 8], cu_k=[0, 4, 9], causal=True)
    args = ["--causal"]
    for name in "qkv":
        np.save(tmp_path / f"{name}.npy", getattr(p, name).astype(np.float16))
        args += [f"--{name}", tmp_path / f"{name}.npy"]
    for name, cu in (("q", p.cu_q), ("k", p.cu_k)):
        np.save(tmp_path / f"cu_{name}.npy", np.array(cu, np.int32))
        args += [f"--cu-seqlens-{name}", tmp_path / f"cu_{name}.npy"]
    out = tmp_path / "o.safetensors"
    ctl("run", *args, "--variant", "reference", "--output", out)
    assert p.judge(wire.safetensors_parse(out.read_bytes())[0]["o"], None) == []


def test_run_bf16_safetensors(ctl, tmp_path):
    p = Problem(dtype="bf16", layout="bhsd")
    (tmp_path / "in").write_bytes(p.safetensors())
    ctl("run", tmp_path / "in", "--layout", "bhsd", "--variant", "cpu", "--output", tmp_path / "out")
    assert p.judge(wire.safetensors_parse((tmp_path / "out").read_bytes())[0]["o"], None) == []


def test_run_shape_is_the_same_everywhere(ctl, tmp_path):
    outs = []
    for seed in (5, 5, 6):
        ctl("run", "--shape", "1,8,8,4/2,32", "--seed", seed, "--variant", "cpu", "--output", tmp_path / "o")
        outs.append(wire.safetensors_parse((tmp_path / "o").read_bytes())[0]["o"][2])
    assert outs[0] == outs[1] != outs[2]
    o = reference.from_bytes(outs[0], "bf16", (8 * 4, 32))
    assert np.isfinite(o).all() and 0.05 < o.std() < 1


def test_compare_table(ctl):
    done = ctl("compare", INPUT, "--variants", "cpu,reference", "--rounds", 3)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("cpu ", "reference "))]
    assert len(lines) == 2 and all("pass" in line for line in lines), done.stdout


def test_compare_shape_json(ctl):
    done = ctl("compare", "--shape", "1,64,64,4/2,64", "--seed", 1, "--dtype", "fp16", "--causal", "--return-lse", "--json")
    job = json.loads(done.stdout)
    rows = {row["variant"]: row for row in job["result"]["results"]}
    assert rows["cpu"]["accuracy"]["pass"] and rows["reference"]["accuracy"]["pass"]


def test_compare_with_a_wrong_variant_exits_4(ctl):
    done = ctl("compare", "--shape", "1,8,8,2/2,32", "--variants", "cpu,null", check=False)
    assert done.returncode == 4 and "FAIL" in done.stdout, done
    done = ctl("compare", "--shape", "1,8,8,2/2,32", "--variants", "cpu,test_abort", check=False)
    assert done.returncode == 4 and "test_abort" in done.stdout and "pass" in done.stdout, done


def test_variants(ctl):
    assert "reference" in ctl("variants").stdout
    assert "causal" in ctl("variants", "--all").stdout
    assert {row["name"] for row in json.loads(ctl("variants", "--json").stdout)["variants"]} >= {"cpu", "reference"}


def test_stats(ctl):
    assert "attnd_" in ctl("stats").stdout
    assert any(s["name"].startswith("attnd_") for s in json.loads(ctl("stats", "--json").stdout))


def test_stats_summarises_histograms(attnd, ctl):
    assert attnd.post("/v1/attention?variant=cpu", Problem().safetensors()).status == 200
    (line,) = [line for line in ctl("stats").stdout.splitlines() if line.startswith("attnd_queue_seconds ")]
    assert "p50" in line and "p99" in line


def test_top(attnd, ctl):
    """Two looks with load between them: rates are of that time, and devices and variants have a line each."""
    import subprocess

    load = subprocess.Popen([str(BIN / "attnctl"), "bench", "--server", attnd.url, "--shape", "1,16,16,2/1,32", "--variant", "cpu", "--rate", "100",
                             "--arrivals", "uniform", "--warmup-seconds", "0", "--seconds", "3"], stdout=subprocess.DEVNULL)
    try:
        looks = [json.loads(line) for line in ctl("top", "--interval", "1", "--count", "2", "--json").stdout.splitlines()]
        text = ctl("top", "--interval", "0.3", "--count", "1").stdout
    finally:
        assert load.wait(60) == 0
    assert len(looks) == 2
    last = looks[1]
    assert 50 < last["answered_per_s"] < 150 and last["queue_p50_us"] > 0 and last["tokens_per_s"] > 0 and last["group_mean"] >= 1
    (http,) = [d for d in last["doors"] if d["door"] == "http"]
    assert 50 < http["answered_per_s"] < 150 and http["p99_us"] >= http["p50_us"] > 0
    (device,) = [d for d in last["devices"] if d["device"] == "CPU"]
    assert device["ready"] == 1 and 50 < device["requests_per_s"] < 150 and device["groups_per_s"] > 0 and 0 < device["busy_percent"] <= 101
    (variant,) = [v for v in last["variants"] if v["variant"] == "cpu"]
    assert 50 < variant["answered_per_s"] < 150 and variant["kernel_p50_us"] > 0
    assert "queue p50 us" in text and "CPU" in text and "nan" not in text


def test_health(ctl, attnctl):
    assert "ready" in ctl("health").stdout
    assert json.loads(ctl("health", "--json").stdout) == {"live": True, "ready": True}
    assert attnctl("health", "--server", "http://127.0.0.1:1", check=False).returncode == 3


def test_server_from_the_environment(attnd, attnctl):
    import os

    assert attnctl("health", env={**os.environ, "ATTND_SERVER": attnd.url}).returncode == 0


def test_errors_are_the_servers_sentence(attnd, ctl):
    done = ctl("run", INPUT, "--variant", "flash9", check=False)
    assert done.returncode == 1
    body = INPUT.read_bytes()
    sentence = attnd.post("/v1/attention?variant=flash9", body).json()["error"]
    assert sentence in done.stderr
    as_json = ctl("run", INPUT, "--variant", "unified", "--json", check=False)
    assert as_json.returncode == 1
    error = json.loads(as_json.stdout)
    assert error["code"] == "FAILED_PRECONDITION" and error["missing"]


@pytest.mark.parametrize("args", [["run"], ["run", "--variant"], ["run", "no-such-file"], ["run", "--no-such", "1"], ["nonsense"], [],
                                  ["run", "--shape", "1,2,3"], ["run", "--shape", "1,8,8,3/2,32"], ["run", "--shape", "0x1,8,8,2/2,32"],
                                  ["run", "--q", "a.npy"], ["compare", "--rounds", "-1", "--shape", "1,8,8,2/2,32"],
                                  ["run", "--sm-scale", "nan", "--shape", "1,8,8,2/2,32"], ["health", "--server", "ftp://x"],
                                  ["run", str(BIN / "attnctl")]])
def test_usage_errors(attnd, attnctl, args):
    server = ["--server", attnd.url] if args and args[0] in ("run", "compare") else []
    done = attnctl(*args, *server, check=False)
    assert done.returncode in (1, 2) and len(done.stderr.strip()) > 10, done


def test_files_that_lie(ctl, tmp_path):
    """attnctl reads files of strangers too."""
    good = Problem(dtype="fp32").safetensors()
    (n,) = struct.unpack_from("<Q", good)
    np.save(tmp_path / "x.npy", np.zeros((1, 4, 2, 8), np.float32))
    npy = (tmp_path / "x.npy").read_bytes()
    for i, raw in enumerate((b"", good[:4], good[: 8 + n - 5], good[:-10], struct.pack("<Q", 2**63) + good[8:], b"\x93NUMPY" + b"\xff" * 40)):
        (tmp_path / "bad").write_bytes(raw)
        done = ctl("run", tmp_path / "bad", check=False)
        assert done.returncode in (1, 2) and done.stderr.strip(), (i, done)
    for i, raw in enumerate((b"", npy[:8], npy[:100], npy[:-4], npy.replace(b"<f4", b"<f8"), npy.replace(b"(1, 4, 2, 8)", b"(1, 4, -2, 8)"),
                             npy.replace(b"(1, 4, 2, 8)", b"(9223372036854775807,)"))):
        (tmp_path / "bad.npy").write_bytes(raw)
        args = [x for name in "qkv" for x in (f"--{name}", tmp_path / "bad.npy")]
        done = ctl("run", *args, check=False)
        assert done.returncode in (1, 2) and done.stderr.strip(), (i, done)
