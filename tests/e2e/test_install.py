"""What a package would hold: cmake --install, pkg-config, the soname, and a C program of a stranger against them."""
import os
import re
import subprocess

import pytest

import reference
from daemon import BIN, ROOT
from wire import Problem

pytestmark = pytest.mark.heavy
BUILD = BIN.parent


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    if not (BUILD / "cmake_install.cmake").exists():
        pytest.skip(f"{BUILD} is no CMake build folder")
    at = tmp_path_factory.mktemp("prefix")
    subprocess.run(["cmake", "--install", BUILD, "--prefix", at], check=True, timeout=60, capture_output=True)
    return at


def pkg_config(prefix, *args):
    path = ":".join(str(p.parent) for p in prefix.rglob("attn.pc"))
    # The .pc file names the prefix of the build; this is another one.
    done = subprocess.run(["pkg-config", f"--define-variable=prefix={prefix}", *args, "attn"], capture_output=True, text=True, timeout=20,
                          env={**os.environ, "PKG_CONFIG_PATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_what_is_installed(prefix):
    names = {str(p.relative_to(prefix)) for p in prefix.rglob("*") if not p.is_dir()}
    for program in ("attnd", "attn-worker", "attnctl"):
        assert f"bin/{program}" in names, names
    assert "include/attn.h" in names and "include/attn/status.h" in names
    assert any(re.fullmatch(r"lib/.*attn\.pc", n) for n in names)
    assert not any("test" in n or "fault" in n for n in names), names


def test_soname(prefix):
    (library,) = [p for p in prefix.rglob("libattn.so.*.*.*")]
    dump = subprocess.run(["objdump", "-p", library], capture_output=True, text=True, timeout=20).stdout
    assert re.search(r"SONAME\s+libattn\.so\.0$", dump, re.M), dump
    exported = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, timeout=20).stdout.split("\n")
    names = [line.split()[-1].split("@")[0] for line in exported if line]
    assert [n for n in names if not n.lower().startswith(("attn_", "libattn"))] == []


@pytest.mark.parametrize("how", ["shared", "static"])
def test_a_strangers_program(prefix, attnd, tmp_path, how):
    flags = pkg_config(prefix, "--cflags", "--libs", *(["--static"] if how == "static" else []))
    program = tmp_path / "client"
    subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-Wall", "-Werror", "-o", program, ROOT / "tests/e2e/install_client.c",
                    *(["-Wl,-Bstatic", *flags, "-Wl,-Bdynamic", "-lpthread", "-lm", "-lc"] if how == "static" else flags)],
                   check=True, timeout=60)
    lib = next(prefix.rglob("libattn.so")).parent
    p = Problem(b=2, s_q=4, s_kv=4, h_q=1, h_kv=1, d=8, dtype="fp32", causal=True)
    done = subprocess.run([program, attnd.url], input=b"".join(raw for _, _, raw in p.tensors().values()), capture_output=True, timeout=20,
                          env={**os.environ, "LD_LIBRARY_PATH": str(lib)} if how == "shared" else None)
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode().strip() == "cpu"
    assert p.judge(("fp32", (2, 4, 1, 8), done.stdout), None) == []
    refused = subprocess.run([program, "http://127.0.0.1:1"], input=bytes(768), capture_output=True, timeout=20,
                             env={**os.environ, "LD_LIBRARY_PATH": str(lib)})
    assert refused.returncode == 1 and b"CONNECTION" in refused.stderr


def test_the_installed_daemon_finds_its_worker(prefix, tmp_path):
    import signal

    from daemon import SLOW, wait_for

    ports = tmp_path / "ports"
    p = subprocess.Popen([prefix / "bin/attnd", "--http-port", "0", "--port-file", ports, "--metrics-port", "0", "--devices", "cpu"],
                         stderr=subprocess.PIPE)
    try:
        wait_for(ports.exists, "the port file")
        port = int(dict(line.split() for line in ports.read_text().splitlines())["http"])
        import wire

        wait_for(lambda: wire.get(port, "/v2/health/ready").status == 200, "the installed daemon to be ready")
        p.send_signal(signal.SIGTERM)
        assert p.wait(20 * SLOW) == 0
    finally:
        p.kill()
        p.wait()
