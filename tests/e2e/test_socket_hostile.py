"""Clients of the Unix socket that mean harm, or are broken: each hurts only itself. The `door` fixture looks afterwards:
the same process, no connection, region or descriptor left behind."""
import array
import fcntl
import mmap
import multiprocessing
import os
import random
import select
import signal
import socket
import threading
import time

import pytest

from daemon import SLOW, cpu_seconds, private_kib, wait_for
from socket_kit import Problem, SocketDaemon, connect, door, ends, module_daemon, raw, works  # noqa: F401
from unix_client import F_ADD_SEALS, SEAL_GROW, SEAL_SHRINK, SEAL_WRITE, Client, Refused, memfd

FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE = 2, 1


# ---- packets ----


@pytest.mark.parametrize("packet", [
    b"\xff" * 40, b"\x08", b"\x08\x01\x12\xff\xff\xff\xff\x0f", bytes(1), random.Random(1).randbytes(65536), b"\x08\x01" * 300,
    b"\x08\x01\x7a\x00",
], ids=["ones", "cut", "long", "zero", "noise", "twice", "unknown"])
def test_a_packet_that_cannot_be_read_ends_its_connection(door, pbs, packet):
    s = raw(door.socket_path)
    s.send(packet)
    answer = pbs.SocketAnswer.FromString(ends(s))
    assert answer.tag == 0 and answer.error.code == "INVALID_ARGUMENT" and answer.error.error
    s.close()


def test_noise_by_the_thousand(door, pbs):
    dice = random.Random(7)
    good = pbs.SocketRequest(tag=1, hello=pbs.Hello(version_min=1, version_max=1)).SerializeToString()
    for _ in range(1000):
        s = raw(door.socket_path)
        s.send(good)
        if dice.random() < 0.5:
            data = dice.randbytes(dice.randrange(1, 300))
        else:
            data = bytearray(pbs.SocketRequest(tag=5, register_region=pbs.RegisterRegion(
                name="x", access=2, allocate=pbs.HostAllocate(bytes=4096))).SerializeToString())
            data[dice.randrange(len(data))] = dice.randrange(256)
        s.send(bytes(data))
        s.close()
    works(door, pbs)


