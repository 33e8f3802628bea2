"""What the service benchmarks share: bodies, servers under test, the load client. Only the standard library, so that it runs
wherever the portable binaries were carried to."""
import http.client
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def body_file(folder, name, b, s_q, s_kv, h_q, h_kv, d):
    """fp16 safetensors with normal values; a block of 64 Ki values is repeated, because nobody looks at them."""
    rng = random.Random(1)
    block = struct.pack("<65536e", *(rng.gauss(0, 1) for _ in range(65536)))
    header, at, tensors = {}, 0, []
    for key, s, h in (("q", s_q, h_q), ("k", s_kv, h_kv), ("v", s_kv, h_kv)):
        size = b * s * h * d * 2
        header[key] = {"dtype": "F16", "shape": [b, s, h, d], "data_offsets": [at, at + size]}
        at += size
        tensors.append((block * (size // len(block) + 1))[:size])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = Path(folder) / name
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors))
    return path


class Server:
    """A process with an HTTP port, ready after the constructor."""

    def __init__(self, args, port=None, port_file=None, timeout=90):
        self.log = tempfile.TemporaryFile()
        self.began = time.monotonic()
        self.process = subprocess.Popen([str(a) for a in args], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        self.port = port
        while not self._ready(port_file):
            if self.process.poll() is not None or time.monotonic() - self.began > timeout:
                self.log.seek(0)
                text = self.log.read().decode(errors="replace")[-2000:]
                self.process.kill()
                raise SystemExit(f"{args[0]} is not ready after {time.monotonic() - self.began:.1f} s: {text}")
            time.sleep(0.001)
        self.ready_s = time.monotonic() - self.began

    def _ready(self, port_file):
        try:
            if self.port is None:
                ports = dict(line.split() for line in Path(port_file).read_text().splitlines())
                if "http" not in ports:
                    return False
                self.port = int(ports["http"])
            conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            conn.request("GET", "/v2/health/ready")
            status = conn.getresponse().status
            conn.close()
            return status == 200
        except OSError:
            return False

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def attnd(bin_dir, *flags):
    folder = tempfile.mkdtemp(prefix="attnd-bench-")
    ports = Path(folder) / "ports"
    return Server([Path(bin_dir) / "attnd", "--http-port", "0", "--port-file", ports, "--metrics-port", "0", "--log-level", "warn",
                   *([] if "--socket" in flags else ["--socket", "none"]), *flags], port_file=ports)


def torch_service(python, device):
    port = free_port()
    return Server([python, HERE / "peers" / "torch_service.py", "--port", port, "--device", device], port=port)


def first_answer(server, path, body):
    """Once for each server: a peer's first request may take seconds, longer than a load lasts."""
    if not getattr(server, "has_answered", False):
        conn = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        conn.request("POST", path, Path(body).read_bytes(), {"Content-Type": "application/safetensors"})
        conn.getresponse().read()
        conn.close()
        server.has_answered = True


def load(binary, server, path, body, connections, seconds, warmup=0.5, flags=()):
    first_answer(server, path, body)
    # One thread of the client is the limit from about 20,000 requests/s of 320 KiB on.
    threads = max(1, min(4, connections // 4, (os.cpu_count() or 1) // 4))
    done = subprocess.run([str(binary), "--port", str(server.port), "--path", path, "--body", str(body), "--type", "application/safetensors",
                           "--connections", str(connections), "--threads", str(threads), "--seconds", str(seconds), "--warmup", str(warmup),
                           *flags],
                          capture_output=True, text=True, timeout=seconds + warmup + 60)
    if done.returncode != 0:
        raise SystemExit(f"http_load failed: {done.stdout}{done.stderr}")
    result = json.loads(done.stdout)
    if result["errors"]:
        raise SystemExit(f"http_load met errors: {result}")
    return result


def metrics(server):
    """Every series of /metrics, summed over its labels."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10).read().decode()
    totals = {}
    for line in text.splitlines():
        if line and line[0] != "#":
            name, value = line.rsplit(" ", 1)
            totals[name.split("{")[0]] = totals.get(name.split("{")[0], 0) + float(value)
    return totals


def median(values):
    return statistics.median(values)


def tree_cpu_seconds(pid):
    """CPU time of a process and its children."""
    pids = [pid] + [int(p) for p in os.listdir("/proc") if p.isdigit() and _parent(p) == pid]
    total = 0
    for p in pids:
        fields = Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return -1


def say(text):
    print(text, flush=True, file=sys.stderr)
