"""libattn and attnctl over the Unix socket of the real daemon: the same bits as over HTTP, the README's C program, the
PyTorch example, and a daemon, or its worker, that dies in between."""
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

import wire
from daemon import BIN, ROOT, SLOW, wait_for
from wire import Problem

INPUT = ROOT / "tests" / "data" / "minilm_qkv.safetensors"
BUILD = BIN.parent
TINY = ("--shape", "1,16,16,2/1,32", "--dtype", "fp16")


@pytest.fixture
def socket_path(tmp_path):
    return tmp_path / "attnd.sock"


@pytest.fixture
def door(start, socket_path):
    d = start("--test-variants", "--socket", str(socket_path))
    d.socket = socket_path
    return d


def tensors_of(path):
    return {name: data for name, (_, _, data) in wire.safetensors_parse(path.read_bytes())[0].items()}


@pytest.mark.parametrize("args", [["--return-lse", "--causal"], ["--variant", "reference"], ["--id", "by-message", "--return-lse"],
                                  ["--softcap", "20", "--sm-scale", "0.3", "--priority", "-3", "--deadline-ms", "60000"]])
def test_the_same_bits_as_over_http(door, attnctl, tmp_path, args):
    attnctl("run", INPUT, "--socket", door.socket, *args, "--output", tmp_path / "local")
    attnctl("run", INPUT, "--server", door.url, *args, "--output", tmp_path / "http")
    local, http = tensors_of(tmp_path / "local"), tensors_of(tmp_path / "http")
    assert local == http and ("lse" in local) == ("--return-lse" in args)


def test_run_by_message_and_through_the_ring(door, attnctl, tmp_path):
    for kind in ("socket", "ring"):
        attnctl("run", INPUT, "--socket", door.socket, "--door", kind, "--output", tmp_path / kind)
    assert tensors_of(tmp_path / "socket") == tensors_of(tmp_path / "ring")
    assert attnctl("run", INPUT, "--server", door.url, "--door", "ring", check=False).returncode == 2


def test_packed_sequences(door, attnctl, tmp_path):
    """Their offsets lie in no region, so the request travels as a message."""
    p = Problem(cu_q=[0, 3, 8], cu_k=[0, 4, 9], causal=True, dtype="fp32")
    (tmp_path / "in").write_bytes(p.safetensors())
    attnctl("run", tmp_path / "in", "--causal", "--return-lse", "--socket", door.socket, "--output", tmp_path / "out")
    tensors, _ = wire.safetensors_parse((tmp_path / "out").read_bytes())
    assert p.judge(tensors["o"], tensors["lse"]) == []


def test_errors_are_the_servers_sentence(door, attnctl):
    for args in (["--variant", "flash9"], ["--variant", "unified"], ["--variant", "test_abort"]):
        said = []
        for server in (["--socket", door.socket], ["--server", door.url]):
            done = attnctl("run", INPUT, *args, *server, "--json", check=False)
            assert done.returncode == 1, done
            said.append(json.loads(done.stdout))
        for key in ("code", "missing", "retryable"):
            assert said[0][key] == said[1][key], said
        if args[1] != "test_abort":  # whose sentence has a process id
            assert said[0]["error"] == said[1]["error"]


def test_what_only_http_has_is_said(door, attnctl):
    for command in (["stats"], ["variants"], ["top", "--count", "1"], ["compare", INPUT]):
        done = attnctl(*command, "--socket", door.socket, check=False)
        assert done.returncode == 1 and "http://host:port" in done.stderr, done


def test_health(door, attnctl, tmp_path):
    assert json.loads(attnctl("health", "--socket", door.socket, "--json").stdout) == {"live": True, "ready": True}
    assert attnctl("health", "--socket", tmp_path / "none", check=False).returncode == 3


@pytest.mark.parametrize("kind", ["socket", "ring"])
def test_bench(door, attnctl, kind):
    (run,) = json.loads(attnctl("bench", *TINY, "--socket", door.socket, "--door", kind, "--requests", "400", "--warmup-seconds", "0",
                                "--connections", "2", "--depth", "4", "--json").stdout)["runs"]
    assert run["door"] == kind and run["depth"] == 4 and run["total"]["answered"] == 400 and run["total"]["failed"] == {}
    served = sum(v for k, v in door.metrics().items() if k.startswith("attnd_attention_requests_total{") and 'code="OK"' in k)
    assert served == 400


def test_bench_open_loop_over_the_ring(door, attnctl):
    (run,) = json.loads(attnctl("bench", *TINY, "--socket", door.socket, "--rate", "200", "--arrivals", "uniform", "--seconds", "1",
                                "--warmup-seconds", "0", "--connections", "2", "--depth", "8", "--json").stdout)["runs"]
    assert run["door"] == "ring" and 199 <= run["total"]["answered"] <= 200 and run["unsent"] == 0


def test_cuda_doors_say_what_is_missing(door, attnctl):
    for kind in ("cuda", "cuda-ipc"):
        done = attnctl("run", INPUT, "--socket", door.socket, "--door", kind, check=False)
        assert done.returncode == 1 and len(done.stderr.strip()) > 20, done
        done = attnctl("bench", *TINY, "--socket", door.socket, "--door", kind, "--requests", "1", check=False)
        assert done.returncode == 1 and len(done.stderr.strip()) > 20, done  # no driver, or a daemon without that GPU


