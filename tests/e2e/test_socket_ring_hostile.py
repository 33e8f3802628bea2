"""Clients that write what they like into their ring, or never read it: each hurts only itself. The `door` fixture looks
afterwards: the same process, no connection, region or descriptor left behind."""
import fcntl
import multiprocessing
import os
import random
import re
import struct
import threading
import time

import pytest

from daemon import SLOW, cpu_seconds, wait_for
from socket_kit import Problem, connect, door, module_daemon, works  # noqa: F401
from unix_client import CANCEL, NOP, Client, Refused, submission


def test_rings_that_are_wrong(connect, pbs):
    c = connect()
    for entries in (0, 1, 7, 12, 2048, 2**31):
        with pytest.raises(Refused, match="power of two"):
            c.open_ring(entries)
    c.open_ring(8)
    with pytest.raises(Refused, match="already"):
        c.open_ring(8)


@pytest.mark.parametrize("what", ["tail far ahead", "tail behind", "head ahead", "head behind"])
def test_impossible_counters_end_the_connection(connect, pbs, door, what):
    c = connect()
    ring = c.open_ring(8)
    ring.submit(*[submission(i, NOP) for i in range(4)])
    for _ in range(4):
        ring.wait()
    if what.startswith("tail"):
        ring.put(64, 4 + 9 if "ahead" in what else 2)
    else:
        ring.put(256, 2**63 if "ahead" in what else 2**64 - 5)
        ring.put(64, 5)
    ring.ring_bell()
    answer, _ = c.receive()
    assert answer.tag == 0 and "counters are impossible" in answer.error.error
    with pytest.raises((EOFError, ConnectionError)):
        c.receive()
    works(door, pbs)


def test_submissions_that_are_wrong(connect, pbs):
    c = connect()
    p = Problem().register(c)
    ring = c.open_ring(64)
    good = bytearray(p.submission(1))
    cases = [(submission(1, op), "operation is not known") for op in (0, 4, 255)]
    cases += [(submission(1, NOP, h_q=1), "no use for"), (submission(1, NOP, target=3), "no use for"),
              (submission(1, CANCEL, target=3, d=1), "no use for")]
    cases += [(p.submission(1, **fields), sentence) for fields, sentence in [
        (dict(flags=4), "does not know"), (dict(target=1), "does not know"), (dict(tail=b"\1"), "does not know"),
        (dict(dtype=9), "dtype"), (dict(layout=7), "layout"), (dict(h_q=3), "not divisible"), (dict(d=0), "head dim"),
        (dict(d=2**31), "head dim"), (dict(s_q=2**63), "s_q"), (dict(s_q=2**40, batch=2**20), "exceed|not lie inside"),
        (dict(batch=2**32 - 1), "batch"), (dict(priority=101), "priority"), (dict(variant=b"x" * 48), "does not end"),
        (dict(variant=b"a b"), "not a name"), (dict(sm_scale=float("nan")), "sm_scale"), (dict(softcap=-1.0), "softcap"),
        (dict(places=[(p.in_id, 0)] * 3), "o has no place"), (dict(wait=5), "event 5"),
        (dict(places=[(p.in_id, 0)] * 3 + [(p.out_id, 0), (p.out_id, 0)]), "lse has a place"),
        (dict(layout=1, places=[(p.in_id, 0)] * 3 + [(p.out_id, 0)] + [(0, 0), (p.in_id, 0)]), "cu_seqlens_q has a place"),
        (dict(layout=3, batch=2**20), "cu_seqlens_q has no place"),
        (dict(layout=3, batch=2**20, places=[(p.in_id, 0)] * 3 + [(p.out_id, 0), (0, 0), (p.in_id, 0), (p.in_id, 0)]),
         "not inside one of host memory"),
    ]]
    reserved = good[:]
    reserved[132] = 1  # of q's place
    cases.append((bytes(reserved), "does not know"))
    for record, sentence in cases:
        ring.submit(record)
        done = ring.wait()
        assert done.status < 0 and re.search(sentence, done.text[0]), (sentence, done.text)
    dice = random.Random(5)
    for _ in range(3000):
        record = good[:]
        for _ in range(dice.choice((1, 2, 8))):
            record[dice.randrange(8, 256)] = dice.randrange(256)
        record[40:48] = good[40:48] if dice.random() < 0.5 else record[40:48]
        ring.submit(bytes(record))
        assert ring.wait().tag == 1
    ring.submit(p.submission(2))
    assert ring.wait().status == 0
    p.check()


