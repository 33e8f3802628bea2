#!/usr/bin/env python3
"""Times `unified` and its peers on the same tensors, interleaved, in one process.

Usage: kernel_peers.py --library libunified.so [--fa3 libfa3peer.so] [--rows REGEX] [--dtype bf16|fp16|both]
                       [--rounds 5] [--no-cudnn] [--csv FILE] [--odd | --shares]

Peers are cuDNN through PyTorch's SDPA and, when a shared object for it is given, FlashAttention-3. Every kernel is
captured in a CUDA graph of several launches; rounds interleave the kernels; the table shows the median, warm.
Needs PyTorch and a Hopper GPU. TFLOP/s count 4*B*h_q*D*(unmasked pairs), half of s^2 for square causal.
"""
import argparse
import ctypes as C
import math
import re
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


class View(C.Structure):
    _fields_ = [("data", C.c_void_p), ("stride_b", C.c_int64), ("stride_s", C.c_int64), ("stride_h", C.c_int64)]


class Problem(C.Structure):
    _fields_ = [("batch", C.c_uint32), ("h_q", C.c_uint32), ("h_kv", C.c_uint32), ("d", C.c_uint32),
                ("s_q", C.c_int64), ("s_kv", C.c_int64), ("q", View), ("k", View), ("v", View), ("o", View),
                ("lse", C.c_void_p), ("lse_stride_b", C.c_int64), ("lse_stride_h", C.c_int64),
                ("sm_scale", C.c_float), ("softcap", C.c_float)]


class Group(C.Structure):
    _fields_ = [("dtype", C.c_int), ("causal", C.c_bool), ("softcap", C.c_bool), ("count", C.c_uint32),
                ("problems", C.POINTER(Problem))]


class Device(C.Structure):
    _fields_ = [("kind", C.c_int), ("arch", C.c_int), ("units", C.c_int), ("memory_bytes", C.c_uint64),
                ("l2_bytes", C.c_uint64), ("name", C.c_char * 96), ("uuid", C.c_char * 48)]


class Exec(C.Structure):
    _fields_ = [("device", C.POINTER(Device)), ("stream", C.c_void_p), ("workspace", C.c_void_p),
                ("workspace_bytes", C.c_size_t), ("host_workspace", C.c_void_p), ("host_workspace_bytes", C.c_size_t),
                ("early", C.c_bool), ("checkpoint", C.c_void_p), ("checkpoint_arg", C.c_void_p)]


class Error(C.Structure):
    _fields_ = [("status", C.c_int), ("message", C.c_char * 512)]


LAUNCH = C.CFUNCTYPE(C.c_int, C.POINTER(Group), C.POINTER(Exec), C.POINTER(Error))


class Variant(C.Structure):
    _fields_ = [("info", C.c_void_p), ("workspace", C.c_void_p), ("launch", LAUNCH)]


class Unified:
    def __init__(self, path):
        self.variant = Variant.in_dll(C.CDLL(path), "attn_variant_unified")
        self.device = Device(kind=2, arch=90, units=torch.cuda.get_device_properties(0).multi_processor_count)
        self.workspace = torch.zeros(1 << 20, dtype=torch.uint8, device="cuda")
        self.staging = torch.zeros(1 << 20, dtype=torch.uint8).pin_memory()

    def problem(self, q, k, v, o, scale, cap, lse=None):
        def view(t):
            return View(t.data_ptr(), t.stride(0), t.stride(1), t.stride(2))
        b, s_q, h_q, d = q.shape
        return Problem(b, h_q, k.shape[2], d, s_q, k.shape[1], view(q), view(k), view(v), view(o),
                       lse.data_ptr() if lse is not None else None, h_q * s_q, s_q, scale, cap)

    def launch(self, problems, dtype, causal, cap):
        array = (Problem * len(problems))(*problems)
        group = Group(1 if dtype == torch.float16 else 2, causal, cap > 0, len(problems), array)
        run = Exec(C.pointer(self.device), torch.cuda.current_stream().cuda_stream, self.workspace.data_ptr(),
                   self.workspace.numel(), self.staging.data_ptr(), self.staging.numel(), False, None,
                   None)
        err = Error()
        status = self.variant.launch(C.byref(group), C.byref(run), C.byref(err))
        if status != 0:
            raise RuntimeError(err.message.decode())


