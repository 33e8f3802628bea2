#!/usr/bin/env python3
"""Every door of the daemon on a GPU, from libattn's clients: the same bits through HTTP, messages, the ring, and device memory
of both kinds; loads over each; a worker that is killed under device memory; PyTorch tensors in place.

    local_client.py BINARIES INPUT.safetensors [--lib libattn.so.0] [--devices auto] [--seconds 3]

Standard library only; the PyTorch part needs torch and is skipped without it. With --devices cpu what needs no GPU runs.
Exits with 1 when something is wrong, with 77 where there is no GPU."""
import argparse
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "bench"))
import service_common as common  # noqa: E402

failures = []


def check(ok, sentence):
    if not ok:
        failures.append(sentence)
        print("FAILED:", sentence, flush=True)
    return ok


def tensors(path):
    body = path.read_bytes()
    (n,) = struct.unpack_from("<Q", body)
    return body[8 + n :]  # O and LSE; the head says how long it took


def children(pid):
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(entry.name))
        except (OSError, IndexError):
            pass
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("--lib", type=Path, help="libattn.so.0 for the PyTorch part (default: beside the binaries)")
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--seconds", type=float, default=3, help="of each load")
    options = parser.parse_args()
    gpu = options.devices != "cpu"
    if gpu and not Path("/dev/nvidiactl").exists():
        print("skipped: there is no GPU here; --devices cpu runs what needs none")
        return 77
    ctl = str(options.bin / "attnctl")
    local_doors = ["socket", "ring"] + (["cuda", "cuda-ipc"] if gpu else [])

    with tempfile.TemporaryDirectory() as folder:
        sock = Path(folder) / "sock"
        server = common.attnd(options.bin, "--devices", options.devices, "--socket", sock)
        url = f"http://127.0.0.1:{server.port}"
        place = {door: ["--socket", sock] for door in local_doors}
        place["http"] = ["--server", url]
        try:
            outputs = {}
            for door in ["http", *local_doors]:
                for name, extra in (("plain", []), ("causal with LSE", ["--causal", "--return-lse"]), ("softcap", ["--softcap", "15"])):
                    out = Path(folder) / "o"
                    done = subprocess.run([ctl, "run", options.input, *place[door], "--door", door, "--output", out, *extra], capture_output=True,
                                          text=True, timeout=60)
                    if check(done.returncode == 0, f"run over {door}, {name}: {done.stderr.strip()}"):
                        outputs[door, name] = tensors(out)
                        check(outputs[door, name] == outputs["http", name], f"{door} gives other bits than HTTP, {name}")

            print(f"{'door':9} {'shape':24} {'depth':>5} {'answered':>8} {'p50 us':>9} {'p99 us':>9} {'requests/s':>10} {'kernel us':>9}")
            shapes = [("1,64,64,8/2,128", 1), ("1,64,64,8/2,128", 16), ("1,4096,4096,32/8,128" if gpu else "1,256,256,4/2,64", 1),
                      ("1,4096,4096,32/8,128" if gpu else "1,256,256,4/2,64", 4)]
            for shape, depth in shapes:
                for door in ["http", *local_doors]:
                    if door == "http" and depth > 1:
                        continue
                    done = subprocess.run([ctl, "bench", *place[door], "--door", door, "--shape", shape, "--dtype", "fp16", "--seconds", str(options.seconds),
                                           "--warmup-seconds", "0.5", "--depth", str(depth), "--json"], capture_output=True, text=True, timeout=90)
                    if not check(done.returncode == 0, f"load over {door}: {done.stdout}{done.stderr}"):
                        continue
                    total = json.loads(done.stdout)["runs"][0]["total"]
                    check(total["failed"] == {}, f"load over {door}: {total['failed']}")
                    print(f"{door:9} {shape:24} {depth:5} {total['answered']:8} {total['p50_us']:9.1f} {total['p99_us']:9.1f} "
                          f"{total['requests_per_s']:10.0f} {total['kernel_us']:9.1f}", flush=True)

            for door in local_doors[1:]:  # regions are mapped, or imported, again by the next worker
                load = subprocess.Popen([ctl, "bench", "--socket", sock, "--door", door, "--shape", "1,64,64,8/2,128", "--dtype", "fp16", "--seconds", "4",
                                         "--warmup-seconds", "0", "--depth", "4", "--verify", "--json"], stdout=subprocess.PIPE, text=True)
                time.sleep(1)
                for pid in children(server.process.pid):
                    os.kill(pid, signal.SIGKILL)
                total = json.loads(load.communicate(timeout=90)[0])["runs"][0]["total"]
                check(total["failed"] == {} and total["answered"] > 100, f"a killed worker under a load over {door}: {total}")
                print(f"a killed worker under {door}: {total['answered']} answered, failed {total['failed'] or 'none'}, worst {total['max_us'] / 1e3:.0f} ms")

            library = options.lib or next((p for p in (options.bin.parent / "lib").rglob("libattn.so.0")), None)
            if subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode != 0 or library is None:
                print("skipped: PyTorch tensors, because", "there is no libattn.so.0" if library is None else "torch is not installed")
            else:
                for flags in ([], ["--cuda"], ["--cuda", "--events"]) if gpu else ([],):
                    done = subprocess.run([sys.executable, HERE.parents[1] / "client/examples/attention.py", f"unix:{sock}", "--lib", library, *flags],
                                          capture_output=True, text=True, timeout=120)
                    check(done.returncode == 0, f"attention.py {flags}: {done.stdout}{done.stderr}")
                    print("PyTorch", *flags, done.stdout.strip(), flush=True)
        finally:
            check(server.stop() == 0, "attnd ended badly")
    print("FAILED" if failures else "passed")
    return 1 if failures else 0


sys.exit(main())