def test_descriptors_rewritten_while_they_are_read(connect, pbs, door):
    """A thread writes noise over every submission all the time: what was copied is checked, so that each is either run
    or refused. Nobody else notices."""
    c = connect()
    p = Problem(shape=(1, 16, 2, 32), s_kv=16, h_kv=1).register(c)
    ring = c.open_ring(16)
    stop = threading.Event()
    good = p.submission(0)

    def scribble():
        dice = random.Random(2)
        while not stop.is_set():
            at = ring.s_at + dice.randrange(16 * 256)
            ring.map[at] = dice.randrange(256)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(300):
            ring.submit(*[good] * 8)
            for _ in range(8):
                ring.wait()
        works(door, pbs)
    finally:
        stop.set()
        thread.join()
    for i in range(16):
        ring.submit(p.submission(i))
        assert ring.wait().status == 0


def test_every_word_of_the_ring_rewritten(door, pbs):
    """The header too, counters and sleep words included: in the worst case the connection ends."""
    dice = random.Random(11)
    for _ in range(20):
        c = Client(door.socket_path, pbs)
        ring = c.open_ring(8)
        ring.submit(*[submission(i, NOP) for i in range(8)])
        for _ in range(200):
            at = dice.choice((dice.randrange(0, 384), dice.randrange(0, len(ring.map))))
            ring.map[at] = dice.randrange(256)
            ring.ring_bell()
        c.close()
    works(door, pbs)


def test_a_million_rings_of_the_bell(door, connect, pbs):
    c = connect()
    ring = c.open_ring(8)
    stop = threading.Event()
    one = struct.pack("<Q", 1)

    def flood():
        while not stop.is_set():
            for _ in range(1000):
                os.write(ring.bell, one)

    threads = [multiprocessing.Process(target=lambda: [os.write(ring.bell, one) for _ in range(500_000)]) for _ in range(2)]
    for t in threads:
        t.start()
    times = []
    while any(t.is_alive() for t in threads):
        began = time.monotonic()
        works(door, pbs)
        times.append(time.monotonic() - began)
    for t in threads:
        t.join()
    assert max(times) < 2 * SLOW, times
    # A bell that is full or was emptied by the client itself works no worse for anybody else.
    flags = fcntl.fcntl(ring.bell, fcntl.F_GETFL)
    fcntl.fcntl(ring.bell, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
    os.read(ring.bell, 8)
    os.write(ring.bell, struct.pack("<Q", 2**64 - 2))
    works(door, pbs)
    idle = cpu_seconds(door.pid)
    time.sleep(0.5)
    assert cpu_seconds(door.pid) - idle < 0.2 * SLOW, "the flood is over"


def test_completions_that_nobody_reaps(door, connect, pbs):
    """No more is taken than there is room for; what was published beyond that waits until something is reaped."""
    c = connect()
    p = Problem(shape=(1, 16, 2, 32), s_kv=16, h_kv=1).register(c)
    ring = c.open_ring(8)
    ring.submit(*[p.submission(i) for i in range(8)])
    wait_for(lambda: ring.get(192) == 8, "eight completions")
    ring.submit(*[p.submission(i) for i in range(8, 16)])
    ring.ring_bell()
    works(door, pbs)
    assert ring.get(192) == 8 and ring.get(128) == 8
    idle = cpu_seconds(door.pid)
    time.sleep(0.5)
    assert cpu_seconds(door.pid) - idle < 0.2 * SLOW, "waiting for the client costs nothing"
    done = [ring.take() for _ in range(8)]
    ring.ring_bell()
    done += [ring.wait() for _ in range(8)]
    assert sorted(d.tag for d in done) == list(range(16))


def test_a_full_ring_and_messages_at_once(connect, pbs):
    """Both ways of one connection at their limits together."""
    c = connect()
    p = Problem(shape=(1, 512, 4, 64), s_kv=512).register(c)
    ring = c.open_ring(8)
    tags = [c.send(submit=pbs.Submit(request=p.request(pbs))) for _ in range(64)]
    for i in range(8):
        ring.submit(p.submission(i))
    assert sorted(ring.wait().tag for _ in range(8)) == list(range(8))
    for tag in tags:
        c.wait(tag)
