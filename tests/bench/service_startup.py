#!/usr/bin/env python3
"""How long attnd takes from exec to ready, what it costs until its background work (pinning the arena on a GPU) has
ended, and what it costs while it idles.

    tests/bench/service_startup.py --bin build/bin [--devices cpu|auto] [--starts 7] [--idle 10]
"""
import argparse
import time

import service_common as common


STEP = 0.5
QUIET = 0.01  # of a core: what counts as having ended


def settle(pid, limit):
    """Waits until two steps in a row were quiet; returns seconds until then and CPU seconds spent, or None."""
    began, first = time.monotonic(), common.tree_cpu_seconds(pid)
    quiet, last = 0, first
    while time.monotonic() - began < limit:
        time.sleep(STEP)
        now = common.tree_cpu_seconds(pid)
        quiet = quiet + 1 if now - last <= max(QUIET * STEP, 0.011) else 0  # a clock tick is 10 ms
        last = now
        if quiet == 2:
            return time.monotonic() - began - 2 * STEP, now - first
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--devices", default="cpu")
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--idle", type=float, default=10)
    parser.add_argument("--settle", type=float, default=60, help="how long the work after the start may take at most")
    options = parser.parse_args()

    times = []
    for i in range(options.starts):
        server = common.attnd(options.bin, "--devices", options.devices)
        times.append(server.ready_s * 1e3)
        if i + 1 < options.starts:
            server.stop()
    settled = settle(server.process.pid, options.settle)
    if settled is None:
        server.stop()
        raise SystemExit(f"not idle {options.settle:.0f} s after the start")
    before = common.tree_cpu_seconds(server.process.pid)
    time.sleep(options.idle)
    used = common.tree_cpu_seconds(server.process.pid) - before
    status = server.stop()
    print(f"devices {options.devices}: ready after {common.median(times):.0f} ms (median of {len(times)}; {min(times):.0f} to {max(times):.0f}); "
          f"background work for {settled[0]:.1f} s, {100 * settled[1] / max(settled[0], STEP):.0f} % of a core; then "
          f"idle {100 * used / options.idle:.2f} % of a core over {options.idle:.0f} s; exit status {status}")


main()
