#!/usr/bin/env python3
"""Checks what a compiler does not: includes point the way the data flows and never back, files stay readable, and C is
formatted. Prints every offence as file:line and exits 1 when there is one.

    tests/check_source.py [--format]     --format: also run clang-format (of PATH) over the C files
"""
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINES_MAX = 600

# The server's parts in the order in which each may use only those before it (server/CMakeLists.txt builds them so).
SERVER = ["base", "config", "worker", "sched", "codec", "transport", "main"]
# Folders of kernels that hold code which runs kernels: only the worker may look inside.
KERNEL_PARTS = {p.name for p in (ROOT / "kernels").iterdir() if p.is_dir() and p.name != "include"}
TOP = ["CMakeLists.txt", "README.md", "proto", "server", "kernels", "client", "tests", "deploy"]


def tracked():
    out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [Path(p.decode()) for p in out.split(b"\0") if p]


def part_of(path):
    """(area, part): ("server", "sched"), ("kernels", "cpu"), ("client", ""), …"""
    parts = path.parts
    area = parts[0]
    if area == "server":
        return area, parts[1] if len(parts) > 2 else "main"
    if area in ("kernels", "client"):
        return area, parts[1] if len(parts) > 2 else ""
    return area, ""


def included(path, name):
    """The part that `#include "name"` written in `path` means; None for generated and third-party headers."""
    if (ROOT / path.parent / name).exists():
        return part_of((ROOT / path.parent / name).resolve().relative_to(ROOT))
    for root in ("server", "kernels/include", "kernels", "client/include", "client", "tests/unit", "tests"):
        if (ROOT / root / name).exists():
            return part_of(Path(root) / name)
    return None


def allowed(source, target):
    (area, part), (to, to_part) = source, target
    if area == "tests":
        return True
    if to == "kernels" and to_part == "include":
        return True
    if area == "server":
        if to == "server":
            return SERVER.index(to_part) <= SERVER.index(part)
        return to == "kernels" and part == "worker"
    if area == "kernels":
        return to == "kernels"
    if area == "client":
        # The library stands alone but for what it compiles in; the program shares the codec's reader of safetensors with
        # the daemon.
        return to == "client" or (to == "server" and to_part == ("codec" if part == "attnctl" else "base"))
    return False


def check_includes(path, lines):
    for number, line in enumerate(lines, 1):
        match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not match:
            continue
        target = included(path, match.group(1))
        if target is None or allowed(part_of(path), target):
            continue
        yield f"{path}:{number}: {'/'.join(part_of(path))} must not include {match.group(1)} ({'/'.join(target)})"


def main():
    wrong = []
    files = tracked()
    for name in sorted({p.parts[0] for p in files}):
        if name not in TOP and not name.startswith("."):
            wrong.append(f"{name}: not among the top level's {', '.join(TOP)}")
    for path in files:
        if path.suffix not in (".c", ".h", ".cu", ".cuh") or not (ROOT / path).exists():
            continue
        lines = (ROOT / path).read_text().splitlines()
        wrong += check_includes(path, lines)
        if len(lines) > LINES_MAX:
            wrong.append(f"{path}:{LINES_MAX}: {len(lines)} lines; {LINES_MAX} is the limit")
        if not lines or not lines[0].startswith(("/*", "//")):
            wrong.append(f"{path}:1: the first line must begin the comment that says what the file is for")
        for number, line in enumerate(lines, 1):
            if re.search(r"\b(TODO|FIXME|XXX)\b", line):
                wrong.append(f"{path}:{number}: unfinished work belongs in an issue")
    if "--format" in sys.argv:
        formatter = shutil.which("clang-format")
        if formatter is None:
            wrong.append("clang-format: not found")
        else:
            sources = [str(p) for p in files if p.suffix in (".c", ".h") and (ROOT / p).exists()]
            done = subprocess.run([formatter, "--dry-run", "-Werror", *sources], cwd=ROOT, capture_output=True, text=True)
            wrong += [line for line in done.stderr.splitlines() if "error:" in line]
    print("\n".join(wrong) if wrong else f"{len(files)} files: includes, lengths{', format' if '--format' in sys.argv else ''} ok")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
