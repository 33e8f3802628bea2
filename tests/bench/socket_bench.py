#!/usr/bin/env python3
"""The Unix socket's doors on a GPU beside what the machine takes without a daemon (tests/bench/socket_floor.c), in one run.

    socket_bench.py --tree FOLDER [--devices auto] [--seconds 2]     FOLDER: bin/ and bench/ of the portable tree, or build/

Daemon, workers and client spin while they wait. One row per promise: what was measured, its floor, the bar, and whether it is met. One caller, fp16, d 128, medians. With
--devices cpu the same commands run without a GPU, for their own sake: no floors, no bars. Exits with 1 when a bar is
missed or something failed, with 77 without a GPU."""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import service_common as common

TINY = "1,64,64,8/2,128"
LARGE = "1,4096,4096,32/8,128"
SPIN_US = "2000"  # everybody looks rather than sleeps until the largest kernel here has ended
SHAPES = [TINY, "1,1024,1024,16/4,128", LARGE]


def bytes_of(shape):
    b, s_q, s_kv, heads, d = shape.split(",")
    h_q, h_kv = heads.split("/")
    q = int(b) * int(s_q) * int(h_q) * int(d) * 2
    return q + 2 * int(b) * int(s_kv) * int(h_kv) * int(d) * 2, q


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    options = parser.parse_args()
    gpu = options.devices != "cpu"
    large = LARGE if gpu else "1,256,256,4/2,64"
    shapes = SHAPES if gpu else [TINY]
    floor = {}
    if gpu:
        done = subprocess.run([options.tree / "bench/socket_floor", *map(str, bytes_of(large))], capture_output=True, text=True, timeout=60)
        if done.returncode == 77:
            print("skipped: no GPU")
            return 77
        floor = json.loads(done.stdout)
        print("without a daemon:", ", ".join(f"{k} {v}" for k, v in floor.items()))
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        sock = Path(folder) / "sock"
        spin = ["--spin-us", SPIN_US, "--socket-spin-us", SPIN_US] if gpu else []
        server = common.attnd(options.tree / "bin", "--devices", options.devices, "--socket", sock, *spin)

        def measure(door, shape, depth=1):
            done = subprocess.run([options.tree / "bin/attnctl", "bench", "--socket", sock, "--door", door, "--shape", shape, "--dtype", "fp16",
                                   "--seconds", str(options.seconds), "--warmup-seconds", "1", "--depth", str(depth), "--json", *(["--spin-us", SPIN_US] if gpu else [])],
                                  capture_output=True, text=True, timeout=60 + options.seconds)
            if done.returncode != 0:
                raise SystemExit(f"{door} {shape}: {done.stdout}{done.stderr}")
            total = json.loads(done.stdout)["runs"][0]["total"]
            if total["failed"]:
                raise SystemExit(f"{door} {shape}: {total['failed']}")
            return total

        def row(what, value, bar, unit="us", least=False):
            nonlocal failed
            met = value >= bar if least else value <= bar
            failed = failed or (gpu and not met)
            print(f"{what:58} {value:9.2f} {unit:4}" + (f" bar {bar:9.2f}  {'met' if met else 'MISSED'}" if gpu else ""), flush=True)

        try:
            kernel = {}
            for door in ("cuda", "cuda-ipc") if gpu else ():
                for shape in shapes:
                    t = measure(door, shape)
                    kernel[shape] = t["kernel_us"]
                    row(f"{door} {shape}: p50 (kernel {t['kernel_us']:.1f})", t["p50_us"], t["kernel_us"] + 20)
            for door in ("socket", "ring"):
                t = measure(door, TINY)
                row(f"{door} {TINY}: p50 (p99 {t['p99_us']:.0f})", t["p50_us"], 50 if door == "ring" else float("inf"))
            t = measure("ring", large)
            alone = floor.get("in_us", 0) + kernel.get(large, 0) + floor.get("out_us", 0)
            row(f"ring {large}: p50 (alone {alone:.0f})", t["p50_us"], 1.15 * alone)
            t = measure("ring", large, depth=4)
            into, out = bytes_of(large)
            rate = t["requests_per_s"] * max(into, out) / 1e9
            row(f"ring {large}: 4 in flight, busier way", rate, 0.9 * floor.get("link_gbs", 0), "GB/s", least=True)
        finally:
            failed = server.stop() != 0 or failed
    return 1 if failed else 0


sys.exit(main())
