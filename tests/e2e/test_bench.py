"""attnctl bench against the real daemon: what it counts is what the daemon counted, in every form of output."""
import csv
import http.server
import io
import json
import os
import signal
import subprocess
import threading
import time

import pytest

import wire
from daemon import BIN, SLOW

TINY = ("--shape", "1,16,16,2/1,32", "--dtype", "fp16")


@pytest.fixture
def bench(attnctl):
    def run(server, *args, form="--json", **kw):
        done = attnctl("bench", "--server", server.url, *args, *([form] if form else []), **kw)
        return json.loads(done.stdout)["runs"] if form == "--json" and done.returncode == 0 else done

    return run


@pytest.fixture
def mix(tmp_path):
    path = tmp_path / "mix.txt"
    path.write_text("default dtype=fp16 causal=true  # of both\n"
                    "tiny weight=9 shape=1,16,16,2/1,32 priority=10\n"
                    "more weight=1 shape=2,32,48,4/2,64 return-lse=true variant=reference\n")
    return path


def answered(metrics, variant):
    return sum(v for k, v in metrics.items() if k.startswith("attnd_attention_requests_total{") and f'variant="{variant}"' in k and '"OK"' in k)


def test_closed_loop_counts_what_the_daemon_counts(start, bench, mix):
    d = start("--test-variants")
    (run,) = bench(d, mix, "--requests", 300, "--warmup-seconds", 0, "--connections", 3, "--seed", 5)
    m = d.metrics()
    rows = {row["class"]: row for row in run["classes"]}
    assert run["arrivals"] == "closed" and run["connections"] == 3
    assert rows["tiny"]["answered"] == answered(m, "cpu") and rows["more"]["answered"] == answered(m, "reference")
    assert rows["tiny"]["answered"] + rows["more"]["answered"] == run["total"]["answered"] == 300
    assert rows["tiny"]["answered"] > 200 and rows["more"]["answered"] > 10
    for row in rows.values():
        assert row["failed"] == {} and 0 < row["min_us"] <= row["p50_us"] <= row["p90_us"] <= row["p99_us"] <= row["p999_us"] <= row["max_us"]
        assert row["kernel_us"] > 0 and row["batch_size"] >= 1
    assert run["total"]["requests_per_s"] == pytest.approx(300 / run["seconds"], rel=1e-6)
    assert run["total"]["tokens_per_s"] == pytest.approx((rows["tiny"]["answered"] * 16 + rows["more"]["answered"] * 64) / run["seconds"], rel=1e-6)


def test_the_seed_decides_what_is_sent(attnd, bench, mix):
    counts = []
    for seed in (1, 1, 2, 3):
        (run,) = bench(attnd, mix, "--requests", 200, "--warmup-seconds", 0, "--seed", seed, "--connections", 2)
        counts.append([row["answered"] for row in run["classes"]])
    assert counts[0] == counts[1] and counts[0] not in counts[2:], counts


def test_open_loop_keeps_its_rate(attnd, bench):
    runs = bench(attnd, *TINY, "--rate", "50,200", "--seconds", 2, "--warmup-seconds", 0.2, "--arrivals", "uniform", "--connections", 8)
    for run, rate in zip(runs, (50, 200)):
        assert run["rate"] == rate and abs(run["total"]["answered"] - 2 * rate) <= 1
        assert run["unsent"] == 0 and run["seconds"] >= 2


def test_poisson_arrivals_are_those_of_the_seed(attnd, bench):
    counts = [bench(attnd, *TINY, "--rate", 150, "--seconds", 1, "--warmup-seconds", 0, "--seed", seed)[0]["total"]["answered"] for seed in (1, 1, 2)]
    assert counts[0] == counts[1] and all(90 < n < 210 for n in counts), counts


def test_a_stall_of_the_daemon_shows_in_an_open_loop(start, attnctl):
    """No coordinated omission: a stall of 0.6 s meets every request that was planned within it, not one."""
    d = start()
    args = [str(BIN / "attnctl"), "bench", "--server", d.url, *TINY, "--rate", "200", "--arrivals", "uniform", "--seconds", "3",
            "--warmup-seconds", "0", "--connections", "1", "--json"]
    p = subprocess.Popen(args, stdout=subprocess.PIPE)
    time.sleep(1)
    os.kill(d.pid, signal.SIGSTOP)
    time.sleep(0.6)
    os.kill(d.pid, signal.SIGCONT)
    (run,) = json.loads(p.communicate(timeout=60 * SLOW)[0])["runs"]
    assert run["total"]["answered"] == 600
    # 120 of 600 requests were planned in the stall; half of them are 0.3 s late or more.
    assert run["total"]["p90_us"] > 250e3 and run["total"]["max_us"] > 550e3, run
    assert run["waited"] >= 100


def test_failures_are_counted_by_status(attnd, bench, tmp_path):
    path = tmp_path / "w"
    path.write_text("good shape=1,8,8,2/1,32\nbad shape=1,8,8,2/1,32 variant=unified\nlost shape=1,8,8,2/1,32 variant=flash9\n")
    (run,) = bench(attnd, path, "--requests", 90, "--warmup-seconds", 0)
    rows = {row["class"]: row for row in run["classes"]}
    assert rows["good"]["failed"] == {} and rows["bad"]["answered"] == rows["lost"]["answered"] == 0
    assert rows["bad"]["failed"].keys() == {"FAILED_PRECONDITION"} and rows["lost"]["failed"].keys() == {"NOT_FOUND"}
    assert run["total"]["answered"] + sum(run["total"]["failed"].values()) == 90
    assert run["first_error"]["code"] in ("FAILED_PRECONDITION", "NOT_FOUND") and run["first_error"]["error"]


