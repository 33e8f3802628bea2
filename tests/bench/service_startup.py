#!/usr/bin/env python3
"""How long attnd takes from exec to ready, and what it costs while it idles.

    tests/bench/service_startup.py --bin build/bin [--devices cpu|auto] [--starts 7] [--idle 10]
"""
import argparse
import time

import service_common as common


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--devices", default="cpu")
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--idle", type=float, default=10)
    options = parser.parse_args()

    times = []
    for i in range(options.starts):
        server = common.attnd(options.bin, "--devices", options.devices)
        times.append(server.ready_s * 1e3)
        if i + 1 < options.starts:
            server.stop()
    time.sleep(2)
    before = common.tree_cpu_seconds(server.process.pid)
    time.sleep(options.idle)
    used = common.tree_cpu_seconds(server.process.pid) - before
    status = server.stop()
    print(f"devices {options.devices}: ready after {common.median(times):.0f} ms (median of {len(times)}; {min(times):.0f} to {max(times):.0f}); "
          f"idle {100 * used / options.idle:.2f} % of a core over {options.idle:.0f} s; exit status {status}")


main()
