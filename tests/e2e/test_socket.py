"""The Unix socket's door as a well-behaved client sees it: packets, regions, the ring; and what the operator sets."""
import mmap
import os
import signal
import stat
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from daemon import wait_for
from socket_kit import Problem, SocketDaemon, connect, door, module_daemon  # noqa: F401
from unix_client import CANCEL, NOP, RUN, Client, Refused, attention, memfd, request, submission


def test_welcome_says_what_there_is(connect):
    w = connect().welcome
    assert w.version == 1 and w.max_message_bytes == 65536 and w.alignment == 16
    assert [(d.uuid, d.kind, d.ready) for d in w.devices] == [("CPU", "cpu", True)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("causal", [False, True])
def test_a_submit_by_message(connect, pbs, dtype, causal):
    c = connect()
    p = Problem(dtype=dtype).register(c)
    p.clear()
    answer, _ = c.ask(submit=pbs.Submit(request=p.request(pbs, return_lse=True, causal=causal, id="mine")))
    r = answer.submitted.response
    assert r.id == "mine" and r.outcome.variant == "cpu" and r.outcome.device == "CPU"
    assert list(r.o.shape) == list(p.q.shape) and r.o.region.region == "out" and r.lse.region.offset == p.q.nbytes
    p.check(causal, lse=True)


def test_a_submit_by_ring_says_what_a_message_says(connect):
    c = connect()
    p = Problem().register(c)
    ring = c.open_ring(8)
    p.clear()
    ring.submit(p.submission(77, flags=3, places=[*[(p.in_id, o) for o in (0, p.q.nbytes, p.q.nbytes + p.k.nbytes)],
                                                  (p.out_id, 0), (p.out_id, p.q.nbytes)]))
    done = ring.wait()
    assert (done.tag, done.status, done.variant, done.device, done.attempts) == (77, 0, "cpu", "CPU", 1)
    assert done.text[0].startswith("auto:") and done.kernel_us > 0 and done.total_us > 0
    p.check(causal=True, lse=True)


def test_memory_that_the_daemon_makes(connect, pbs):
    c = connect()
    p = Problem()
    reg, fds = c.register("both", write=True, allocate=pbs.HostAllocate(bytes=len(p.inputs) + p.output_bytes))
    at = len(p.inputs)
    with mmap.mmap(fds[0], reg.bytes) as m:
        m[:at] = p.inputs
        places = {n: ("both", o) for n, (_, o) in p.at.items() if n in "qkv"}
        places.update(o=("both", at), lse=("both", at + p.q.nbytes))
        c.ask(submit=pbs.Submit(request=p.request(pbs, at=places)))
        o = np.frombuffer(m[at:at + p.q.nbytes], np.float16).reshape(p.q.shape)
        assert np.abs(o - attention(p.q, p.k, p.v)[0]).max() < 4e-3
    # It can be registered again as one of the client's own: after a restart of the daemon nothing else is possible.
    assert os.fstat(fds[0]).st_blocks * 512 >= reg.bytes
    c.register("again", fds[0], write=True)
    os.close(fds[0])


def packed(c, lengths=(5, 0, 17), d=64):
    rng = np.random.default_rng(4)
    total = sum(lengths)
    q = rng.standard_normal((total, 4, d)).astype(np.float16)
    k, v = (rng.standard_normal((total, 2, d)).astype(np.float16) for _ in "kv")
    cu = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    truth = np.concatenate([attention(*(x[None, a:b] for x in (q, k, v)))[0][0] for a, b in zip(cu, cu[1:]) if b > a])
    return q, k, v, cu, truth


def test_packed_sequences_by_message_and_by_ring(connect, pbs):
    c = connect()
    q, k, v, cu, truth = packed(c)
    cu_at = q.nbytes + k.nbytes + v.nbytes
    fd = memfd(q.tobytes() + k.tobytes() + v.tobytes() + cu.tobytes() * 2)
    in_id = c.register("in", fd)[0].id
    out = memfd(size=q.nbytes)
    out_id = c.register("out", out, write=True)[0].id
    at = {"q": ("in", 0), "k": ("in", q.nbytes), "v": ("in", q.nbytes + k.nbytes), "o": ("out", 0)}

    c.ask(submit=pbs.Submit(request=request(pbs, q, k, v, at, layout=3, cu_seqlens_q=cu, cu_seqlens_k=cu)))
    assert np.abs(np.frombuffer(os.pread(out, q.nbytes, 0), np.float16).reshape(q.shape) - truth).max() < 4e-3
    os.pwrite(out, bytes(q.nbytes), 0)
    ring = c.open_ring(8)
    record = dict(dtype=1, layout=3, batch=len(cu) - 1, h_q=4, h_kv=2, d=64, s_q=len(q), s_kv=len(q))
    places = [(in_id, 0), (in_id, q.nbytes), (in_id, q.nbytes + k.nbytes), (out_id, 0), (0, 0)]
    ring.submit(submission(1, RUN, places=[*places, (in_id, cu_at), (in_id, cu_at)], **record))
    done = ring.wait()
    assert done.status == 0, done.text
    assert np.abs(np.frombuffer(os.pread(out, q.nbytes, 0), np.float16).reshape(q.shape) - truth).max() < 4e-3
    # The same offsets spoilt in the client's memory are found out when they are read, not before.
    os.pwrite(fd, struct.pack("<i", 9), cu_at)
    ring.submit(submission(2, RUN, places=[*places, (in_id, cu_at), (in_id, cu_at)], **record))
    done = ring.wait()
    assert done.status == -1 and "must start at 0" in done.text[0]
    os.close(fd)
    os.close(out)


@pytest.mark.parametrize("futex", [False, True])
def test_many_in_flight_and_each_completed_once(connect, futex):
    c = connect()
    p = Problem(shape=(1, 16, 2, 32), s_kv=16, h_kv=1).register(c)
    ring = c.open_ring(64)
    sent, seen = 0, []
    while len(seen) < 2000:
        while sent < 2000 and sent - len(seen) < 64:
            ring.submit(p.submission(sent) if sent % 3 else submission(sent, NOP))
            sent += 1
        done = ring.wait(futex=futex)
        assert done.status == 0, done.text
        seen.append(done.tag)
    assert sorted(seen) == list(range(2000))
    assert seen != sorted(seen), "a no-op is not held up by the work before it"


def test_errors_of_a_submission_come_with_their_sentence(connect, pbs):
    c = connect()
    p = Problem(dtype=np.float32).register(c)
    ring = c.open_ring(8)
    with pytest.raises(Refused, match="no variant") as e:
        c.ask(submit=pbs.Submit(request=p.request(pbs, variant="nonesuch")))
    assert e.value.code == "NOT_FOUND"
    ring.submit(p.submission(1, variant=b"nonesuch"))
    assert (lambda d: (d.status, "no variant" in d.text[0]))(ring.wait()) == (-2, True)
    with pytest.raises(Refused) as e:
        c.ask(submit=pbs.Submit(request=p.request(pbs, variant="unified")))
    assert e.value.code == "FAILED_PRECONDITION" and e.value.missing
    ring.submit(p.submission(2, variant=b"unified"))
    done = ring.wait()
    assert done.status == -3 and done.text[1:] == e.value.missing


def test_cancel_and_deadline(connect, pbs):
    c = connect()
    p = Problem(shape=(1, 2048, 8, 128), s_kv=2048).register(c)
    ring = c.open_ring(8)
    slow = dict(variant=b"reference")
    ring.submit(p.submission(1, **slow), submission(2, CANCEL, target=1), submission(3, CANCEL, target=99))
    done = {d.tag: d.status for d in (ring.wait() for _ in range(3))}
    assert done == {1: -22, 2: 0, 3: -2}
    ring.submit(p.submission(4, deadline_us=30000, **slow))
    assert ring.wait().status == -21
    tag = c.send(submit=pbs.Submit(request=p.request(pbs, variant="reference")))
    assert c.ask(cancel=pbs.Cancel(tag=tag))[0].cancel_noted.found
    with pytest.raises(Refused, match="CANCELLED"):
        c.wait(tag)
    assert not c.ask(cancel=pbs.Cancel(tag=12345))[0].cancel_noted.found


def test_a_release_is_answered_when_nothing_uses_the_region(connect, pbs):
    c = connect()
    p = Problem(shape=(1, 1024, 4, 64), s_kv=1024).register(c)
    run = c.send(submit=pbs.Submit(request=p.request(pbs, variant="reference")))
    release = c.send(release_region=pbs.ReleaseRegion(name="in"))
    order = []
    while len(order) < 2:
        order.append(c.receive()[0].tag)
    assert order == [run, release]
    with pytest.raises(Refused, match='"in" is not known'):
        c.ask(submit=pbs.Submit(request=p.request(pbs)))
    c.register("in", memfd(p.inputs))  # the name is free again, the number is another
    assert c.ask(submit=pbs.Submit(request=p.request(pbs)))[0].submitted.response.outcome.variant == "cpu"


def test_a_killed_worker_gets_the_regions_again(connect, door, pbs):
    c = connect()
    p = Problem().register(c)
    for _ in range(3):
        p.clear()
        c.ask(submit=pbs.Submit(request=p.request(pbs)))
        p.check()
        (worker,) = door.workers()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: worker not in door.workers(), "the worker to be gone")
        p.clear()
        c.ask(submit=pbs.Submit(request=p.request(pbs)))
        p.check()


