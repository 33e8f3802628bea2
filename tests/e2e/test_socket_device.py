"""Device memory and events through the Unix socket, with the null engine: it has both of its own making. The first eight
bytes of a handle are a time: an event is reached from then on, memory is gone from then on (0: never)."""
import os
import signal
import struct
import time

import pytest

from daemon import wait_for
from socket_kit import Problem, SocketDaemon
from unix_client import RUN, Client, Refused, memfd, submission

SHAPE = dict(dtype=1, batch=1, h_q=1, h_kv=1, d=16, s_q=8, s_kv=8)


def handle(seconds_from_now):
    ns = 0 if seconds_from_now is None else time.monotonic_ns() + int(seconds_from_now * 1e9)
    return struct.pack("<q", ns).ljust(64, b"\0")


@pytest.fixture(scope="module")
def door():
    d = SocketDaemon(devices="null")
    yield d
    assert d.stop() == 0, d.log()[-8000:]
    d.discard()


class Device:
    """A connection with device memory and a ring."""

    def __init__(self, door, pbs, gone=None):
        self.pbs = pbs
        self.client = Client(door.socket_path, pbs)
        assert [d.uuid for d in self.client.welcome.devices] == ["NULL"]
        self.memory = self.region("memory", gone)
        self.ring = self.client.open_ring(16)

    def region(self, name, gone=None, size=4096):
        return self.client.register(name, write=True, cuda_ipc=self.pbs.CudaIpc(
            device="NULL", handle=handle(gone), bytes=size))[0].id

    def event(self, reached):
        return self.client.ask(register_event=self.pbs.RegisterEvent(device="NULL", handle=handle(reached)))[0].event_registered.id

    def submit(self, tag, **fields):
        self.ring.submit(submission(tag, RUN, places=[(self.memory, o) for o in (0, 256, 512, 1024)], **SHAPE, **fields))

    def run(self, tag=1, **fields):
        self.submit(tag, **fields)
        return self.ring.wait()


@pytest.fixture
def device(door, pbs):
    opened = []

    def factory(**kw):
        opened.append(Device(door, pbs, **kw))
        return opened[-1]

    yield factory
    for d in opened:
        d.client.close()
    wait_for(lambda: door.gauge("attnd_socket_connections") == 0, "connections to end")
    m = door.metrics()
    assert (m["attnd_socket_regions"], m["attnd_socket_in_flight"]) == (0, 0)


def test_device_memory_runs_where_it_lies(device):
    done = device().run()
    assert (done.status, done.device, done.copy_in_us, done.copy_out_us) == (0, "NULL", 0, 0), done.text


def test_a_registration_is_answered_when_its_memory_is_pinned(door, pbs):
    """The null engine takes 1 ms for 4 MiB, and rests for three where jobs come."""
    size = 256 << 20
    with Client(door.socket_path, pbs) as client, Client(door.socket_path, pbs) as other:
        took = {}
        for name, pinned in (("later", False), ("first", True)):
            fd = memfd(size=size)
            began = time.monotonic()
            client.ask([fd], register_region=pbs.RegisterRegion(name=name, access=2, memfd=pbs.HostMemfd(), pinned=pinned))
            took[name] = time.monotonic() - began
            os.close(fd)
            client.release(name)  # the first one in the midst of it
        assert took["first"] >= 0.064 > took["later"], took
        # A connection that ends while its registration waits takes nothing with it.
        fd = memfd(size=size)
        other.send([fd], register_region=pbs.RegisterRegion(name="left", access=2, memfd=pbs.HostMemfd(), pinned=True))
        os.close(fd)
    wait_for(lambda: door.gauge("attnd_socket_regions") == 0, what="the regions to go")


def test_memory_that_is_gone_is_refused_and_nothing_else_is(device):
    d = device()
    with pytest.raises(Refused, match="process is gone"):
        d.region("late", gone=-1)
    fd = memfd(size=4096)
    with pytest.raises(Refused, match="handles only"):
        d.client.ask([fd], register_region=d.pbs.RegisterRegion(name="x", access=1, vmm_fd=d.pbs.VmmFd(device="NULL", bytes=4096)))
    os.close(fd)
    d.region("late")  # the name is free
    assert d.run().status == 0