class Flipper(http.server.BaseHTTPRequestHandler):
    """Hands requests on to the daemon, and flips the last bit of every fifth answer."""
    protocol_version = "HTTP/1.1"
    count = 0

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = wire.post(self.server.behind, self.path, body, self.headers["Content-Type"], extra=["Accept: " + self.headers["Accept"]])
        Flipper.count += 1
        out = answer.body if Flipper.count % 5 else answer.body[:-1] + bytes([answer.body[-1] ^ 1])
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["content-type"])
        self.send_header("Content-Length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    def log_message(self, *args):
        pass


def test_verify_finds_answers_that_differ(attnd, bench):
    assert bench(attnd, *TINY, "--requests", 40, "--warmup-seconds", 0, "--verify")[0]["total"]["failed"] == {}
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flipper)
    proxy.behind = attnd.port
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        server = type("S", (), {"url": f"http://127.0.0.1:{proxy.server_address[1]}"})
        (run,) = bench(server, *TINY, "--requests", 40, "--warmup-seconds", 0, "--verify")
    finally:
        proxy.shutdown()
        proxy.server_close()
    assert run["total"]["failed"] == {"INTERNAL": 8} and run["total"]["answered"] == 32
    assert "another than the first" in run["first_error"]["error"]


def test_only_failures_is_a_failure(attnd, bench):
    done = bench(attnd, *TINY, "--variant", "flash9", "--requests", 5, "--warmup-seconds", 0, form=None, check=False)
    assert done.returncode == 1 and "flash9" in done.stdout and "NOT_FOUND: 5" in done.stdout
    done = bench(type("S", (), {"url": "http://127.0.0.1:1"}), *TINY, "--requests", 2, "--warmup-seconds", 0, form=None, check=False)
    assert done.returncode == 3


def test_table_and_csv(attnd, bench, mix):
    text = bench(attnd, mix, "--requests", 60, "--warmup-seconds", 0, "--connections", "1,2", form=None).stdout
    for word in ("tiny", "more", "total", "p99.9 us", "closed loop", "2 connections", "TFLOP/s"):
        assert word in text, text
    rows = list(csv.DictReader(io.StringIO(bench(attnd, mix, "--requests", 60, "--warmup-seconds", 0, "--connections", "1,2", form="--csv").stdout)))
    assert [(r["connections"], r["class"]) for r in rows] == [(n, c) for n in "12" for c in ("tiny", "more", "total")]
    assert all(float(r["p50_us"]) > 0 for r in rows) and sum(int(r["answered"]) for r in rows if r["class"] == "total") == 120


def test_interrupted_bench_reports_what_it_has(attnd):
    p = subprocess.Popen([str(BIN / "attnctl"), "bench", "--server", attnd.url, *TINY, "--seconds", "60", "--warmup-seconds", "0", "--json"],
                         stdout=subprocess.PIPE)
    time.sleep(1)
    p.send_signal(signal.SIGINT)
    (run,) = json.loads(p.communicate(timeout=20 * SLOW)[0])["runs"]
    assert run["interrupted"] and run["total"]["answered"] > 0 and run["total"]["failed"] == {} and run["seconds"] < 30


@pytest.mark.parametrize("args, sentence", [
    ([], "workload FILE or --shape"), (["no-such-file"], "cannot read"), ([*TINY, "--rate", "0"], "--rate"), ([*TINY, "--rate", "10,"], "--rate"),
    ([*TINY, "--rate", "x"], "--rate"), ([*TINY, "--connections", "1.5"], "--connections"), ([*TINY, "--connections", "0"], "--connections"),
    ([*TINY, "--connections", "100000"], "--connections"), ([*TINY, "--rate", "1", "--connections", "1,2"], "one number of connections"),
    ([*TINY, "--arrivals", "poisson"], "--rate"), ([*TINY, "--rate", "1", "--arrivals", "gamma"], "poisson or uniform"),
    ([*TINY, "--depth", "2"], "--depth"), ([*TINY, "--door", "window"], "--door"), ([*TINY, "--door", "ring"], "--socket PATH"), ([*TINY, "--seconds", "-1"], "--seconds"),
    ([*TINY, "--json", "--csv"], "exclude"), ([*TINY, "--priority", "101"], "--priority"), (["file", *TINY], "one of them"),
    (["file", "--causal"], "into the workload")])
def test_usage(attnd, attnctl, args, sentence):
    done = attnctl("bench", "--server", attnd.url, *args, check=False)
    assert done.returncode == 2 and sentence in done.stdout + done.stderr, done


def test_a_workload_that_is_wrong_is_named_by_line(attnd, attnctl, tmp_path):
    (tmp_path / "w").write_text("\na shape=1,8,8,2/1,32 weight=x\n")
    done = attnctl("bench", "--server", attnd.url, tmp_path / "w", check=False)
    assert done.returncode == 2 and "w:2: weight is 'x'" in done.stderr
