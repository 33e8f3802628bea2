#!/usr/bin/env python3
"""Many callers at once: attnd beside a service as people write it (peers/torch_service.py), what batching costs one
caller, a Poisson mix of lengths, a flood beside a victim. Each part is one table; "bar" is what is aimed at on an H100.

    tests/bench/batch_bench.py --tree build-portable/attnd-portable --device cuda [--python PYTHON] [--only PART,...]
    tests/bench/batch_bench.py --bin build/bin --load build/bench/http_load --device cpu --no-peer     (a dry run)

Parts: tiny (64 closed-loop callers over HTTP, with launches per request), one (one caller, batching on and off),
poisson (lengths 64 to 8192 at 70 % of the peak, over the ring of the Unix socket), flood (batch_flood.py).
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import batch_flood
import service_common as common

TINY = dict(b=1, s_q=64, s_kv=64, h_q=8, h_kv=2, d=128)


def bar(holds):
    return "met" if holds else "MISSED"


class Bench:
    def __init__(self, options):
        self.options = options
        self.folder = tempfile.mkdtemp(prefix="attnd-batch-")
        self.devices = ["--devices", "cpu" if options.device == "cpu" else options.devices]

    def attnd(self, *flags):
        return common.attnd(self.options.bin, *self.devices, *flags)

    def load(self, server, body, callers, seconds=None, warmup=0.5):
        return common.load(self.options.load, server, "/v1/attention", body, callers, seconds or self.options.seconds, warmup)

    # ---- 64 callers ----

    def tiny(self):
        body = common.body_file(self.folder, "tiny", **TINY)
        kinds = {"attnd": []}
        kinds |= {f"attnd, delay {us} us": ["--max-queue-delay-us", str(us)] for us in (100, 300, 500)}
        kinds["attnd, no batching"] = ["--max-group-requests", "1"]
        servers = {name: self.attnd(*flags) for name, flags in kinds.items()}
        if not self.options.no_peer:
            servers["aiohttp+torch"] = common.torch_service(self.options.python, self.options.device)
        seen = {name: [] for name in servers}
        launches = {name: [] for name in kinds}
        try:
            for i in range(max(3, self.options.rounds)):
                # Each round begins with another server: whoever is first after a pause may come out slower.
                names = list(servers)
                for name in names[i % len(names):] + names[:i % len(names)]:
                    before = common.metrics(servers[name]) if name in kinds else {}
                    seen[name].append(self.load(servers[name], body, 64))
                    if name in kinds:
                        after = common.metrics(servers[name])
                        requests, done = (after[f"attnd_device_{what}_total"] - before.get(f"attnd_device_{what}_total", 0)
                                          for what in ("requests", "launches"))
                        launches[name].append(done / requests)
        finally:
            for server in servers.values():
                server.stop()
        print("\n64 closed-loop callers, tiny (1,64,64,8/2,128) fp16, HTTP; medians of interleaved rounds")
        peer = common.median([r["rps"] for r in seen["aiohttp+torch"]]) if not self.options.no_peer else None
        for name, rounds in seen.items():
            rps = common.median([r["rps"] for r in rounds])
            each = common.median(launches[name]) if name in kinds else None
            note = f"  launches per request {each:.3f} ({bar(each <= 1 / 8)} 1/8)" if name in kinds else ""
            note += f"  x {rps / peer:.1f} of the peer ({bar(rps >= 10 * peer)} 10)" if peer and name in kinds else ""
            print(f"  {name:22} {rps:9.0f} requests/s  p50 {common.median([r['p50_us'] for r in rounds]):8.0f} us  "
                  f"p99 {common.median([r['p99_us'] for r in rounds]):8.0f} us{note}")

    # ---- one caller ----

    def one(self):
        body = common.body_file(self.folder, "tiny", **TINY)
        kinds = {"as it is": [], "delay 300 us": ["--max-queue-delay-us", "300"], "no batching, one in flight":
                 ["--max-group-requests", "1", "--pipeline-depth", "1"]}
        servers = {name: self.attnd(*flags) for name, flags in kinds.items()}
        seen = {name: [] for name in servers}
        try:
            for _ in range(2 * self.options.rounds + 1):
                for name, server in servers.items():
                    seen[name].append(self.load(server, body, 1, 0.5, 0.2)["p50_us"])
        finally:
            for server in servers.values():
                server.stop()
        print("\none caller, tiny, HTTP: p50 of interleaved rounds")
        for name, p50 in seen.items():
            print(f"  {name:28} median {common.median(p50):7.1f} us  (rounds {min(p50):.1f} to {max(p50):.1f})")

    # ---- a Poisson mix ----

    def ctl(self, socket, *flags, timeout=120):
        done = subprocess.run([str(Path(self.options.bin) / "attnctl"), "bench", "--socket", socket, "--json", *map(str, flags)],
                              capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            raise SystemExit(f"attnctl bench failed: {done.stdout[-500:]}{done.stderr[-500:]}")
        return json.loads(done.stdout)["runs"]

    def poisson(self):
        lengths = (64, 128, 256, 512) if self.options.device == "cpu" else (64, 256, 1024, 2048, 4096, 8192)
        mix = Path(self.folder) / "mix"
        lines = [f"s{s} weight={max(1, 8192 // s)} shape=1,{s},{s},32/8,128 dtype=bf16 causal=true" for s in lengths]
        mix.write_text("\n".join(lines) + "\n")
        socket = str(Path(self.folder) / "sock")
        server = self.attnd("--socket", socket)
        try:
            solo, kernel = {}, {}
            for s, line in zip(lengths, lines):
                single = Path(self.folder) / f"solo{s}"
                single.write_text(line + "\n")
                total = self.ctl(socket, single, "--door", "ring", "--seconds", 0.7, "--warmup-seconds", 0.3)[0]["total"]
                solo[f"s{s}"], kernel[f"s{s}"] = total["p50_us"], total["kernel_us"]
            peak = self.ctl(socket, mix, "--door", "ring", "--connections", 4, "--depth", 8, "--seconds", 2)[0]["total"]["requests_per_s"]
            # 15 s are about 800 of the rarest, so that their p99 is one. Again, to tell what only happens at first from what goes on.
            run, again = [self.ctl(socket, mix, "--door", "ring", "--connections", 4, "--depth", 64, "--rate", round(0.7 * peak, 1), "--seconds", 15)[0]
                          for _ in range(2)]
            moved, unpinned = batch_flood.links(server)
        finally:
            server.stop()
        longest = max(kernel.values())
        print(f"\nPoisson mix of lengths over the ring at {0.7 * peak:.0f} requests/s, 70 % of the peak; longest kernel {longest:.0f} us; "
              f"merged {run['total']['batch_size']:.1f} on average; failed {run['total']['failed']}; {100 * unpinned / moved if moved else 0:.0f} % of link bytes not pinned")
        for row, row_again in zip(run["classes"], again["classes"]):
            name = row["class"]
            most = 5 * solo[name] + longest
            print(f"  {name:6} {row['answered']:6} answers  solo p50 {solo[name]:8.0f} us  p50 {row['p50_us']:8.0f}  p99 {row['p99_us']:8.0f} us, "
                  f"at most {most:.0f}: {bar(row['p99_us'] <= most)}  (the next 15 s: p99 {row_again['p99_us']:.0f})")

    # ---- a flood ----

    def flood(self):
        batch_flood.run(self.options.load, self.folder, self.options.device, self.attnd)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tree", help="a portable tree (deploy/portable.sh)")
    parser.add_argument("--bin", help="folder with attnd, attn-worker and attnctl")
    parser.add_argument("--load", help="the http_load program")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch and aiohttp, for the peer")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--devices", default="0", help="of attnd on a GPU machine")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="tiny,one,poisson,flood")
    options = parser.parse_args()
    options.bin = options.bin or os.path.join(options.tree or parser.error("--tree or --bin"), "bin")
    options.load = options.load or os.path.join(options.tree or parser.error("--tree or --load"), "bench", "http_load")
    bench = Bench(options)
    for part in options.only.split(","):
        getattr(bench, part)()


main()