class Load:
    """attnctl bench in the background."""

    def __init__(self, door, kind, seconds):
        self.process = subprocess.Popen([str(BIN / "attnctl"), "bench", *TINY, "--socket", str(door.socket), "--door", kind, "--seconds",
                                         str(seconds), "--warmup-seconds", "0", "--connections", "2", "--depth", "2", "--verify", "--json"],
                                        stdout=subprocess.PIPE, text=True)

    def end(self):
        out, _ = self.process.communicate(timeout=60 * SLOW)
        return json.loads(out)["runs"][0]


@pytest.mark.parametrize("kind", ["socket", "ring"])
def test_a_worker_that_is_killed_costs_nobody_an_answer(door, kind):
    load = Load(door, kind, 3)
    for _ in range(4):
        time.sleep(0.5)
        for pid in door.workers():
            os.kill(pid, signal.SIGKILL)
        wait_for(door.workers, "a new worker")
    run = load.end()
    assert run["total"]["answered"] > 50 and run["total"]["failed"] == {}, run


@pytest.mark.parametrize("kind", ["socket", "ring"])
def test_a_client_outlives_its_daemon(start, socket_path, kind):
    """The connection ends with the daemon; the next request finds the new one, with the regions registered again."""
    first = start("--socket", str(socket_path))
    first.socket = socket_path
    load = Load(first, kind, 4)
    time.sleep(1)
    os.kill(first.pid, signal.SIGKILL)
    first.process.wait()
    time.sleep(0.5)
    second = start("--socket", str(socket_path))
    run = load.end()
    served = sum(v for k, v in second.metrics().items() if k.startswith("attnd_attention_requests_total{") and 'code="OK"' in k)
    assert served > 50, run
    assert set(run["total"]["failed"]) <= {"CONNECTION", "UNAVAILABLE"} and run["total"]["answered"] > 50, run


def readme_program():
    (block,) = re.findall(r"```c\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block.count("\n") <= 60
    return block


def program_build(source, program):
    if not (BUILD / "lib" / "libattn.so.0").exists():
        pytest.skip(f"no libattn.so.0 in {BUILD / 'lib'}")
    sanitize = ["-fsanitize=address,undefined"] if os.environ.get("ATTN_SANITIZED") == "address" else []
    subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-Wall", "-Wextra", "-Werror", *sanitize, f"-I{ROOT}/client/include",
                    f"-I{ROOT}/kernels/include", "-o", program, source, f"-L{BUILD}/lib", "-lattn", f"-Wl,-rpath,{BUILD}/lib"],
                   check=True, timeout=60)


def addresses(door):
    return f"unix:{door.socket}", door.url


def test_the_program_of_the_readme(door, tmp_path):
    source, program = tmp_path / "attention.c", tmp_path / "attention"
    source.write_text(readme_program())
    program_build(source, program)
    for address in addresses(door):
        done = subprocess.run([program, address], capture_output=True, text=True, timeout=30 * SLOW)
        assert done.returncode == 0 and done.stdout.startswith("cpu on CPU"), done
        assert done.stdout.rstrip().endswith("o[0] = 2"), done  # row 0 sees key 0 alone: the first value of v
    assert subprocess.run([program, "unix:/none"], capture_output=True, timeout=30).returncode == 1


def test_jobs_over_either_door(door, tmp_path):
    program_build(ROOT / "tests/e2e/jobs_client.c", tmp_path / "jobs")
    for address in addresses(door):
        done = subprocess.run([tmp_path / "jobs", address], capture_output=True, text=True, timeout=60 * SLOW)
        assert done.returncode == 0 and done.stdout.strip() == str(7 * 24), done


@pytest.mark.heavy
def test_the_pytorch_example(door):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    for address in addresses(door):
        done = subprocess.run([sys.executable, ROOT / "client/examples/attention.py", address, "--lib", BUILD / "lib/libattn.so.0"],
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and done.stdout.startswith("cpu on CPU"), done


@pytest.mark.heavy
def test_the_structures_of_the_pytorch_example(tmp_path):
    """ctypes repeats what attn.h declares."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    (tmp_path / "sizes.c").write_text('#include <attn.h>\n#include <stdio.h>\nint main(void) { printf("%zu %zu %zu %zu", sizeof(attn_spec_t), '
                                      "sizeof(attn_client_request_t), sizeof(attn_client_answer_t), sizeof(attn_client_error_t)); }\n")
    subprocess.run([os.environ.get("CC", "cc"), f"-I{ROOT}/client/include", f"-I{ROOT}/kernels/include", "-o", tmp_path / "sizes",
                    tmp_path / "sizes.c"], check=True, timeout=60)
    sys.path.insert(0, str(ROOT / "client" / "examples"))
    try:
        import attention
    finally:
        sys.path.pop(0)
    from ctypes import sizeof

    sizes = subprocess.run([tmp_path / "sizes"], capture_output=True, text=True, check=True).stdout.split()
    assert [int(n) for n in sizes] == [sizeof(t) for t in (attention.Spec, attention.Request, attention.Answer, attention.Error)]


def test_many_processes_at_a_time(door, attnctl, tmp_path):
    codes = []
    threads = [threading.Thread(target=lambda i=i: codes.append(attnctl("run", INPUT, "--socket", door.socket, "--output", tmp_path / f"o{i}",
                                                                         check=False).returncode)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert codes == [0] * 8
    assert len({tensors_of(tmp_path / f"o{i}")["o"] for i in range(8)}) == 1
