#!/usr/bin/env python3
"""Groups on a GPU through the daemon: requests of many lengths from many callers have the bits that each has alone, also
while the worker is killed again and again with four groups in flight, and a poisonous one among them fails alone.

    groups.py <directory of the binaries> [--devices auto] [--variant unified]      --devices cpu --variant cpu: a dry run

Standard library only.
"""
import argparse
import http.client
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

LENGTHS = (1, 17, 64, 65, 100, 128, 200, 257, 300, 511, 640, 777)
H_Q, H_KV, D = 8, 2, 128
passed = failed = 0


def check(ok, sentence):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print("FAILED:", sentence, flush=True)
    return ok


def body_of(s_q, s_kv, seed):
    rng = random.Random(seed)
    block = struct.pack("<4096e", *(rng.gauss(0, 1) for _ in range(4096)))
    header, data = {}, b""
    for key, s, h in (("q", s_q, H_Q), ("k", s_kv, H_KV), ("v", s_kv, H_KV)):
        size = s * h * D * 2
        header[key] = {"dtype": "F16", "shape": [1, s, h, D], "data_offsets": [len(data), len(data) + size]}
        data += (block * (size // len(block) + 1))[:size]
        block = block[1000:] + block[:1000]
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + data


class Daemon:
    def __init__(self, binaries, *options):
        self.folder = tempfile.TemporaryDirectory(prefix="attnd-groups-")
        ports = os.path.join(self.folder.name, "ports")
        self.log = open(os.path.join(self.folder.name, "log"), "w+b")
        self.process = subprocess.Popen([os.path.join(binaries, "attnd"), "--http-port", "0", "--metrics-port", "0", "--socket", "none",
                                         "--port-file", ports, "--log-level", "error", *options], stderr=self.log)
        end = time.monotonic() + 30
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with open(ports) as file:
                    self.port = int(file.read().split()[1])
                if self.get("/v2/health/ready")[0] == 200:
                    return
            except (OSError, IndexError, ValueError):
                pass
            time.sleep(0.02)
        self.log.seek(0)
        sys.exit("attnd is not ready:\n" + self.log.read().decode())

    def get(self, path):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        conn.request("GET", path)
        answer = conn.getresponse()
        return answer.status, answer.read()

    def device(self):
        return json.loads(self.get("/v1/variants")[1])["devices"][0]

    def stop(self):
        self.process.terminate()
        check(self.process.wait(30) == 0, "attnd does not end with 0")


def post(conn, path, body):
    conn.request("POST", path, body, {"Content-Type": "application/safetensors"})
    answer = conn.getresponse()
    data = answer.read()
    if answer.status != 200:
        return answer.status, json.loads(data)["error"], 0
    (n,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + n])
    return 200, data[8 + n :], int(header["__metadata__"]["batch_size"])


def callers(daemon, path, bodies, expected, seconds, count=32):
    """Loops of `count` callers; returns answers and the greatest batch size, and checks every bit."""
    seen, lock, end = {"answers": 0, "batch": 0, "wrong": []}, threading.Lock(), time.monotonic() + seconds

    def run(seed):
        rng = random.Random(seed)
        conn = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
        while time.monotonic() < end:
            i = rng.randrange(len(bodies))
            status, data, batch = post(conn, path, bodies[i])
            with lock:
                seen["answers"] += 1
                seen["batch"] = max(seen["batch"], batch)
                if status != 200:
                    seen["wrong"].append(f"{status} {data}")
                elif data != expected[i]:
                    seen["wrong"].append(f"other bits for length {LENGTHS[i]}, in a group of {batch}")

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    [t.start() for t in threads]
    return seen, threads


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binaries")
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--variant", default="unified")
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    if options.devices == "auto" and not subprocess.run([os.path.join(options.binaries, "attn-worker"), "--list-devices"],
                                                        capture_output=True, check=True).stdout.strip():
        print("skipped: no GPU")
        sys.exit(77)
    daemon = Daemon(options.binaries, "--devices", options.devices, "--test-variants", "--max-queue-delay-us", "2000", "--pipeline-depth", "4",
                    "--max-group-requests", "8", "--max-group-cost-us", "1000000", "--watchdog-floor-ms", "3000")
    bodies = [body_of(s, s + i % 3 * 20, i) for i, s in enumerate(LENGTHS)]
    path = f"/v1/attention?variant={options.variant}&causal=true&return_lse=true"
    conn = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    expected = []
    for body in bodies:
        status, data, batch = post(conn, path, body)
        if not check(status == 200 and batch == 1, f"alone: {status} {data if status != 200 else batch}"):
            sys.exit(1)
        expected.append(data)

    seen, threads = callers(daemon, path, bodies, expected, options.seconds)
    [t.join() for t in threads]
    print(f"{seen['answers']} answers of 32 callers, groups of up to {seen['batch']}, {len(seen['wrong'])} wrong")
    check(seen["wrong"] == [], f"in groups: {seen['wrong'][:3]}")
    check(seen["batch"] > 1 and seen["answers"] > 32, "nothing was merged")

    seen, threads = callers(daemon, path, bodies, expected, options.seconds)
    kills, most = 0, 0
    while any(t.is_alive() for t in threads):
        until = time.monotonic() + 0.4
        while time.monotonic() < until and daemon.device()["groups"] < 4:
            most = max(most, daemon.device()["groups"])
        about = daemon.device()
        most = max(most, about["groups"])
        if about["state"] == "ready" and about["serve_pid"]:
            try:
                os.kill(about["serve_pid"], signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                pass
        time.sleep(0.6)
    print(f"{kills} kills with up to {most} groups in flight: {seen['answers']} answers, {len(seen['wrong'])} wrong")
    check(seen["wrong"] == [], f"with kills: {seen['wrong'][:3]}")
    check(kills > 1, "nothing was killed")

    bad, conns = {}, []
    sleeper = threading.Thread(target=lambda: post(http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60),
                                                   "/v1/attention?variant=test_sleep&sm_scale=0.5", bodies[0]))
    sleeper.start()
    time.sleep(0.2)

    def one(i):
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
        bad[i] = post(connection, f"/v1/attention?variant=test_poison_serve&sm_scale={101 if i == 5 else 1}", bodies[0])

    conns = [threading.Thread(target=one, args=(i,)) for i in range(8)]
    [t.start() for t in [*conns]]
    [t.join() for t in [sleeper, *conns]]
    check(all(bad[i][0] == 200 for i in range(8) if i != 5), f"beside a poisonous request: {[bad[i][:2] for i in range(8) if bad[i][0] != 200 and i != 5]}")
    check(bad[5][0] == 500 and "test_poison_serve" in bad[5][1], f"the poisonous request: {bad[5][:2]}")
    status, data, _ = post(http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60), path, bodies[3])
    check(status == 200 and data == expected[3], "after the poison")
    daemon.stop()
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
