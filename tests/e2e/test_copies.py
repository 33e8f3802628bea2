"""Copies of tensors: what the daemon says that it copied, and from outside, what it can have copied at all."""
import re
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

import wire
from socket_kit import Problem, connect, door, module_daemon  # noqa: F401


LIBRARY = ["TE: trailers"]  # libmicrohttpd reads a request with such a header


def copied(d):
    metrics = d.metrics()
    return {name: metrics[f'attnd_tensor_bytes_copied_total{{door="{name}"}}'] for name in ("http", "socket", "ring")}


def growth(d, before):
    return {name: now - before[name] for name, now in copied(d).items()}


@pytest.mark.parametrize("framing", [wire.SAFETENSORS, wire.XATTN])
@pytest.mark.parametrize("packed", [False, True])
def test_http_copies_what_came_with_the_head_or_each_byte_of_q_k_v_once(door, pb, framing, packed):
    """Bodies go from the socket to their places, but for what the look at the head has brought, at most 4 KiB. Where
    libmicrohttpd reads the body, as after a head that is out of the ordinary, everything is copied once."""
    p = wire.Problem(cu_q=[0, 5, 5, 22], cu_k=[0, 5, 5, 22]) if packed else wire.Problem(s_q=33, s_kv=77, h_q=6, h_kv=3)
    body = p.safetensors() if framing == wire.SAFETENSORS else p.xattn(pb)
    tensors = sum(len(data) for name, (_, _, data) in p.tensors().items() if name in "qkv")
    before = copied(door)
    assert door.post("/v1/attention", body, framing).status == 200
    with_head = growth(door, before)
    assert with_head.pop("http") < 4096 < tensors and with_head == {"socket": 0, "ring": 0}
    before = copied(door)
    assert door.post("/v1/attention", body, framing, extra=LIBRARY).status == 200
    assert growth(door, before) == {"http": tensors, "socket": 0, "ring": 0}


def test_http_counts_what_it_copied_of_a_body_that_it_refused(door):
    before = copied(door)
    body = wire.Problem().safetensors()
    assert door.post("/v1/attention?variant=unified", body, extra=LIBRARY).status == 422
    tensors = sum(len(data) for _, _, data in wire.Problem().tensors().values())
    assert growth(door, before) == {"http": tensors, "socket": 0, "ring": 0}


def maps_of(pid, what):
    return [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if what in line]


def read_and_written(pid):
    """Bytes that the process moved by read, write, pread, sendfile and their like."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["rchar"]) + int(fields["wchar"])


@contextmanager
def private_memory_limited(pid, room):
    """Lets a process have only `room` bytes more of private memory than it has."""
    has = int(re.search(r"^VmData:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M).group(1)) * 1024
    old = resource.prlimit(pid, resource.RLIMIT_DATA)
    resource.prlimit(pid, resource.RLIMIT_DATA, (has + room, old[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_DATA, old)


@pytest.mark.parametrize("kind", ["socket", "ring"])
def test_the_socket_and_its_ring_copy_nothing(connect, door, pbs, kind):
    """The counter says so. From outside: attnd never maps the client's memory and reads none of it, and the worker,
    which maps it shared, may not have enough private memory for K or V of 16 MiB each."""
    c = connect()
    p = Problem(shape=(1, 2, 4, 64), h_kv=2, s_kv=65536).register(c)
    ring = c.open_ring(8) if kind == "ring" else None
    worker = door.workers()[0]

    def run(tag):
        if ring is None:
            c.ask(submit=pbs.Submit(request=p.request(pbs)))
        else:
            ring.submit(p.submission(tag))
            assert ring.wait().status == 0

    run(1)  # the worker's workspace is there
    before, moved = copied(door), read_and_written(door.pid)
    with private_memory_limited(worker, p.k.nbytes // 4):
        for tag in range(2, 6):
            p.clear()
            run(tag)
            p.check()
            assert not maps_of(door.pid, "memfd:test"), "attnd has no mapping of the client's memory"
            maps = maps_of(worker, "memfd:test")
            assert len(maps) == 2 and all(m.split()[1].endswith("s") for m in maps), maps
    assert growth(door, before) == {"http": 0, "socket": 0, "ring": 0}
    assert read_and_written(door.pid) - moved < p.k.nbytes // 16
