#!/usr/bin/env python3
"""Where one caller's time goes with negligible device work (1x64x64, 8/2 heads, d 128, fp16): attnd with and without
spinning threads and with the null engine, beside peers/torch_service.py and http_floor.c, which only swallows and sends
as many bytes; interleaved rounds, medians.

    tests/bench/service_latency.py --bin build/bin --load build/bench/http_load [--device cuda|cpu] [--python PYTHON]
                                   [--other BIN]   a second build of attnd, measured in the same rounds

"polls": the client looks for its answer without sleeping, so that waking its core is not measured. "inside" is the
median of total_us as the answers say it: from the scheduler's taking the request to its completion.
"""
import argparse
import http.client
import json
import os
import struct
import sys
import tempfile
from pathlib import Path

import service_common as common


def inside_us(server, body, count=200):
    """Medians of the answers' timings, over one connection."""
    conn = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    data = body.read_bytes()
    seen = []
    for _ in range(count):
        conn.request("POST", "/v1/attention", data, {"Content-Type": "application/safetensors"})
        answer = conn.getresponse().read()
        (n,) = struct.unpack_from("<Q", answer)
        seen.append(json.loads(answer[8 : 8 + n])["__metadata__"])
    conn.close()
    keys = ("queue_us", "copy_in_us", "kernel_us", "copy_out_us", "total_us")
    return {key: common.median([float(s[key]) for s in seen]) for key in keys}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True, help="folder with attnd and attn-worker")
    parser.add_argument("--other", help="the same of another build")
    parser.add_argument("--load", required=True, help="the http_load program")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch and aiohttp, for the peer")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.6, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    devices = ["--devices", "cpu" if options.device == "cpu" else "auto", "--arena-bytes", "512M"]
    null = ["--devices", "null", "--arena-bytes", "512M"]
    quiet = ["--http-spin-us", "1"]
    kinds = {
        "attnd": (options.bin, devices),
        "attnd, door sleeps": (options.bin, devices + quiet),
        "attnd, null engine": (options.bin, null),
        "attnd, null engine, door sleeps": (options.bin, null + quiet),
    }
    if options.other:
        kinds["other build"] = (options.other, devices)
        kinds["other build, null engine"] = (options.other, null)
    servers = {}
    try:
        for name, (folder, flags) in kinds.items():
            servers[name] = common.attnd(folder, *flags)
        floor = Path(options.load).with_name("http_floor")
        for flag in ("--spin",), ():
            port = common.free_port()
            name = "the loopback alone, " + ("spins" if flag else "sleeps")
            servers[name] = common.Server([floor, "--port", port, "--answer-bytes", 64 * 8 * 128 * 2 + 330, *flag], port=port)
        if not options.no_peer:
            servers["aiohttp+torch"] = common.torch_service(options.python, options.device)
        with tempfile.TemporaryDirectory() as folder:
            body = common.body_file(folder, "body", b=1, s_q=64, s_kv=64, h_q=8, h_kv=2, d=128)
            clients = {"sleeps": (1, ()), "polls": (1, ("--poll",)), "16": (16, ())}
            seen = {(name, client): [] for name in servers for client in clients}
            for _ in range(options.rounds):
                for name, server in servers.items():
                    for client, (callers, flags) in clients.items():
                        if callers > 1 and name.startswith("the loopback"):
                            continue  # it serves one connection at a time
                        seen[name, client].append(common.load(options.load, server, "/v1/attention", body, callers, options.seconds, 0.3, flags))
            inside = {name: inside_us(server, body) for name, server in servers.items() if name in kinds}
    finally:
        for server in servers.values():
            server.stop()

    def middle(name, client, key):
        return common.median([r[key] for r in seen[name, client]])

    print(f"device {options.device}, {os.cpu_count()} CPUs, one caller, p50 in us, median of {options.rounds} interleaved rounds of {options.seconds} s")
    print(f"{'server':32} {'client sleeps':>14} {'peer over it':>13} {'client polls':>13} {'peer over it':>13} {'16 callers/s':>13}  inside (queue, in, kernel, out; total)")
    for name in servers:
        line = f"{name:32}"
        for client, width in (("sleeps", 14), ("polls", 13)):
            p50 = middle(name, client, "p50_us")
            ratio = "" if options.no_peer else f"{middle('aiohttp+torch', client, 'p50_us') / p50:.2f}"
            line += f" {p50:{width}.1f} {ratio:>13}"
        line += f" {middle(name, '16', 'rps'):13.0f}" if seen[name, "16"] else " " * 14
        if name in inside:
            line += "  {queue_us:.0f}, {copy_in_us:.0f}, {kernel_us:.1f}, {copy_out_us:.0f}; {total_us:.0f}".format(**inside[name])
        print(line)


main()
