#!/usr/bin/env python3
"""Upload on loopback: attnd with the null engine beside http_sink, a libmicrohttpd server that only copies the body.

    tests/bench/upload_bench.py --bin build/bin --bench build/bench
"""
import argparse
import tempfile
from pathlib import Path

import service_common as common


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--bench", required=True, help="folder with http_load and http_sink")
    parser.add_argument("--mib", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    bench = Path(options.bench)

    port = common.free_port()
    servers = {
        "attnd": common.attnd(options.bin, "--devices", "null"),
        "sink": common.Server([bench / "http_sink", "--port", port], port=port),
    }
    print(f"{'body':>8} {'connections':>11} {'attnd MB/s':>11} {'sink MB/s':>11}  ratio")
    try:
        with tempfile.TemporaryDirectory() as folder:
            for mib in options.mib:
                # One query and many keys: the body is large and the answer small.
                body = common.body_file(folder, "body", b=1, s_q=1, s_kv=mib * 1024, h_q=8, h_kv=2, d=128)
                for connections in (1, 4):
                    seen = {name: [] for name in servers}
                    for _ in range(options.rounds):
                        for name, server in servers.items():
                            seen[name].append(common.load(bench / "http_load", server, "/v1/attention", body, connections,
                                                          options.seconds)["upload_mb_s"])
                    ours, sink = common.median(seen["attnd"]), common.median(seen["sink"])
                    print(f"{mib:4} MiB {connections:11} {ours:11.0f} {sink:11.0f}  {ours / sink:.2f}", flush=True)
    finally:
        for server in servers.values():
            server.stop()


main()