def test_a_lab_variant_works_in_regions_and_its_fault_is_told(connect, door, pbs):
    c = connect()
    p = Problem().register(c)
    with pytest.raises(Refused) as e:
        c.ask(submit=pbs.Submit(request=p.request(pbs, variant="test_abort")))
    assert "test_abort" in e.value.sentence
    p.clear()
    c.ask(submit=pbs.Submit(request=p.request(pbs)))
    p.check()
    door.get("/v1/variants")


def test_a_region_that_begins_anywhere(connect, pbs):
    """Offsets that are multiples of 16 and of nothing more, in the serve worker and in the lab's."""
    c = connect()
    p = Problem()
    fd = memfd(b"\0" * 16 + p.inputs)
    c.register("in", fd)
    out = memfd(size=p.output_bytes + 48)
    c.register("out", out, write=True)
    at = {n: (r, o + (16 if r == "in" else 48)) for n, (r, o) in p.at.items()}
    for variant in ("cpu", "reference"):
        c.ask(submit=pbs.Submit(request=p.request(pbs, at=at, variant=variant)))
        o = np.frombuffer(os.pread(out, p.q.nbytes, 48), np.float16).reshape(p.q.shape)
        assert np.abs(o - attention(p.q, p.k, p.v)[0]).max() < 4e-3


