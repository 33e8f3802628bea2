#!/usr/bin/env python3
"""A mix of lengths at a share of the peak: latency per length beside what the length takes alone.

    tests/bench/mix_bench.py --bin build/bin [--devices auto] [--lengths 64,…,8192] [--door http|ring] [--share 0.7] [--json]

Every class is s_q = s_kv = its length, causal, chosen inversely to its length, so that each brings about as many tokens. Three
loads of attnctl bench in one daemon: each class alone in a closed loop; all from many connections, which gives the peak; then
Poisson arrivals at a share of the peak. The bound for a class's p99 is 5 times its p50 alone plus the longest kernel of the mix.
Exits with 1 when a class is above its bound or a request failed."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import service_common as common


def bench(options, server, *arguments):
    address = ["--socket", server.socket] if options.door != "http" else ["--server", f"http://127.0.0.1:{server.port}"]
    command = [Path(options.bin) / "attnctl", "bench", *address, "--door", options.door, "--json", *arguments]
    done = subprocess.run([str(a) for a in command], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise SystemExit(f"attnctl bench failed: {done.stdout}{done.stderr}")
    (run,) = json.loads(done.stdout)["runs"]
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder with attnd, attn-worker and attnctl")
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--door", default="http", choices=["http", "ring"])
    parser.add_argument("--lengths", default="64,128,256,512,1024,2048,4096,8192")
    parser.add_argument("--heads", default="32/8", help="H_Q/H_KV")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--share", type=float, default=0.7)
    parser.add_argument("--seconds", type=float, default=8, help="of the load at the share; the others take a part of that")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lengths = [int(n) for n in options.lengths.split(",")]

    with tempfile.TemporaryDirectory() as folder:
        lines = {n: f"s{n} weight={max(lengths) / n:g} shape=1,{n},{n},{options.heads},{options.dim} dtype=fp16 causal=true\n" for n in lengths}
        mix = Path(folder) / "mix"
        mix.write_text("".join(lines.values()))
        socket = Path(folder) / "sock"
        server = common.attnd(options.bin, "--devices", options.devices, *(["--socket", socket] if options.door != "http" else []))
        server.socket = socket
        try:
            alone = {}
            for n in lengths:
                one = Path(folder) / f"s{n}"
                one.write_text(lines[n])
                (alone[f"s{n}"],) = bench(options, server, one, "--connections", 1, "--seconds", options.seconds / 8, "--warmup-seconds", 0.3)["classes"]
            peak = bench(options, server, mix, "--connections", options.connections, "--seconds", options.seconds / 2, "--warmup-seconds", 0.5,
                         "--seed", options.seed)["total"]["requests_per_s"]
            rate = options.share * peak
            run = bench(options, server, mix, "--rate", f"{rate:.3f}", "--connections", options.connections, "--seconds", options.seconds,
                        "--warmup-seconds", 0.5, "--seed", options.seed)
        finally:
            server.stop()

    longest = max(row["kernel_us"] for row in alone.values())
    good, rows = not run["total"]["failed"] and run["unsent"] == 0, []
    for row in run["classes"]:
        solo = alone[row["class"]]["p50_us"]
        bound = 5 * solo + longest
        rows.append({"class": row["class"], "answered": row["answered"], "alone_p50_us": solo, "kernel_us": alone[row["class"]]["kernel_us"],
                     "p50_us": row["p50_us"], "p99_us": row["p99_us"], "bound_us": bound, "group": row["batch_size"]})
        good = good and row["p99_us"] <= bound
    if options.json:
        print(json.dumps({"door": options.door, "cpus": os.cpu_count(), "peak": peak, "rate": rate, "failed": run["total"]["failed"], "late_p99_us":
                          run["late_p99_us"], "rows": rows, "good": good}))
    else:
        print(f"{options.door}, peak {peak:.0f} requests/s, Poisson at {rate:.0f}/s for {options.seconds:g} s, sent late by p99 {run['late_p99_us']:.0f} us, "
              f"failed {run['total']['failed'] or 'none'}, unsent {run['unsent']}")
        print(f"{'class':8} {'answered':>8} {'alone p50':>10} {'kernel':>9} {'p50':>10} {'p99':>10} {'bound':>10}  p99/bound  group   (us)")
        for r in rows:
            print(f"{r['class']:8} {r['answered']:8} {r['alone_p50_us']:10.0f} {r['kernel_us']:9.0f} {r['p50_us']:10.0f} {r['p99_us']:10.0f} "
                  f"{r['bound_us']:10.0f} {r['p99_us'] / r['bound_us']:10.2f} {r['group']:6.1f}")
    return 0 if good else 1


sys.exit(main())
