#!/usr/bin/env python3
"""`cpu` beside PyTorch's CPU scaled_dot_product_attention: same tensors, same number of threads, rounds interleaved,
medians; the ratio is PyTorch's time over ours, so above 1 is faster than PyTorch. Needs PyTorch.

    tests/bench/cpu_sdpa.py --bench build/bench [--threads 2] [--rounds 15] [--isa avx512|avx2|base]
"""
import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch

# (s_q, s_kv, h_q, h_kv, d), causal, dtype
SHAPES = [(1024, 1024, 32, 8, 64), (2048, 2048, 16, 16, 128)]
DTYPES = {"fp32": (3, torch.float32), "bf16": (2, torch.bfloat16), "fp16": (1, torch.float16)}


class Ours:
    """The bench program; each call is one launch in milliseconds."""

    def __init__(self, program, folder, *args):
        self.process = subprocess.Popen([program, folder, *map(str, args)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def __call__(self):
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"cpu_sdpa ended with {self.process.wait()}")
        return float(answer) / 1000

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def peer(q, k, v):
    start = time.perf_counter()
    o = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    return (time.perf_counter() - start) * 1000, o


def compare(options, name, shape):
    s_q, s_kv, h_q, h_kv, d = shape
    number, dtype = DTYPES[name]
    torch.manual_seed(1)
    # bhsd, which is PyTorch's own layout.
    q, k, v = (torch.randn(1, h, s, d).to(dtype) for h, s in ((h_q, s_q), (h_kv, s_kv), (h_kv, s_kv)))
    with tempfile.TemporaryDirectory() as folder:
        for label, tensor in (("q", q), ("k", k), ("v", v)):
            Path(folder, label).write_bytes(tensor.view(torch.uint8).numpy().tobytes())
        isa = [options.isa] if options.isa else []
        ours = Ours(Path(options.bench, "cpu_sdpa"), folder, number, 2, s_q, s_kv, h_q, h_kv, d, 1, options.threads,
                    *isa)
        ours()
        _, expected = peer(q, k, v)
        answer = torch.frombuffer(bytearray(Path(folder, "o").read_bytes()), dtype=dtype).view(1, h_q, s_q, d)
        difference = (answer.double() - expected.double()).abs().max().item()
        if difference > {"fp32": 1e-5, "bf16": 4e-2, "fp16": 5e-3}[name]:
            raise SystemExit(f"{name} {shape}: the answers differ by {difference}")
        mine, theirs = [], []
        for _ in range(options.rounds):
            mine.append(ours())
            theirs.append(peer(q, k, v)[0])
            time.sleep(0.02)  # PyTorch's threads spin for a while after their work
        ours.close()
    a, b = statistics.median(mine), statistics.median(theirs)
    flops = 4 * h_q * d * s_q * (s_q + 1) / 2
    print(f"{name:>5}  (1,{s_q},{s_kv},{h_q}/{h_kv},{d}) causal  {a:9.2f} {flops / a / 1e6:8.1f}  {b:9.2f} "
          f"{flops / b / 1e6:8.1f}  {b / a:6.2f}  {difference:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="folder with cpu_sdpa")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--isa")
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=list(DTYPES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"PyTorch {torch.__version__}, {options.threads} threads, median of {options.rounds} interleaved rounds")
    print(f"{'':>39}  {'cpu ms':>9} {'GFLOP/s':>8}  {'torch ms':>9} {'GFLOP/s':>8}  {'ratio':>6}  difference")
    for name in options.dtypes:
        for shape in SHAPES:
            compare(options, name, shape)


if __name__ == "__main__":
    main()
