"""Part "flood" of batch_bench.py: the p99 of a victim with one connection beside a well-behaved neighbour and beside a flood of
64 connections, requests of equal size, HTTP. Bar: the second at most twice the first.

Where the machine has cores enough, victim and other client each have a physical core of their own and the daemon the rest, in
both cases alike: clients elsewhere would not take each other's core, and a client that does not get to run is not what the
daemon owes it. The daemon keeps whatever else there is to share: loops, scheduler, worker, link, memory.

Rounds alternate; the figure is the median of the rounds' p99. Below it stands where the victim's time went, by its own clock
(sending, waiting, receiving) and by what its answers say of themselves: door (all outside of the scheduler: the request read,
the answer sent, and waits for both) and total (queue, copy in, kernel, copy out), each with p50, p99, and its mean among the
slowest hundredth of the requests."""
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import service_common as common

ROUNDS = 5
SECONDS, BEFORE = 1.5, 0.7  # of the victim; the others begin with it and are there until it has ended
CASES = (("one well-behaved neighbour", 1), ("a flood of 64 connections", 64))
PARTS = ("sending_us", "waiting_us", "receiving_us", "door_us", "total_us", "queue_us", "copy_in_us", "kernel_us", "copy_out_us",
         "batch_size")
CORES_APART = 12


def cores_apart():
    """Cores of the victim, of the other client, and of the daemon: by physical core. None where there are too few."""
    usable = os.sched_getaffinity(0)
    by_core = {}
    for cpu in sorted(usable):
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
        except OSError:
            siblings = str(cpu)
        by_core.setdefault(siblings, set()).add(cpu)
    cores = list(by_core.values())
    if len(usable) < CORES_APART or len(cores) < 4:
        return None
    return cores[-1], cores[-2], usable - cores[-1] - cores[-2]


def on(cores, call, *args):
    """Calls with the thread on these cores, for what it starts to inherit."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        return call(*args)
    finally:
        os.sched_setaffinity(0, before)


def links(server):
    """Bytes over the link so far, and those of them from or to memory that was not pinned."""
    moved = common.metrics(server)
    return moved.get("attnd_link_bytes_total", 0), moved.get("attnd_link_unpinned_bytes_total", 0)


def run(binary, folder, device, start):
    shape = dict(b=1, s_q=64, s_kv=64) if device == "cpu" else dict(b=1, s_q=512, s_kv=512)
    body = common.body_file(folder, "flood", **shape, h_q=8, h_kv=2, d=128)
    everywhere = os.sched_getaffinity(0)
    victims_own, others_own, daemons = cores_apart() or (everywhere, everywhere, everywhere)
    server = on(daemons, start)

    def load(cores, source, callers, seconds, before):
        return on(cores, common.load, binary, server, "/v1/attention", body, callers, seconds, before, ("--source", source, "--parts"))

    seen = {name: [] for name, _ in CASES}
    others = {name: [] for name, _ in CASES}
    unpinned = {name: 0 for name, _ in CASES}
    try:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(ROUNDS):
                for name, callers in CASES:
                    before = links(server)
                    other = pool.submit(load, others_own, "127.0.0.2", callers, SECONDS + BEFORE + 0.3, 0.2)
                    seen[name].append(pool.submit(load, victims_own, "127.0.0.3", 1, SECONDS, BEFORE).result())
                    others[name].append(other.result())
                    after = links(server)
                    unpinned[name] += (after[1] - before[1]) / max(1, after[0] - before[0]) / ROUNDS
        alone = [load(others_own, "127.0.0.2", 64, SECONDS, 0.3)["rps"] for _ in range(3)]
    finally:
        server.stop()
    report(seen, others, unpinned, alone, len(victims_own) < len(everywhere))


def report(seen, others, unpinned, alone, apart):
    print(f"\na victim with one connection beside another peer, requests of equal size, HTTP; medians of {ROUNDS} rounds of {SECONDS} s; "
          f"{'each client has a core of its own, the daemon the others' if apart else 'clients and daemon share all cores'}")
    p99 = {}
    for name, rounds in seen.items():
        p99[name] = common.median([r["p99_us"] for r in rounds])
        print(f"  beside {name:28} p50 {common.median([r['p50_us'] for r in rounds]):8.0f}  p99 {p99[name]:8.0f} us  "
              f"(rounds {min(r['p99_us'] for r in rounds):.0f} to {max(r['p99_us'] for r in rounds):.0f})  of {sum(r['requests'] for r in rounds)} requests; "
              f"the other {common.median([r['rps'] for r in others[name]]):.0f} requests/s; {100 * unpinned[name]:.0f} % of link bytes not pinned")
        for part in PARTS:
            of = [common.median([r["parts"][part][what] for r in rounds]) for what in ("p50", "p99", "slow")]
            print(f"    {part:13} p50 {of[0]:8.1f}  p99 {of[1]:8.1f}  mean of the slowest {of[2]:8.1f}")
    print(f"  the flood alone {common.median(alone):.0f} requests/s")
    good, bad = p99.values()
    print(f"  ratio {bad / good:.2f}: {'met' if bad <= 2 * good else 'MISSED'} 2")