def test_a_request_waits_for_its_event_and_nobody_else_does(device):
    d, stranger = device(), device()
    began = time.monotonic()
    d.submit(1, wait=d.event(0.5))
    for _ in range(20):
        assert stranger.run().status == 0
    assert time.monotonic() - began < 0.4
    d.submit(2)
    assert d.ring.wait().tag == 2, "nor does the same client's next request"
    done = d.ring.wait()
    assert (done.tag, done.status) == (1, 0) and 0.5 <= time.monotonic() - began < 2


def test_many_requests_wait_for_a_few_events(device):
    d = device()
    events = [d.event(0.05 * i) for i in range(1, 4)]
    for tag in range(16):
        d.submit(tag, wait=events[tag % 3])
    assert sorted(d.ring.wait().tag for _ in range(16)) == list(range(16))
    for tag in range(100):  # reached already
        assert d.run(tag, wait=events[0], signal=events[1]).status == 0


def test_a_deadline_and_a_cancellation_end_the_wait(device):
    d = device()
    never = d.event(1000)
    began = time.monotonic()
    done = d.run(wait=never, deadline_us=100000)
    assert done.status == -21 and "wait_event" in done.text[0] and 0.1 <= time.monotonic() - began < 0.6
    request = Problem(shape=(1, 8, 1, 16), s_kv=8, h_kv=1).request(d.pbs, at={n: ("memory", o) for n, o in zip("qkvo", (0, 256, 512, 1024))})
    tag = d.client.send(submit=d.pbs.Submit(request=request, wait_event=never))
    assert d.client.ask(cancel=d.pbs.Cancel(tag=tag))[0].cancel_noted.found
    with pytest.raises(Refused, match="CANCELLED"):
        d.client.wait(tag)
    # An event that is given back while a request waits for it stays until that has ended.
    tag = d.client.send(submit=d.pbs.Submit(request=request, wait_event=never))
    release = d.client.send(release_event=d.pbs.ReleaseEvent(id=never))
    with pytest.raises(Refused, match="is not known"):
        d.client.ask(submit=d.pbs.Submit(request=request, wait_event=never))
    assert d.client.ask(cancel=d.pbs.Cancel(tag=tag))[0].cancel_noted.found
    with pytest.raises(Refused, match="CANCELLED"):
        d.client.wait(tag)
    d.client.wait(release)
    assert d.run().status == 0


def test_a_client_leaves_while_its_requests_wait(device, door):
    d = device()
    never = d.event(1000)
    for tag in range(16):
        d.submit(tag, wait=never)
    wait_for(lambda: door.gauge("attnd_socket_in_flight") == 16, "the requests to wait")
    d.client.close()
    wait_for(lambda: door.gauge("attnd_socket_connections") == 0, "the connection to end")


def test_a_new_worker_imports_again_and_goes_on_waiting(device, door):
    d = device()
    lost = device(gone=0.5)
    assert lost.run().status == 0
    d.submit(7, wait=d.event(1.5))
    time.sleep(0.6)
    (worker,) = door.workers()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: door.workers() not in ([], [worker]), "another worker")
    assert d.run(8).status == 0
    done = d.ring.wait()
    assert (done.tag, done.status) == (7, 0)
    wait_for(lambda: lost.run().status == -1, "the legacy handle to be marked lost")
    assert "lost" in lost.run().text[0] and "process is gone" in lost.run().text[0]
    with pytest.raises(Refused, match="is lost"):
        request = Problem(shape=(1, 8, 1, 16), s_kv=8, h_kv=1).request(d.pbs, at={n: ("memory", o) for n, o in zip("qkvo", (0, 256, 512, 1024))})
        lost.client.ask(submit=d.pbs.Submit(request=request))


def test_events_order_device_memory_only(device):
    d = device()
    fd = memfd(size=4096)
    host = d.client.register("host", fd, write=True)[0].id
    os.close(fd)
    d.ring.submit(submission(1, RUN, places=[(host, o) for o in (0, 256, 512, 1024)], wait=d.event(0), **SHAPE))
    done = d.ring.wait()
    assert done.status == -1 and "host memory" in done.text[0]


def test_a_drain_gives_waiting_requests_up(pbs):
    door = SocketDaemon("--drain-timeout-ms", "300", devices="null")
    try:
        d = Device(door, pbs)
        d.submit(1, wait=d.event(1000))
        wait_for(lambda: door.gauge("attnd_socket_in_flight") == 1, "the request to wait")
        assert door.stop() == 0
    finally:
        door.discard()
