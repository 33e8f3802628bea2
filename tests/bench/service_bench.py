#!/usr/bin/env python3
"""attnd beside a service as people write it (peers/torch_service.py), with device work that is negligible: the same
client, the same bodies, interleaved rounds, medians.

    tests/bench/service_bench.py --bin build/bin --load build/bench/http_load [--device cuda|cpu] [--python PYTHON]
"""
import argparse
import json
import os
import sys
import tempfile

import service_common as common

SHAPES = {
    "tiny 1x64x64 8/2 d128": dict(b=1, s_q=64, s_kv=64, h_q=8, h_kv=2, d=128),
    "1x1024x1024 32/8 d128": dict(b=1, s_q=1024, s_kv=1024, h_q=32, h_kv=8, d=128),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True, help="folder with attnd and attn-worker")
    parser.add_argument("--load", required=True, help="the http_load program")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch and aiohttp, for the peer")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", type=int, default=1, help="how many of the shapes; the first is the tiny one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    results = []
    with tempfile.TemporaryDirectory() as folder:
        servers = {
            "attnd": common.attnd(options.bin, "--devices", "cpu" if options.device == "cpu" else "auto"),
            "aiohttp+torch": common.torch_service(options.python, options.device),
        }
        try:
            for shape, extents in list(SHAPES.items())[: options.shapes]:
                body = common.body_file(folder, "body", **extents)
                for callers in (1, 16):
                    seen = {name: [] for name in servers}
                    for _ in range(options.rounds):
                        for name, server in servers.items():
                            seen[name].append(common.load(options.load, server, "/v1/attention", body, callers, options.seconds))
                    for name, rounds in seen.items():
                        row = {"shape": shape, "callers": callers, "server": name}
                        for key in ("p50_us", "p99_us", "rps"):
                            row[key] = common.median([r[key] for r in rounds])
                        results.append(row)
        finally:
            for server in servers.values():
                server.stop()

    if options.json:
        print(json.dumps({"device": options.device, "cpus": os.cpu_count(), "results": results}))
        return
    print(f"device {options.device}, {os.cpu_count()} CPUs, median of {options.rounds} interleaved rounds of {options.seconds} s")
    print(f"{'shape':24} {'callers':>7} {'server':14} {'p50 us':>10} {'p99 us':>10} {'requests/s':>11}  beside the peer")
    for row, peer in zip(results[::2], results[1::2]):
        note = f"p50 1/{peer['p50_us'] / row['p50_us']:.1f}, requests/s x {row['rps'] / peer['rps']:.1f}"
        for r, text in ((row, note), (peer, "")):
            print(f"{r['shape']:24} {r['callers']:7} {r['server']:14} {r['p50_us']:10.0f} {r['p99_us']:10.0f} {r['rps']:11.0f}  {text}")


main()
