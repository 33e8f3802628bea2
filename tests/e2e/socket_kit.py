"""What the tests of the Unix socket share: a daemon with a socket, a problem in a region, and its truth."""
import os
import socket

import numpy as np
import pytest

import unix_client
from daemon import Daemon, wait_for
from unix_client import Client, memfd


class Problem:
    """Q, K and V in one memfd (region "in"), room for O and LSE in another (region "out")."""

    def __init__(self, seed=0, shape=(1, 48, 4, 64), h_kv=2, s_kv=48, dtype=np.float16):
        rng = np.random.default_rng(seed)
        b, s_q, h_q, d = shape
        self.q = rng.standard_normal(shape).astype(dtype)
        self.k = rng.standard_normal((b, s_kv, h_kv, d)).astype(dtype)
        self.v = rng.standard_normal((b, s_kv, h_kv, d)).astype(dtype)
        self.inputs = self.q.tobytes() + self.k.tobytes() + self.v.tobytes()
        self.at = {"q": ("in", 0), "k": ("in", self.q.nbytes), "v": ("in", self.q.nbytes + self.k.nbytes),
                   "o": ("out", 0), "lse": ("out", self.q.nbytes)}
        self.output_bytes = self.q.nbytes + b * h_q * s_q * 4

    def register(self, client):
        fd = memfd(self.inputs)
        self.in_id = client.register("in", fd)[0].id
        os.close(fd)
        self.out_fd = memfd(size=self.output_bytes)
        self.out_id = client.register("out", self.out_fd, write=True)[0].id
        return self

    def request(self, pbs, **fields):
        return unix_client.request(pbs, self.q, self.k, self.v, {**self.at, **fields.pop("at", {})}, **fields)

    def submission(self, tag, **fields):
        b, s_q, h_q, d = self.q.shape
        out = self.q.nbytes
        values = dict(dtype=1 if self.q.dtype == np.float16 else 3, batch=b, h_q=h_q, h_kv=self.k.shape[2], d=d, s_q=s_q,
                      s_kv=self.k.shape[1], places=[(self.in_id, 0), (self.in_id, out), (self.in_id, out + self.k.nbytes),
                                                    (self.out_id, 0)])
        values.update(fields)
        return unix_client.submission(tag, unix_client.RUN, **values)

    def outputs(self):
        data = os.pread(self.out_fd, self.output_bytes, 0)
        o = np.frombuffer(data, self.q.dtype, self.q.size).reshape(self.q.shape)
        b, s_q, h_q, _ = self.q.shape
        return o, np.frombuffer(data, np.float32, offset=self.q.nbytes).reshape(b, h_q, s_q)

    def clear(self):
        os.pwrite(self.out_fd, b"\xff" * self.output_bytes, 0)

    def check(self, causal=False, lse=False):
        o, got_lse = self.outputs()
        truth, truth_lse = unix_client.attention(self.q, self.k, self.v, causal)
        assert np.abs(o - truth).max() < (4e-3 if self.q.dtype == np.float16 else 1e-5)
        if lse:
            assert np.abs(got_lse - truth_lse).max() < 1e-5 * max(1, np.abs(truth_lse).max())


class SocketDaemon(Daemon):
    def __init__(self, *flags, **kw):
        self.socket_path = kw.pop("path", None) or f"/tmp/attnd-test-{os.getpid()}-{id(self)}.sock"
        super().__init__("--socket", self.socket_path, *flags, **kw)

    def gauge(self, name):
        return self.metrics().get(name)


@pytest.fixture(scope="module")
def module_daemon():
    d = SocketDaemon("--test-variants")
    yield d
    try:
        assert d.stop() == 0, d.log()[-8000:]
        assert not os.path.exists(d.socket_path)
    finally:
        d.discard()


def raw(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(path)
    s.settimeout(20)
    return s


def works(door, pbs):
    """A stranger's request is answered right."""
    with Client(door.socket_path, pbs) as c:
        p = Problem(seed=9).register(c)
        p.clear()
        c.ask(submit=pbs.Submit(request=p.request(pbs)))
        p.check()


def ends(client_socket):
    """Reads until the end; the last packet."""
    last = b""
    while True:
        try:
            data = client_socket.recv(1 << 17)
        except ConnectionResetError:
            return last
        if not data:
            return last
        last = data


@pytest.fixture
def door(module_daemon):
    """The daemon; afterwards it must be the same process, without connections, regions or descriptors left behind."""
    fds = module_daemon.fds()
    restarts = module_daemon.workers()
    yield module_daemon
    assert module_daemon.alive(), module_daemon.log()[-8000:]
    wait_for(lambda: module_daemon.gauge("attnd_socket_connections") == 0, "connections to end")
    m = module_daemon.metrics()
    assert (m["attnd_socket_regions"], m["attnd_socket_region_bytes"], m["attnd_socket_in_flight"]) == (0, 0, 0)
    wait_for(lambda: module_daemon.fds() <= fds + 2, lambda: f"{module_daemon.fds()} descriptors, {fds} before")
    assert restarts, "the worker is there"


@pytest.fixture
def connect(door, pbs):
    open_ones = []

    def factory(**kw):
        c = Client(door.socket_path, pbs, **kw)
        open_ones.append(c)
        return c

    yield factory
    for c in open_ones:
        c.close()