def rows():
    """(name, batch, s_q, s_kv, h_q, h_kv, d, causal, softcap, scale)"""
    out = []
    for d, heads in ((128, 16), (64, 32), (256, 8)):
        for s in (512, 1024, 2048, 4096, 8192, 16384):
            for causal in (True, False):
                out.append((f"mha{d} {'c' if causal else 'n'} B{16384 // s} S{s} H{heads}", 16384 // s, s, s, heads,
                            heads, d, causal, 0.0, 0.0))
    for b, s_q, s_kv, h_q, h_kv in ((4, 512, 512, 32, 8), (1, 1024, 1024, 32, 8), (1, 4096, 4096, 32, 8),
                                    (1, 8192, 8192, 32, 8), (1, 32768, 32768, 32, 8), (1, 4096, 4096, 64, 8),
                                    (1, 4096, 4096, 128, 8), (2, 512, 4096, 32, 8), (1, 512, 4096, 32, 8),
                                    (1, 512, 4096, 64, 8), (1, 2048, 32768, 32, 8)):
        s = f"S{s_q}" if s_q == s_kv else f"{s_q}x{s_kv}"
        out.append((f"gqa128 c B{b} {s} H{h_q}/{h_kv}", b, s_q, s_kv, h_q, h_kv, 128, True, 0.0, 0.0))
    for b, s_q, s_kv in ((1, 4096, 4096), (2, 512, 4096)):
        s = f"S{s_q}" if s_q == s_kv else f"{s_q}x{s_kv}"
        out.append((f"cap30 c B{b} {s} H32/8", b, s_q, s_kv, 32, 8, 128, True, 30.0, 0.1))
    for d, heads in ((96, 16), (192, 16)):
        for causal in (True, False):
            out.append((f"mha{d} {'c' if causal else 'n'} B4 S4096 H{heads}", 4, 4096, 4096, heads, heads, d, causal,
                        0.0, 0.0))
    # The (32, 512) rows of the D = 128 table.
    for causal in (True, False):
        out.append((f"mha128 {'c' if causal else 'n'} B32 S512 H16", 32, 512, 512, 16, 16, 128, causal, 0.0, 0.0))
    seen = set()
    return [r for r in out if not (r[0] in seen or seen.add(r[0]))]


def odd_rows():
    """Like rows(): lengths that are no multiples of a tile."""
    out = []
    for b, s_q, s_kv, h_q, h_kv, d in ((96, 180, 180, 32, 8, 128), (16, 799, 799, 32, 8, 128),
                                       (1, 2100, 2100, 32, 8, 128), (4, 300, 3001, 32, 8, 128),
                                       (1, 5000, 5000, 64, 8, 128), (64, 100, 100, 16, 16, 128),
                                       (8, 1500, 1500, 16, 16, 128), (16, 1000, 1000, 32, 8, 64),
                                       (16, 1000, 1000, 8, 8, 256)):
        for causal in (True, False):
            out.append((f"odd{d} {'c' if causal else 'n'} B{b} {s_q}x{s_kv} H{h_q}/{h_kv}", b, s_q, s_kv, h_q, h_kv, d,
                        causal, 0.0, 0.0))
    return out


def pairs(s_q, s_kv, causal):
    if not causal:
        return s_q * s_kv
    if s_q == s_kv:
        return s_q * s_kv / 2
    return s_q * s_kv - s_q * (s_q - 1) / 2


def capture(run, repeats):
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            run()
    return graph


def time_us(graph, repeats):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000 / repeats


