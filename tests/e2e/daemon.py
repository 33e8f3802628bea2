"""Starts the real daemon and looks at it from outside: /proc, its log, its ports."""
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import wire

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("ATTN_BIN", ROOT / "build" / "bin"))
SLOW = 4 if os.environ.get("ATTN_SANITIZED") else 1  # sanitizers make everything slower


def children(pid):
    """Direct children that are alive (not zombies)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (OSError, IndexError):
                continue
            if int(stat[1]) == pid and stat[0] not in "ZX":
                found.append(int(entry.name))
    return sorted(found)


def pss_kib(pid):
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1))


def private_kib(pid):
    """Anonymous memory: what a leak on the heap shows up in, and mapped arenas do not."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss_Anon:\s+(\d+)", text, re.M).group(1))


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(condition, what, timeout=10):
    end = time.monotonic() + timeout * SLOW
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {timeout * SLOW} s for: {what() if callable(what) else what}")


class Daemon:
    def __init__(self, *flags, env=None, prefix=(), devices="cpu", wait=True):
        self.folder = Path(tempfile.mkdtemp(prefix="attnd-test-"))
        self.log_path = self.folder / "log"
        self.port = None
        # The machine's own ATTND_* settings must not steer the tests.
        clean = {k: v for k, v in os.environ.items() if not k.startswith("ATTND_")}
        clean.update(env or {})
        self.args = [*prefix, str(BIN / "attnd"), "--http-port", "0", "--port-file", str(self.folder / "ports"),
                     "--grpc-port", "0", "--metrics-port", "0", "--devices", devices,
                     *([] if "--socket" in flags else ["--socket", "none"]), *flags]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(self.args, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=clean)
        self.pid = self.process.pid
        if wait:
            self.wait_ready()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, timeout=15):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"attnd ended with {self.process.returncode}:\n{self.log()}")
            if self.port is None and not self._read_ports():
                return False
            try:
                return self.get("/v2/health/ready").status == 200
            except OSError:
                return False

        wait_for(ready, lambda: f"attnd to be ready; its log:\n{self.log()}", timeout)

    def _read_ports(self):
        """The ports that the kernel chose; false until the daemon has written them."""
        try:
            text = (self.folder / "ports").read_text()
        except FileNotFoundError:
            return False
        self.ports = {name: int(port) for name, port in (line.split() for line in text.splitlines())}
        self.port = self.ports.get("http")
        self.url = f"http://127.0.0.1:{self.port}"
        return self.port is not None

    def alive(self):
        return self.process.poll() is None

    def workers(self):
        return children(self.pid)

    def fds(self, pid=None):
        return len(os.listdir(f"/proc/{pid or self.pid}/fd"))

    def get(self, path, **kw):
        return wire.get(self.port, path, **kw)

    def post(self, path, body, content_type=wire.SAFETENSORS, **kw):
        return wire.post(self.port, path, body, content_type, **kw)

    def metrics(self):
        """{name{labels}: value}."""
        out = {}
        for line in self.get("/metrics").body.decode().splitlines():
            if line and not line.startswith("#"):
                key, _, value = line.rpartition(" ")
                out[key] = float(value)
        return out

    def stop(self, timeout=20):
        """SIGTERM; returns the exit status. A daemon that does not end is killed and that is a failure."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(10)
            raise AssertionError(f"attnd did not end within {timeout * SLOW} s of SIGTERM; log:\n{self.log()}") from None

    def discard(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