def test_a_packet_that_is_too_large(door, pbs):
    for size, fds in ((65537, []), (100000, []), (10, [0] * 9)):
        s = raw(door.socket_path)
        s.sendmsg([bytes(size)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
        assert pbs.SocketAnswer.FromString(ends(s)).error.code == "TOO_LARGE"
        s.close()


def test_hello_comes_first_once_and_in_a_version_that_both_speak(door, connect, pbs):
    c = connect(hello=False)
    with pytest.raises(Refused, match="version"):
        c.ask(hello=pbs.Hello(version_min=2, version_max=9))
    c.ask(hello=pbs.Hello(version_min=1, version_max=9))
    with pytest.raises(Refused, match="already"):
        c.ask(hello=pbs.Hello(version_min=1, version_max=1))
    with pytest.raises(Refused, match="asks for nothing"):
        c.ask()
    c = connect(hello=False)
    with pytest.raises(Refused, match="hello"):
        c.ask(open_ring=pbs.OpenRing(entries=8))
    with pytest.raises(EOFError):
        c.receive()


# ---- descriptors ----


def kinds():
    def sealed(flags):
        return lambda: memfd(size=4096, seals=flags)

    def other(fd):
        return lambda: fd()

    def readonly():
        fd = memfd(size=4096)
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        os.close(fd)
        return again

    def huge():
        fd = os.memfd_create("huge", os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
        os.ftruncate(fd, 2 << 20)
        fcntl.fcntl(fd, F_ADD_SEALS, SEAL_SHRINK | SEAL_GROW)
        return fd

    def empty():
        return memfd(size=0, allocate=False)

    return {
        "pipe": (lambda: os.pipe()[0], "not a memfd"),
        "folder": (lambda: os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY), "not a memfd"),
        "zero": (lambda: os.open("/dev/zero", os.O_RDWR), "not a memfd"),
        "file": (lambda: os.open("/etc/hostname", os.O_RDONLY), "not a memfd"),
        "socket": (lambda: socket.socket().detach(), "not a memfd"),
        "path": (lambda: os.open("/tmp", os.O_PATH), "not a memfd"),
        "unsealed": (sealed(0), "not sealed against shrinking"),
        "may grow": (sealed(SEAL_SHRINK), "not sealed against growing"),
        "may shrink": (sealed(SEAL_GROW), "not sealed against shrinking"),
        "no writing": (sealed(SEAL_SHRINK | SEAL_GROW | SEAL_WRITE), "sealed against writing"),
        "read-only": (readonly, "not open for reading and writing"),
        "sparse": (lambda: memfd(size=1 << 40, allocate=False), "sparse"),
        "huge pages": (huge, "huge pages"),
        "empty": (empty, "at least one byte"),
    }


@pytest.mark.parametrize("kind", list(kinds()))
def test_a_descriptor_of_another_kind(connect, pbs, kind):
    make, sentence = kinds()[kind]
    c = connect()
    try:
        fd = make()
    except OSError as e:
        pytest.skip(f"cannot be made here: {e}")
    with pytest.raises(Refused, match=sentence) as e:
        c.register("x", fd, write=True)
    assert e.value.code == "INVALID_ARGUMENT"
    os.close(fd)
    c.register("x", memfd(size=4096), write=True)  # the connection is as good as before


def test_descriptors_that_were_not_asked_for(connect, pbs):
    c = connect()
    fd = memfd(size=4096)
    with pytest.raises(Refused, match="exactly one descriptor"):
        c.ask([fd, fd], register_region=pbs.RegisterRegion(name="x", access=1, memfd=pbs.HostMemfd()))
    with pytest.raises(Refused, match="exactly one descriptor"):
        c.ask(register_region=pbs.RegisterRegion(name="x", access=1, memfd=pbs.HostMemfd()))
    with pytest.raises(Refused, match="takes none"):
        c.ask([fd], register_region=pbs.RegisterRegion(name="x", access=1, allocate=pbs.HostAllocate(bytes=1)))
    with pytest.raises(Refused, match="takes none"):
        c.ask([fd], open_ring=pbs.OpenRing(entries=8))
    os.close(fd)


def test_device_memory_where_there_is_none(connect, pbs):
    c = connect()
    fd = memfd(size=4096)
    for device, sentence in (("CPU", "no CUDA memory"), ("GPU-0", "no device of this UUID"), ("", "no device of this UUID")):
        with pytest.raises(Refused, match=sentence):
            c.ask([fd], register_region=pbs.RegisterRegion(name="x", access=1, vmm_fd=pbs.VmmFd(device=device, bytes=4096)))
        with pytest.raises(Refused, match=sentence):
            c.ask(register_region=pbs.RegisterRegion(
                name="x", access=1, cuda_ipc=pbs.CudaIpc(device=device, handle=bytes(64), bytes=4096)))
        with pytest.raises(Refused, match=sentence):
            c.ask(register_event=pbs.RegisterEvent(device=device, handle=bytes(64)))
    with pytest.raises(Refused, match="64 bytes"):
        c.ask(register_region=pbs.RegisterRegion(name="x", access=1, cuda_ipc=pbs.CudaIpc(device="CPU", handle=b"x", bytes=1)))
    with pytest.raises(Refused, match="multiple of 16"):
        c.ask(register_region=pbs.RegisterRegion(
            name="x", access=1, cuda_ipc=pbs.CudaIpc(device="CPU", handle=bytes(64), base_offset=8, bytes=4096)))
    with pytest.raises(Refused, match="event 7 is not known"):
        c.ask(release_event=pbs.ReleaseEvent(id=7))
    os.close(fd)


def test_ten_thousand_regions(door, connect, pbs):
    """All kept: the limit says so. All given back each time: nothing piles up."""
    c = connect()
    fd = memfd(size=4096)
    kept, most = 0, c.welcome.max_regions
    with pytest.raises(Refused, match=f"{most} regions") as e:
        for i in range(10000):
            c.register(f"r{i}", fd)
            kept += 1
    assert kept == most <= 1024 and e.value.code == "UNAVAILABLE"
    before = door.fds()
    works(door, pbs)
    for i in range(kept):
        c.release(f"r{i}")
    for i in range(9000):
        c.register("again", fd)
        c.release("again")
    assert door.fds() < before - 0.9 * most
    os.close(fd)


def test_ten_thousand_regions_without_reading_an_answer(door, pbs):
    """The door stops reading from a client that reads nothing, and goes on with the others."""
    s = raw(door.socket_path)
    s.send(pbs.SocketRequest(tag=1, hello=pbs.Hello(version_min=1, version_max=1)).SerializeToString())
    fd = memfd(size=4096)
    s.settimeout(2)
    sent = 0
    with pytest.raises((TimeoutError, OSError)):
        for i in range(10000):
            message = pbs.SocketRequest(tag=i, register_region=pbs.RegisterRegion(name=f"r{i}", access=1, memfd=pbs.HostMemfd()))
            s.sendmsg([message.SerializeToString()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            sent += 1
    assert 0 < sent < 10000
    works(door, pbs)
    s.close()
    os.close(fd)


# ---- memory ----


def test_memory_that_changes_or_goes_away_under_a_request(door, connect, pbs):
    """Truncated (the seal says no), punched, unmapped, written all the time: the requests are answered, whatever they
    say, and a stranger's is right."""
    c = connect()
    p = Problem(shape=(1, 256, 4, 64), s_kv=256)
    fd = memfd(p.inputs)
    c.register("in", fd)
    p.out_fd = memfd(size=p.output_bytes)
    c.register("out", p.out_fd, write=True)
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    memory = mmap.mmap(fd, len(p.inputs))
    stop = threading.Event()

    def scribble():
        dice = random.Random(3)
        noise = dice.randbytes(4096)
        while not stop.is_set():
            at = dice.randrange(len(memory) - 4096)
            memory[at:at + 4096] = noise
            libc_fallocate(fd, dice.randrange(0, len(memory) // 4096) * 4096, 4096)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(60):
            c.ask(submit=pbs.Submit(request=p.request(pbs)))
        works(door, pbs)
    finally:
        stop.set()
        thread.join()
    libc_fallocate(fd, 0, len(memory))  # every page gone
    memory.close()
    c.ask(submit=pbs.Submit(request=p.request(pbs)))
    o, _ = p.outputs()
    assert (o == 0).all(), "zero pages are what is there now"
    os.close(fd)


def libc_fallocate(fd, offset, length):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.fallocate64(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0


def test_places_that_are_wrong(connect, pbs):
    c = connect()
    p = Problem().register(c)
    total = len(p.inputs)
    c.register("again", memfd(p.inputs), write=True)
    cases = [
        ({"q": ("in", total)}, "do not lie inside"), ({"q": ("in", 2**64 - 16)}, "do not lie inside"),
        ({"v": ("in", total - p.v.nbytes + 16)}, "do not lie inside"), ({"q": ("in", 8)}, "multiple of 16"),
        ({"o": ("in", 0)}, "READ_WRITE"), ({"q": ("nonesuch", 0)}, '"nonesuch" is not known'),
        ({"o": ("again", 0), "q": ("again", 16)}, "o overlaps q"),
        ({"q": ("../in", 0)}, "not a name"), ({"q": ("", 0)}, "not a name"),
    ]
    for at, sentence in cases:
        with pytest.raises(Refused, match=sentence) as e:
            c.ask(submit=pbs.Submit(request=p.request(pbs, at=at)))
        assert e.value.code in ("INVALID_ARGUMENT", "NOT_FOUND")
    with pytest.raises(Refused, match="lse overlaps o"):
        c.ask(submit=pbs.Submit(request=p.request(pbs, return_lse=True, at={"lse": ("out", p.q.nbytes - 16)})))
    r = p.request(pbs)
    r.q.region.length -= 2
    with pytest.raises(Refused, match="its shape in fp16 needs"):
        c.ask(submit=pbs.Submit(request=r))
    r = p.request(pbs)
    r.q.body.length = p.q.nbytes
    with pytest.raises(Refused, match="lies in a region"):
        c.ask(submit=pbs.Submit(request=r))
    r = p.request(pbs)
    r.ClearField("o")
    with pytest.raises(Refused, match="o has no region"):
        c.ask(submit=pbs.Submit(request=r))
    with pytest.raises(Refused, match="request is missing"):
        c.ask(submit=pbs.Submit())
    # The same memory under two names is still the same memory.
    fd = memfd(size=1 << 20)
    c.register("one", fd, write=True)
    c.register("two", fd)
    with pytest.raises(Refused, match="o overlaps k"):
        c.ask(submit=pbs.Submit(request=p.request(pbs, at={"k": ("two", 0), "o": ("one", 0)})))
    with pytest.raises(Refused, match="events order requests|event 3 is not known"):
        c.ask(submit=pbs.Submit(request=p.request(pbs), wait_event=3))


def test_another_clients_region_cannot_be_named(connect, pbs):
    """By no name and by no number: not a stranger's, not the daemon's arenas, not what was released."""
    victim, thief = connect(), connect()
    p = Problem().register(victim)
    t = Problem(seed=1).register(thief)
    thief.release("in")
    ring = thief.open_ring(8)
    tried = list(range(0, 64)) + [p.in_id, t.in_id, t.out_id - 1, 2**32 - 1, 1024 * 2, 1024 * 3]
    own = {t.out_id}
    for tag, number in enumerate(n for n in tried if n not in own):
        ring.submit(t.submission(tag, places=[(number, 0), (t.out_id, 0), (t.out_id, 0), (t.out_id, 0)]))
        done = ring.wait()
        assert done.status in (-1, -2) and ("not known" in done.text[0] or "no place" in done.text[0]), done.text
    with pytest.raises(Refused, match='"in" is not known'):
        thief.ask(submit=pbs.Submit(request=t.request(pbs)))
    with pytest.raises(Refused, match='"in" is not known'):
        thief.release("in")


def test_answers_that_nobody_reads(door, pbs):
    """64 submissions by message wait for their answers, one more is refused; the socket of one that reads nothing fills
    up and is left alone."""
    c = Client(door.socket_path, pbs)
    p = Problem(shape=(1, 16, 2, 32), s_kv=16, h_kv=1).register(c)
    c.socket.settimeout(1)
    data = pbs.SocketRequest(tag=7, submit=pbs.Submit(request=p.request(pbs))).SerializeToString()
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 20000:
            c.send_raw(data)
            sent += 1
    works(door, pbs)
    c.socket.settimeout(20)
    for _ in range(sent):
        answer, _ = c.receive()
        assert answer.tag == 7 and answer.WhichOneof("what") in ("submitted", "error")
    c.ask(submit=pbs.Submit(request=p.request(pbs)))
    c.close()


# ---- ends ----


def victim(path, pbs_path, ready, shape):
    import importlib
    import sys
    sys.path.insert(0, pbs_path)
    pbs = importlib.import_module("attn.v1.socket_pb2")
    c = Client(path, pbs)
    p = Problem(shape=shape, s_kv=shape[1], h_kv=shape[2]).register(c)
    ring = c.open_ring(32)
    ring.submit(*[p.submission(i) for i in range(32)])
    c.send(submit=pbs.Submit(request=p.request(pbs)))
    ready.set()
    time.sleep(60)


def test_clients_that_die_in_the_middle(door, pbs):
    pbs_path = os.path.dirname(os.path.dirname(os.path.dirname(pbs.__file__)))
    context = multiprocessing.get_context("spawn")
    worker = door.workers()
    for shape in ((1, 1024, 8, 64), (1, 16, 2, 32), (1, 2048, 8, 128)):
        ready = context.Event()
        process = context.Process(target=victim, args=(door.socket_path, pbs_path, ready, shape))
        process.start()
        assert ready.wait(30)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        wait_for(lambda: door.gauge("attnd_socket_connections") == 0, "the connection to be gone", 20)
        works(door, pbs)
    assert door.workers() == worker, "no worker had to die for it"


def test_connections_by_the_hundred(door, pbs):
    clients, refused = [], 0
    for _ in range(300):
        try:
            clients.append(Client(door.socket_path, pbs))
        except Refused as e:
            assert e.code == "UNAVAILABLE" and "256 connections" in e.sentence
            refused += 1
    assert len(clients) == 256 and refused == 44
    for c in clients:
        c.close()
    wait_for(lambda: door.gauge("attnd_socket_connections") == 0, "connections to end")
    works(door, pbs)


def test_few_descriptors(pbs):
    """Clients that take what they can get leave enough for HTTP and for each other."""
    d = SocketDaemon(prefix=("prlimit", "--nofile=256:256"))
    try:
        greedy = []
        for _ in range(6):
            c = Client(d.socket_path, pbs)
            greedy.append(c)
            fd = memfd(size=4096)
            with pytest.raises(Refused) as e:
                for i in range(600):
                    c.register(f"r{i}", fd)
            os.close(fd)
            assert e.value.code == "UNAVAILABLE"
        assert d.gauge("attnd_socket_regions") == 64
        others, sentence = [], ""
        while len(others) < 256 and not sentence:
            others.append(raw(d.socket_path))
            # Any of them: on a busy machine the answer to one comes when others have followed.
            told = select.select(others, [], [], 0.01 if len(others) < 256 else 10)[0]
            if told:
                sentence = pbs.SocketAnswer.FromString(ends(told[0])).error.error
        assert "no descriptors left" in sentence
        idle = cpu_seconds(d.pid)
        time.sleep(0.5)
        assert cpu_seconds(d.pid) - idle < 0.2 * SLOW, "who cannot come in is turned away, once"
        for s in others:
            s.close()
        for c in greedy:
            c.close()
        wait_for(lambda: d.gauge("attnd_socket_regions") == 0, "the regions to be gone")
        works(d, pbs)
        assert d.stop() == 0
    finally:
        d.discard()


@pytest.mark.heavy
def test_nothing_grows(door, pbs):
    """A thousand connections with region, ring and requests: the daemon's heap stays as it is."""
    def round_trip():
        with Client(door.socket_path, pbs) as c:
            p = Problem(shape=(1, 16, 2, 32), s_kv=16, h_kv=1).register(c)
            ring = c.open_ring(8)
            ring.submit(p.submission(1))
            ring.wait()
            ring.close()
            os.close(p.out_fd)

    for _ in range(200):
        round_trip()
    before = private_kib(door.pid)
    for _ in range(800):
        round_trip()
    assert private_kib(door.pid) < before + 1024
