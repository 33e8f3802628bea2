"""The daemon as operators see it: options, probes, metrics, listing, log, drain, PID 1."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

import wire
from daemon import BIN, SLOW, Daemon, cpu_seconds, wait_for
from wire import Problem, head

P = Problem()
BODY = P.safetensors()


def attnd_run(*flags, env=None, timeout=20):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ATTND_")}
    return subprocess.run([str(BIN / "attnd"), *flags], capture_output=True, text=True, timeout=timeout * SLOW, stdin=subprocess.DEVNULL,
                          env={**clean, **(env or {})})


# ---- options -----------------------------------------------------------------------------------------------------


def test_help_lists_the_fixed_names():
    done = attnd_run("--help")
    assert done.returncode == 0
    for name in ("bind http-port grpc-port metrics-port socket devices arena-bytes max-request-bytes max-queue-delay-us plugin "
                 "check-config").split():
        assert f"--{name}" in done.stdout, name


def test_version():
    done = attnd_run("--version")
    assert done.returncode == 0 and re.search(r"\d+\.\d+\.\d+", done.stdout)


def test_check_config():
    done = attnd_run("--check-config", "--http-port", "8123", "--arena-bytes", "1G")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^http-port = 8123$", done.stdout, re.M)
    assert re.search(r"^arena-bytes = 1073741824$", done.stdout, re.M)


def test_environment_and_command_line():
    done = attnd_run("--check-config", env={"ATTND_HTTP_PORT": "8124", "ATTND_BIND": "0.0.0.0"})
    assert "http-port = 8124" in done.stdout and "bind = 0.0.0.0" in done.stdout
    done = attnd_run("--check-config", "--http-port=8125", env={"ATTND_HTTP_PORT": "8124"})
    assert "http-port = 8125" in done.stdout


@pytest.mark.parametrize("flags", [["--http-port", "70000"], ["--http-port", "x"], ["--http-port"], ["--no-such"], ["stray"],
                                   ["--devices", "gpu"], ["--devices", "0,0"], ["--bind", "here"], ["--arena-bytes", "-1"],
                                   ["--arena-bytes", "99999999999T"], ["--log-format", "xml"], ["--test-variants=maybe"],
                                   ["--http-port", "8002", "--metrics-port", "8002"]])
@pytest.mark.parametrize("check", [True, False])
def test_wrong_options(flags, check):
    done = attnd_run(*flags, *(["--check-config"] if check else []))
    assert done.returncode not in (0, None) and done.returncode > 0
    assert len(done.stderr.strip()) > 10 and len(done.stderr.splitlines()) <= 3, done.stderr


def test_wrong_environment():
    done = attnd_run("--check-config", env={"ATTND_HTTP_PORT": "many"})
    assert done.returncode != 0 and "ATTND_HTTP_PORT" in done.stderr


def test_port_in_use():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = str(s.getsockname()[1])
        done = attnd_run("--http-port", port, "--metrics-port", "0", "--devices", "cpu")
    assert done.returncode > 0 and port in done.stderr


# ---- probes, metrics, listing ------------------------------------------------------------------------------------


def test_probes(attnd):
    assert attnd.get("/v2/health/live").status == 200
    assert attnd.get("/v2/health/ready").status == 200
    assert attnd.get("/v2/health/live", method="HEAD").status == 200


def test_metrics_port(start):
    d = start("--metrics-port", "0")
    assert "metrics" not in d.ports
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    d = start("--metrics-port", str(port))
    assert d.ports["metrics"] == port
    assert wire.get(port, "/metrics").status == 200
    assert wire.get(port, "/v2/health/ready").status == 200
    assert wire.get(port, "/v1/variants").status == 404


def test_metrics_parse_and_count(start):
    from prometheus_client.parser import text_string_to_metric_families

    d = start()

    def families():
        answer = d.get("/metrics")
        assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain")
        return {f.name: f for f in text_string_to_metric_families(answer.body.decode())}

    for _ in range(3):
        assert d.post("/v1/attention", BODY).status == 200
    before = families()
    assert all(name.startswith(("attnd_", "process_")) for name in before), sorted(before)
    for _ in range(5):
        assert d.post("/v1/attention", BODY).status == 200
    assert d.post("/v1/attention?variant=none-such", BODY).status == 404
    after = families()
    counted = {}
    for name, family in after.items():
        assert family.documentation, name
        if family.type == "counter":
            old = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in before[name].samples} if name in before else {}
            for s in family.samples:
                counted[name] = counted.get(name, 0) + s.value - old.get((s.name, tuple(sorted(s.labels.items()))), 0)
    assert 5 in counted.values() or 6 in counted.values(), counted


def test_variants_listing(attnd):
    answer = attnd.get("/v1/variants")
    assert answer.status == 200
    listing = answer.json()
    rows = {row["name"]: row for row in listing["variants"]}
    assert {"cpu", "reference"} <= set(rows)
    cpu = rows["cpu"]
    assert cpu["auto_select"] and set(cpu["dtypes"]) == {"fp16", "bf16", "fp32"}
    assert {"causal", "lse", "softcap", "gqa", "varlen"} <= set(cpu["features"])
    assert cpu["d_max"] == 256
    assert listing["devices"][0]["uuid"] == "CPU"
    assert rows["test_abort"]["test_only"]


def test_test_variants_are_hidden_without_the_flag(start):
    d = start()
    names = {row["name"] for row in d.get("/v1/variants").json()["variants"]}
    assert "cpu" in names and not any(name.startswith("test_") for name in names)
    assert d.post("/v1/attention?variant=test_abort", BODY).status == 404


def test_variants_as_protobuf(attnd, pb):
    """The same as the JSON, field by field."""
    answer = attnd.get("/v1/variants", extra=["Accept: application/x-protobuf"])
    assert answer.status == 200 and answer.headers["content-type"] == "application/x-protobuf"
    message = pb.ListVariantsResponse.FromString(answer.body)
    listing = attnd.get("/v1/variants", extra=["Accept: application/json"]).json()
    assert [row.name for row in message.variants] == [row["name"] for row in listing["variants"]]
    for got, row in zip(message.variants, listing["variants"]):
        for field in got.DESCRIPTOR.fields:
            value = getattr(got, field.name)
            assert (value if isinstance(value, (str, int, bool)) else list(value)) == row[field.name], (row["name"], field.name)
    for got, row in zip(message.devices, listing["devices"], strict=True):
        for field in got.DESCRIPTOR.fields:
            assert getattr(got, field.name) == row[field.name], field.name
    for field in message.limits.DESCRIPTOR.fields:
        assert getattr(message.limits, field.name) == listing["limits"][field.name], field.name
    assert message.version == listing["version"]


# ---- start, idle -------------------------------------------------------------------------------------------------


def test_ready_soon(start):
    """The bench measures it; here only that it is no matter of seconds."""
    began = time.monotonic()
    start()
    assert time.monotonic() - began < 3 * SLOW


@pytest.mark.heavy
def test_idle_costs_little(start):
    d = start()
    d.post("/v1/attention", BODY)
    time.sleep(1)
    pids = [d.pid, *d.workers()]
    before = sum(cpu_seconds(p) for p in pids)
    time.sleep(5)
    used = sum(cpu_seconds(p) for p in pids) - before
    assert used <= 0.05 + 0.02, f"{used} s of CPU in 5 s idle"  # 1 % of a core, and one tick of each process


def test_worker_that_cannot_start_is_not_ready(start, tmp_path):
    d = start("--worker-path", str(tmp_path / "no-such-worker"), wait=False)
    time.sleep(1)
    if d.alive():
        wait_for(lambda: d._read_ports(), "the port")
        assert d.get("/v2/health/ready").status == 503
        assert d.get("/v2/health/live").status == 200
        answer = d.post("/v1/attention", BODY)
        assert answer.status == 503, answer
    else:
        assert d.process.returncode > 0 and "worker" in d.log()


# ---- drain -------------------------------------------------------------------------------------------------------


def test_drain_in_two_phases(start):
    d = start("--test-variants", "--watchdog-floor-ms", "60000", "--drain-delay-ms", str(1500 * SLOW))
    running = []
    worker = threading.Thread(target=lambda: running.append(
        d.post("/v1/attention?variant=test_sleep&sm_scale=%g" % (2.5 * SLOW), BODY, timeout=60)))
    worker.start()
    time.sleep(0.5)
    d.process.send_signal(signal.SIGTERM)
    wait_for(lambda: d.get("/v2/health/ready").status == 503, "not ready after SIGTERM", 5)
    # Phase 1: not ready, still serving.
    assert d.get("/v2/health/live").status == 200
    worker2 = []
    second = threading.Thread(target=lambda: worker2.append(d.post("/v1/attention?variant=cpu", BODY, timeout=60)))
    second.start()
    # Phase 2: what was accepted is finished.
    worker.join()
    second.join()
    assert running[0].status == 200, running
    assert worker2[0].status == 200, worker2
    assert d.process.wait(20 * SLOW) == 0


def test_drain_has_an_end(start):
    d = start("--test-variants", "--watchdog-floor-ms", "60000", "--drain-timeout-ms", "500")
    answers = []

    def call():
        try:
            answers.append(d.post("/v1/attention?variant=test_sleep&sm_scale=60", BODY, timeout=60))
        except AssertionError as e:
            answers.append(e)

    caller = threading.Thread(target=call)
    caller.start()
    time.sleep(0.5)
    began = time.monotonic()
    assert d.stop() == 0
    assert time.monotonic() - began < 8 * SLOW
    caller.join()
    assert answers[0] is None or answers[0].status in (499, 503), answers


def test_sigint_ends_too(start):
    d = start()
    d.process.send_signal(signal.SIGINT)
    assert d.process.wait(10 * SLOW) == 0


def test_stop_with_idle_and_half_open_connections(start):
    d = start("--drain-timeout-ms", "1000")
    idle = wire.Raw(d.port)
    half = wire.Raw(d.port)
    half.send(head("/v1/attention", len(BODY)) + BODY[:100])
    time.sleep(0.2)
    assert d.stop() == 0
    idle.sock.close()
    half.sock.close()


def test_no_children_are_left(start):
    d = start()
    workers = d.workers()
    assert workers
    d.process.kill()
    d.process.wait()
    # The workers notice that the front is gone and end by themselves.
    wait_for(lambda: not any(os.path.exists(f"/proc/{w}") and open(f"/proc/{w}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
                             for w in workers), "the workers of a killed front to end")


# ---- PID 1 -------------------------------------------------------------------------------------------------------


def can_unshare():
    return shutil.which("unshare") and subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True,
                                                      timeout=10).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="a PID namespace may not be made here (needs root)")
def test_as_pid_1(start):
    """As PID 1 signals have no default action and orphans become its children: TERM must still drain, and a stranger's
    zombie must be reaped."""
    d = start("--test-variants", prefix=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    inner = wait_for(d.workers, "the daemon inside the namespace")[0]
    assert "attnd" in open(f"/proc/{inner}/comm").read()
    assert d.post("/v1/attention", BODY).status == 200
    # An orphan of the namespace: a shell that leaves a child behind, entered from outside.
    subprocess.run(["nsenter", "-t", str(inner), "-p", "-m", "sh", "-c", "(sleep 0.3 &) ; exit 0"], check=True, timeout=10)
    time.sleep(1)
    from daemon import children

    zombies = [p for p in os.listdir("/proc") if p.isdigit() and _ppid_state(p) == (inner, "Z")]
    assert zombies == [], "PID 1 leaves zombies"
    os.kill(inner, signal.SIGTERM)
    assert d.process.wait(20 * SLOW) == 0
    assert children(inner) == [] if os.path.exists(f"/proc/{inner}") else True


def _ppid_state(pid):
    try:
        stat = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return int(stat[1]), stat[0]
