"""The service on a GPU: attnd --devices auto, real Q, K and V posted by curl, comparisons, faults on the device.

Usage: smoke.py <directory of the binaries> <safetensors file>. Standard library only. The truth is a plain double
precision softmax in Python over a few rows, and for comparisons the daemon's own.
"""
import http.client
import json
import math
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

passed = failed = 0


def check(ok, sentence):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print("FAILED:", sentence, flush=True)
    return ok


def parse(body):
    (n,) = struct.unpack_from("<Q", body)
    header = json.loads(body[8 : 8 + n])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, about in header.items():
        begin, end = about["data_offsets"]
        count = (end - begin) // {"F16": 2, "F32": 4}[about["dtype"]]
        code = {"F16": "e", "F32": "f"}[about["dtype"]]
        tensors[name] = (about["shape"], struct.unpack(f"<{count}{code}", body[8 + n + begin : 8 + n + end]))
    return tensors, metadata


def safetensors(shapes):
    header, data = {}, b""
    for name, shape in shapes.items():
        count = math.prod(shape)
        values = [math.sin(i * 0.37 + len(name) + ord(name)) for i in range(min(count, 4096))]
        piece = struct.pack(f"<{len(values)}e", *values) * (count // len(values))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + data


def row_truth(tensors, h, i, causal):
    (_, s, heads, d), q = tensors["q"]
    k, v = tensors["k"][1], tensors["v"][1]
    at = lambda t, row: t[(row * heads + h) * d : (row * heads + h) * d + d]
    seen = i + 1 if causal else s
    scores = [sum(x * y for x, y in zip(at(q, i), at(k, j))) / math.sqrt(d) for j in range(seen)]
    most = max(scores)
    p = [math.exp(x - most) for x in scores]
    total = sum(p)
    return [sum(p[j] * at(v, j)[x] for j in range(seen)) / total for x in range(d)], most + math.log(total)


class Daemon:
    def __init__(self, binaries, *options):
        self.directory = tempfile.TemporaryDirectory(prefix="attnd-smoke-")
        ports = os.path.join(self.directory.name, "ports")
        self.log = open(os.path.join(self.directory.name, "log"), "w+b")
        start = time.monotonic()
        self.process = subprocess.Popen(
            [os.path.join(binaries, "attnd"), "--http-port", "0", "--metrics-port", "0", "--port-file", ports, *options],
            stderr=self.log,
        )
        while True:
            if self.process.poll() is not None or time.monotonic() - start > 20:
                self.log.seek(0)
                sys.exit("attnd is not ready:\n" + self.log.read().decode())
            time.sleep(0.005)
            if not os.path.exists(ports) or "http" not in open(ports).read():
                continue
            self.port = int(dict(line.split() for line in open(ports))["http"])
            try:
                if self.call("GET", "/v2/health/ready")[0] == 200:
                    break
            except OSError:
                pass
        print(f"ready in {(time.monotonic() - start) * 1000:.0f} ms", flush=True)

    def call(self, method, path, body=None, kind=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {"Content-Type": kind} if kind else {})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data

    def attention(self, body, **query):
        words = "&".join(f"{k}={v}" for k, v in query.items())
        return self.call("POST", "/v1/attention?" + words, body, "application/safetensors")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(30)
        self.log.seek(0)
        return status, self.log.read().decode(errors="replace")


def test_real_input(daemon, path):
    tensors, _ = parse(open(path, "rb").read())
    for variant in ("auto", "unified", "reference"):
        for causal in (False, True):
            out = os.path.join(daemon.directory.name, "answer")
            url = f"http://127.0.0.1:{daemon.port}/v1/attention?return_lse=true&variant={variant}&causal={str(causal).lower()}"
            curl = ["curl", "-sS", "--max-time", "30", "-H", "Content-Type: application/safetensors", "--data-binary", f"@{path}"]
            status = subprocess.run([*curl, "-o", out, "-w", "%{http_code}", url], capture_output=True, text=True).stdout
            body = open(out, "rb").read()
            if not check(status == "200", f"{variant}: {status} {body[:300]}"):
                continue
            answer, about = parse(body)
            check(about["device"].startswith("GPU-"), f"{variant} ran on {about['device']}")
            check(variant == "auto" or about["variant"] == variant, f"{variant} was replaced by {about['variant']}")
            (_, s, heads, d), o = answer["o"]
            lse = answer["lse"][1]
            worst = worst_lse = 0
            for h, i in ((0, 0), (3, 100), (7, 200), (heads - 1, s - 1)):
                truth, truth_lse = row_truth(tensors, h, i, causal)
                got = o[(i * heads + h) * d : (i * heads + h) * d + d]
                worst = max(worst, max(abs(a - b) for a, b in zip(got, truth)) / max(map(abs, truth)))
                worst_lse = max(worst_lse, abs(lse[h * s + i] - truth_lse))
            check(worst < 2e-3 and worst_lse < 1e-4, f"{variant} causal {causal}: O off by {worst:.2g} of its row, LSE by {worst_lse:.2g}")
            print(f"{variant:9} causal {causal!s:5} -> {about['variant']}: kernel {about['kernel_us']} us, total {about['total_us']} us, O off by {worst:.1e}")


def test_compare(daemon, path):
    asks = [("the file", "/v1/compare?variants=unified,reference&wait=30s", open(path, "rb").read(), "application/safetensors")]
    for name, shape, more in (
        ("small", dict(batch=1, s_q=64, s_kv=64, h_q=8, h_kv=2, d=128), {}),
        ("causal", dict(batch=1, s_q=4096, s_kv=4096, h_q=32, h_kv=8, d=128), {"causal": True}),
    ):
        ask = {"shape": shape, "seed": 1, "dtype": "bf16", "variants": ["unified", "reference"], "return_lse": True, **more}
        asks.append((name, "/v1/compare?wait=30s", json.dumps(ask).encode(), "application/json"))
    for name, path, body, kind in asks:
        start = time.monotonic()
        status, data = daemon.call("POST", path, body, kind)
        job = json.loads(data)
        if not check(status == 200 and job.get("state") == "done", f"compare {name}: {status} {data[:400]}"):
            continue
        for row in job["result"]["results"]:
            if check("error" not in row and row["accuracy"]["pass"], f"compare {name}: {row}"):
                print(
                    f"compare {name:8} {row['variant']:9} median {row['median_us']:.1f} us, least {row['min_us']:.1f} us, "
                    f"{row['tflops']:.1f} TFLOP/s, max error {row['accuracy']['max_abs']:.2g} of {row['accuracy']['max_abs_allowed']:.2g}"
                )
        print(f"compare {name}: {time.monotonic() - start:.2f} s; {job['result']['provenance']}")


def test_latency(daemon):
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    for variant, s, h_q, h_kv, rounds in (("null", 64, 8, 2, 500), ("unified", 64, 8, 2, 500), ("unified", 1024, 32, 8, 30), ("unified", 4096, 32, 8, 10)):
        body = safetensors({"q": [1, s, h_q, 128], "k": [1, s, h_kv, 128], "v": [1, s, h_kv, 128]})
        times = []
        for _ in range(rounds):
            start = time.monotonic()
            connection.request("POST", f"/v1/attention?variant={variant}", body, {"Content-Type": "application/safetensors"})
            answer = connection.getresponse()
            data = answer.read()
            times.append((time.monotonic() - start) * 1e6)
            if not check(answer.status == 200, f"{variant}: {data[:200]}"):
                return
        about = parse_metadata(data)
        print(f"{variant} 1x{s}x{s} {h_q}/{h_kv} d128 from Python, one caller: p50 {statistics.median(times):.0f} us; inside {about}")


def test_load(daemon, binaries):
    """With the load client of tests/bench where it was brought along: latency and rate without Python's own time."""
    client = os.path.join(binaries, "http_load")
    if not os.path.exists(client):
        return
    file = os.path.join(daemon.directory.name, "body")
    for variant, s, h_q, h_kv in (("null", 64, 8, 2), ("unified", 64, 8, 2), ("unified", 1024, 32, 8), ("unified", 4096, 32, 8)):
        with open(file, "wb") as out:
            out.write(safetensors({"q": [1, s, h_q, 128], "k": [1, s, h_kv, 128], "v": [1, s, h_kv, 128]}))
        for connections in (1, 16):
            command = [client, "--port", str(daemon.port), "--path", f"/v1/attention?variant={variant}", "--body", file]
            command += ["--type", "application/safetensors", "--connections", str(connections), "--seconds", "1", "--warmup", "0.3"]
            load = subprocess.run(command, capture_output=True, text=True)
            check(load.returncode == 0, f"load: {load.stderr[:300]}")
            print(f"{variant} 1x{s}x{s} {h_q}/{h_kv} d128, {connections} callers: {load.stdout.strip()}")


def parse_metadata(body):
    (n,) = struct.unpack_from("<Q", body)
    about = json.loads(body[8 : 8 + n])["__metadata__"]
    return {k: about[k] for k in ("queue_us", "copy_in_us", "kernel_us", "copy_out_us", "total_us")}


def test_faults(daemon, path):
    """A kernel that never ends, a store where there is no memory, an abort: that request fails and names the variant."""
    body = open(path, "rb").read()
    for variant in ("test_oob", "test_abort", "test_spin"):
        start = time.monotonic()
        status, data = daemon.attention(body, variant=variant)
        check(status >= 500 and variant in data.decode(), f"{variant}: {status} {data[:300]}")
        print(f"{variant}: {status} after {time.monotonic() - start:.2f} s: {data.decode()[:260]}")
        status, data = daemon.attention(body, variant="unified")
        check(status == 200, f"unified after {variant}: {status} {data[:300]}")
    status, data = daemon.attention(body, variant="test_kill_serve")
    print(f"test_kill_serve: {status} {data.decode()[:200]}")
    start = time.monotonic()
    while time.monotonic() - start < 10:
        status, data = daemon.attention(body, variant="unified")
        if status == 200:
            break
        time.sleep(0.05)
    check(status == 200, f"unified after the worker was killed: {status} {data[:300]}")
    print(f"served again {time.monotonic() - start:.2f} s after the worker was killed")


def main():
    binaries, path = sys.argv[1:]
    if not subprocess.run([os.path.join(binaries, "attn-worker"), "--list-devices"], capture_output=True, text=True).stdout.strip():
        print("skipped: no GPU")
        sys.exit(77)
    daemon = Daemon(binaries, "--devices", "auto", "--test-variants")
    try:
        status, data = daemon.call("GET", "/v1/variants")
        check(status == 200 and b"GPU-" in data, f"variants: {status} {data[:300]}")
        test_real_input(daemon, path)
        test_compare(daemon, path)
        test_latency(daemon)
        test_load(daemon, binaries)
        test_faults(daemon, path)
    finally:
        status, log = daemon.stop()
        check(status == 0, f"attnd ended with {status}")
        if failed:
            print("attnd's log:\n" + log[-6000:])
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed != 0)


main()