def shares(unified, rounds):
    """What D = 96 and 192 take of the time that their tensor work takes at D = 128's rate: in turns, because the clock of a
    row depends on those before it."""
    for dtype in (torch.bfloat16, torch.float16):
        for causal in (True, False):
            graphs = {}
            for d in (128, 96, 192):
                tensors = [torch.randn(4, 4096, 16, d, device="cuda", dtype=dtype) for _ in range(4)]
                problem = unified.problem(*tensors, 1 / math.sqrt(d), 0.0)
                graphs[d] = capture(lambda p=problem: unified.launch([p], dtype, causal, 0.0), 4), tensors
            times = {d: [] for d in graphs}
            for _ in range(rounds):
                for d, (graph, _) in graphs.items():
                    times[d].append(time_us(graph, 4))
            median = {d: statistics.median(t) for d, t in times.items()}
            label = f"{'bf16' if dtype == torch.bfloat16 else 'fp16'} {'causal' if causal else 'full'}"
            print(f"B4 S4096 H16 {label}: " + ", ".join(
                f"D = {d} {us:.1f} us" + ("" if d == 128 else f", {us / median[128] * 128 / d:.3f} of its share")
                for d, us in median.items()), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", action="append", required=True, help="NAME=PATH or PATH; may be repeated")
    parser.add_argument("--fa3")
    parser.add_argument("--rows", default="")
    parser.add_argument("--dtype", default="both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-cudnn", action="store_true")
    parser.add_argument("--csv")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--odd", action="store_true", help="lengths that are no multiples of a tile instead")
    instead.add_argument("--shares", action="store_true", help="only D = 96 and 192 beside D = 128, in turns")
    args = parser.parse_args()
    ours = []
    for item in args.library:
        name, _, path = item.rpartition("=")
        ours.append((name or "unified", Unified(path)))
    if args.shares:
        for name, unified in ours:
            print(f"# {name}, {torch.cuda.get_device_name(0)}")
            shares(unified, 4 * args.rounds)
        return
    fa3 = None
    if args.fa3:
        fa3 = C.CDLL(args.fa3)
    csv = open(args.csv, "w") if args.csv else None
    print(f"# {torch.cuda.get_device_name(0)}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    geo = {}
    for name, b, s_q, s_kv, h_q, h_kv, d, causal, cap, scale in odd_rows() if args.odd else rows():
        if not re.search(args.rows, name):
            continue
        for dtype in (torch.bfloat16, torch.float16):
            label = "bf16" if dtype == torch.bfloat16 else "fp16"
            if args.dtype not in ("both", label):
                continue
            torch.manual_seed(1)
            q = torch.randn(b, s_q, h_q, d, device="cuda", dtype=dtype)
            k = torch.randn(b, s_kv, h_kv, d, device="cuda", dtype=dtype)
            v = torch.randn(b, s_kv, h_kv, d, device="cuda", dtype=dtype)
            sm = scale or 1 / math.sqrt(d)
            flops = 4.0 * b * h_q * d * pairs(s_q, s_kv, causal)
            estimate_us = flops / 500e6 + 5
            repeats = max(1, min(20, int(2000 / estimate_us)))
            graphs, outputs = {}, {}
            for variant_name, unified in ours:
                o = torch.empty_like(q)
                problem = unified.problem(q, k, v, o, sm, cap)
                graphs[variant_name] = capture(lambda: unified.launch([problem], dtype, causal, cap), repeats)
                outputs[variant_name] = o
            if not args.no_cudnn and cap == 0 and (not causal or s_q == s_kv):
                qt, kt, vt = (x.transpose(1, 2) for x in (q, k, v))

                def cudnn():
                    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                        return F.scaled_dot_product_attention(qt, kt, vt, is_causal=causal, scale=sm,
                                                              enable_gqa=h_q != h_kv)
                try:
                    outputs["cudnn"] = cudnn().transpose(1, 2)
                    graphs["cudnn"] = capture(cudnn, repeats)
                except RuntimeError as e:
                    print("# cudnn:", str(e).split("\n")[0])
            for pack in (0, 1) if fa3 is not None else ():
                label_fa3 = "fa3pack" if pack else "fa3"
                built = f"fa3_has_{d}_{label}" + ("_softcap" if cap else "") + ("_packgqa" if pack else "")
                if (pack and h_q == h_kv) or not hasattr(fa3, built) or not getattr(fa3, built)():
                    continue
                o = torch.empty_like(q)
                lse = torch.empty(b, h_q, s_q, device="cuda", dtype=torch.float32)
                semaphore = torch.zeros(64, device="cuda", dtype=torch.int32)

                def run_fa3(pack=pack, o=o, lse=lse, semaphore=semaphore):
                    if causal:
                        semaphore.zero_()  # as its own interface does before each launch
                    rc = fa3.fa3_forward(C.c_void_p(q.data_ptr()), C.c_void_p(k.data_ptr()), C.c_void_p(v.data_ptr()),
                                         C.c_void_p(o.data_ptr()), C.c_void_p(lse.data_ptr()),
                                         C.c_void_p(semaphore.data_ptr()), b, s_q, s_kv, h_q, h_kv, d,
                                         C.c_float(sm), C.c_float(cap), int(causal), int(dtype == torch.bfloat16), pack,
                                         C.c_void_p(torch.cuda.current_stream().cuda_stream))
                    if rc != 0:
                        raise RuntimeError(f"FA3 answers {rc}")
                run_fa3()
                outputs[label_fa3] = o
                graphs[label_fa3] = capture(run_fa3, repeats)
            for graph in graphs.values():
                graph.replay()
            torch.cuda.synchronize()
            times = {n: [] for n in graphs}
            for _ in range(args.rounds):
                for n, graph in graphs.items():
                    times[n].append(time_us(graph, repeats))
            median = {n: statistics.median(t) for n, t in times.items()}
            first = ours[0][0]
            check = ""
            for n, o in outputs.items():
                if n != first:
                    worst = (o.float() - outputs[first].float()).abs().max().item()
                    if not worst < 0.05:
                        check += f" {n} differs by {worst:.3g}!"
            peers = [t for n, t in median.items() if n not in dict(ours)]
            ratio = min(peers) / median[first] if peers else float("nan")
            if peers:
                key = "cap" if cap else f"D{d}"
                geo.setdefault(key, []).append(ratio)
            print(f"{name:32s} {label} " + " ".join(f"{n} {t:8.1f} ({flops / t / 1e6:3.0f})" for n, t in median.items()) +
                  f"  x{ratio:.3f}{check}", flush=True)
            if csv:
                csv.write(f"{name},{label}," + ",".join(f"{n},{t:.2f},{flops / t / 1e6:.1f}" for n, t in median.items()) +
                          f",{ratio:.3f}\n")
    for key, ratios in geo.items():
        print(f"# {key}: geometric mean of best peer / ours {math.exp(sum(map(math.log, ratios)) / len(ratios)):.3f}, "
              f"worst {min(ratios):.3f}, {len(ratios)} rows")


if __name__ == "__main__":
    sys.exit(main())
