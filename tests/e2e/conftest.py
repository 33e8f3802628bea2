"""Fixtures: the messages in Python, one shared daemon, and a factory for tests that need their own."""
import importlib
import subprocess
import sys

import pytest

import daemon as daemon_module
from daemon import BIN, ROOT, Daemon


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="fault tests at their full length, and bodies over 2 GiB")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: only with --full (minutes, or gigabytes of memory)")
    config.addinivalue_line("markers", "heavy: left out of the run against the sanitized build")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--full"):
        return
    for item in items:
        if "full" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="only with --full: minutes, or gigabytes of memory"))


@pytest.fixture(scope="session")
def full(request):
    return request.config.getoption("--full")


@pytest.fixture(scope="session")
def pb(tmp_path_factory):
    """attn.v1 compiled for Python by an implementation that shares nothing with protobuf-c."""
    out = tmp_path_factory.mktemp("proto")
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}",
                    str(ROOT / "proto/attn/v1/attention.proto"), str(ROOT / "proto/attn/v1/socket.proto")],
                   check=True, timeout=60)
    sys.path.insert(0, str(out))
    return importlib.import_module("attn.v1.attention_pb2")


@pytest.fixture(scope="session")
def pbs(pb):
    """The messages of the Unix socket's door."""
    return importlib.import_module("attn.v1.socket_pb2")


def _finish(d, failed):
    try:
        status = d.stop()
        if status != 0 or failed:
            print(f"--- log of attnd (status {status}) ---\n{d.log()[-8000:]}")
        assert status == 0, f"attnd ended with status {status}"
    finally:
        d.discard()


@pytest.fixture(scope="session")
def shared_daemon():
    d = Daemon("--test-variants")
    yield d
    _finish(d, False)


@pytest.fixture
def attnd(shared_daemon):
    """The shared daemon; it must be the same process, alive and ready, after every test."""
    yield shared_daemon
    assert shared_daemon.alive(), f"attnd died:\n{shared_daemon.log()[-8000:]}"
    shared_daemon.wait_ready()


@pytest.fixture
def start(request):
    """start(*flags, **kw) -> a Daemon of the test's own, ended with SIGTERM and status 0 afterwards."""
    started = []

    def factory(*flags, **kw):
        d = Daemon(*flags, **kw)
        started.append(d)
        return d

    yield factory
    for d in started:
        if d.process.returncode is None:
            _finish(d, False)
        else:
            d.discard()


@pytest.fixture(scope="session")
def attnctl():
    def run(*args, timeout=60, check=True, **kw):
        done = subprocess.run([str(BIN / "attnctl"), *map(str, args)], capture_output=True, text=True,
                              timeout=timeout * daemon_module.SLOW, stdin=subprocess.DEVNULL, **kw)
        if check:
            assert done.returncode == 0, f"attnctl {args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