@pytest.mark.heavy
def test_a_drain_finishes_what_is_under_way(start, pbs):
    d = SocketDaemon("--drain-timeout-ms", "20000")
    try:
        c = Client(d.socket_path, pbs)
        p = Problem(shape=(1, 4096, 8, 128), s_kv=4096).register(c)
        tag = c.send(submit=pbs.Submit(request=p.request(pbs, variant="reference")))
        wait_for(lambda: d.gauge("attnd_running") == 1, "the request to run")
        d.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        late = c.send(submit=pbs.Submit(request=p.request(pbs)))
        with pytest.raises(Refused, match="shutting down") as e:
            c.wait(late)
        assert e.value.retryable
        assert c.wait(tag)[0].submitted.response.outcome.variant == "reference"
        assert d.process.wait(20) == 0
        with pytest.raises((EOFError, ConnectionError)):
            c.receive()
    finally:
        d.discard()


# ---- what the operator sets ----


def test_the_file_has_its_mode_and_goes_with_the_daemon(tmp_path, pbs):
    path = str(tmp_path / "s.sock")
    d = SocketDaemon("--socket-mode", "0600", path=path)
    try:
        about = os.stat(path)
        assert stat.S_ISSOCK(about.st_mode) and stat.S_IMODE(about.st_mode) == 0o600
        assert d.stop() == 0 and not os.path.exists(path)
    finally:
        d.discard()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path, pbs):
    path = str(tmp_path / "s.sock")
    first = SocketDaemon(path=path)
    try:
        with pytest.raises(AssertionError, match="another program listens there"):
            SocketDaemon(path=path)
        first.process.kill()
        first.process.wait()
        assert os.path.exists(path)
        second = SocketDaemon(path=path)
        try:
            Client(path, pbs).close()
            assert second.stop() == 0
        finally:
            second.discard()
    finally:
        first.discard()
    plain = tmp_path / "plain"
    plain.write_text("kept")
    with pytest.raises(AssertionError, match="no socket"):
        SocketDaemon(path=str(plain))
    assert plain.read_text() == "kept"
    with pytest.raises(AssertionError, match="No such file"):
        SocketDaemon(path=str(tmp_path / "nowhere" / "s.sock"))
    with pytest.raises(AssertionError, match="too long"):
        SocketDaemon(path="/tmp/" + "x" * 120)


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user to be")
def test_who_may_come_in(tmp_path, pbs):
    path = str(tmp_path / "s.sock")
    os.chmod(tmp_path, 0o755)
    for parent in list(tmp_path.parents)[:3]:
        os.chmod(parent, 0o755)
    d = SocketDaemon("--socket-mode", "0666", "--socket-users", "0,4001", "--socket-groups", "4002", path=path)
    script = ("import os, socket, sys; os.setgroups(eval(sys.argv[3])); os.setgid(int(sys.argv[2])); "
              "os.setuid(int(sys.argv[1])); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
              "s.connect(sys.argv[4]); s.settimeout(1)\n"
              "try: print(s.recv(4096))\nexcept TimeoutError: print('in')")

    def attempt(uid, gid, groups):
        return subprocess.run([sys.executable, "-c", script, str(uid), str(gid), repr(groups), path],
                              capture_output=True, text=True, timeout=20).stdout

    try:
        assert attempt(0, 0, []) == attempt(4001, 5, []) == attempt(4003, 4002, []) == attempt(4003, 5, [7, 4002]) == "in\n"
        assert "may not use this socket" in attempt(4003, 5, [7]) and "PERMISSION" in attempt(4003, 5, [])
        assert d.stop() == 0
    finally:
        d.discard()


def test_the_quota_of_a_connection(tmp_path, pbs):
    d = SocketDaemon("--socket-region-bytes", "1M", path=str(tmp_path / "s.sock"))
    try:
        with Client(d.socket_path, pbs) as c:
            c.register("a", memfd(size=600 << 10))
            with pytest.raises(Refused, match="--socket-region-bytes") as e:
                c.register("b", memfd(size=600 << 10))
            assert e.value.code == "TOO_LARGE"
            with pytest.raises(Refused, match="--socket-region-bytes"):
                c.register("b", write=True, allocate=pbs.HostAllocate(bytes=1 << 40))
            c.release("a")
            c.register("b", memfd(size=600 << 10))
        assert d.stop() == 0
    finally:
        d.discard()
