"""Many callers over HTTP: what waits together runs together, in order and in turns, and a fault in a group costs only whom
it should. The rules themselves are tested without HTTP (tests/unit/sched)."""
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import wire
from daemon import SLOW, wait_for
from test_http import arena_in_use
from wire import Problem, head

SMALL = Problem(s_q=8, s_kv=8, h_q=2, h_kv=2, d=16, return_lse=True)
BODY = SMALL.safetensors()


def path(variant, **more):
    return "/v1/attention?" + SMALL.query(variant=variant, **more)


class Caller:
    """One request on a connection of its own, sent when made; answer() waits for it."""

    def __init__(self, d, where, peer="127.0.0.1", body=BODY):
        self.raw = wire.Raw(d.port, timeout=60 * SLOW, peer=peer)
        self.raw.send(head(where, len(body)) + body)

    def answer(self):
        answer = self.raw.answer()
        self.at = time.monotonic()
        self.raw.sock.close()
        assert answer is not None, "closed without an answer"
        return answer


def told(answer):
    """Tensors and what happened."""
    assert answer.status == 200, answer
    tensors, metadata = wire.safetensors_parse(answer.body)
    return {k: v[2] for k, v in tensors.items()}, metadata


def queued(d, count):
    wait_for(lambda: d.get("/v1/status").json()["queued"] == count, f"{count} requests to wait")


def busy(d, seconds):
    """Keeps the device busy; returns when it is."""
    caller = Caller(d, path("test_sleep", sm_scale=seconds))
    wait_for(lambda: d.get("/v1/status").json()["running"] >= 1, "the device to be busy")
    return caller


def test_what_waits_runs_as_one_launch(start):
    d = start("--test-variants")
    alone, metadata = told(d.post(path("cpu"), BODY))
    assert metadata["batch_size"] == "1"
    before = d.metrics()
    blocker = busy(d, 0.6)
    callers = [Caller(d, path("cpu")) for _ in range(10)] + [Caller(d, path("reference")) for _ in range(3)]
    queued(d, 13)
    told(blocker.answer())
    for i, caller in enumerate(callers):
        tensors, metadata = told(caller.answer())
        assert metadata["variant"] == ("cpu" if i < 10 else "reference")
        assert metadata["batch_size"] == ("10" if i < 10 else "3"), metadata
        assert metadata["device"] == "CPU" and float(metadata["queue_us"]) > 0 and float(metadata["kernel_us"]) > 0
        if i < 10:
            assert tensors == alone
    after = d.metrics()
    label = '{device="CPU",index="0"}'
    assert after["attnd_device_launches_total" + label] - before["attnd_device_launches_total" + label] == 3
    assert after["attnd_device_helper_launches_total" + label] == 0
    assert after["attnd_device_requests_total" + label] - before["attnd_device_requests_total" + label] == 14
    assert after["attnd_group_size_count" + label] - before["attnd_group_size_count" + label] == 3
    assert after['attnd_group_size_bucket{device="CPU",index="0",le="16"}'] - before['attnd_group_size_bucket{device="CPU",index="0",le="8"}'] == 3
    assert after["attnd_device_tokens_total" + label] - before["attnd_device_tokens_total" + label] == 14 * 8
    assert after["attnd_device_groups_in_flight" + label] == 0


def test_priority_and_deadline_decide(start):
    d = start("--test-variants", "--max-group-requests", "1")
    blocker = busy(d, 0.6)
    order = {"none": {}, "late": {"deadline_ms": 60000}, "soon": {"deadline_ms": 30000}, "first": {"priority": 5}, "last": {"priority": -5}}
    callers = {}
    for name in ("last", "none", "late", "soon", "first"):
        callers[name] = Caller(d, path("test_sleep", sm_scale=0.05, **order[name]))
        queued(d, len(callers))
    told(blocker.answer())
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda c: told(c.answer()), callers.values()))
    assert sorted(callers, key=lambda name: callers[name].at) == ["first", "soon", "late", "none", "last"]


def test_a_flood_does_not_hold_up_another_peer(start):
    d = start("--test-variants", "--max-group-requests", "1")
    big = Problem(s_q=400, s_kv=400, h_q=4, h_kv=2, d=64)
    where, body = "/v1/attention?" + big.query(variant="cpu"), big.safetensors()
    blocker = busy(d, 1.0)
    flood = [Caller(d, where, peer="127.0.0.2", body=body) for _ in range(40)]
    queued(d, 40)
    victim = Caller(d, where, peer="127.0.0.3", body=body)
    queued(d, 41)
    told(blocker.answer())
    with ThreadPoolExecutor(41) as pool:
        list(pool.map(lambda c: told(c.answer()), [victim, *flood]))
    # Of equal shares one is before it; in line it would be 40. The rest is for threads of this test that are late.
    assert sum(c.at < victim.at for c in flood) <= 12


def test_a_full_queue_says_so_at_once_and_recovers(start):
    d = start("--test-variants", "--queue-limit", "4")
    blocker = busy(d, 1.0)
    waiting = [Caller(d, path("null")) for _ in range(4)]
    queued(d, 4)
    began = time.monotonic()
    refused = d.post(path("null"), BODY)
    assert time.monotonic() - began < 0.5 * SLOW
    assert refused.status == 503 and refused.json()["retryable"] is True and "retry-after" in refused.headers, refused
    told(blocker.answer())
    for caller in waiting:
        told(caller.answer())
    told(d.post(path("null"), BODY))


def test_who_leaves_costs_no_device_time(start):
    d = start("--test-variants")
    label = '{device="CPU",index="0"}'
    told(d.post(path("null"), BODY))
    before = d.metrics()
    blocker = busy(d, 0.8)
    callers = [Caller(d, path("null")) for _ in range(6)]
    queued(d, 6)
    for caller in callers[:4]:
        caller.raw.sock.close()
    queued(d, 2)
    late = Caller(d, path("null", deadline_ms=50))
    assert late.answer().status == 504
    told(blocker.answer())
    for caller in callers[4:]:
        assert told(caller.answer())[1]["batch_size"] == "2"
    after = d.metrics()
    assert after["attnd_device_helper_launches_total" + label] == 0
    assert after["attnd_device_requests_total" + label] - before["attnd_device_requests_total" + label] == 3
    wait_for(lambda: arena_in_use(d) == 0, "the arena to be empty")


@pytest.mark.parametrize("scale, status, text", [(101, 500, "SIGABRT"), (102, 500, "met its poison"), (103, 500, "did not finish")])
def test_only_the_poisonous_request_fails(start, scale, status, text):
    d = start("--test-variants", "--watchdog-floor-ms", str(500 * SLOW))
    blocker = busy(d, 0.5)
    callers = [Caller(d, path("test_poison_serve", sm_scale=scale if i == 3 else 1)) for i in range(8)]
    queued(d, 8)
    told(blocker.answer())
    for i, caller in enumerate(callers):
        answer = caller.answer()
        if i == 3:
            assert answer.status == status and "test_poison_serve" in answer.json()["error"] and text in answer.json()["error"], answer
        else:
            told(answer)
    d.wait_ready()
    told(d.post(path("cpu"), BODY))


def test_a_worker_killed_with_four_groups_in_flight(start):
    d = start("--test-variants", "--pipeline-depth", "4", "--max-group-requests", "3")
    big = Problem(s_q=200, s_kv=200, h_q=4, h_kv=2, d=64, return_lse=True)
    where, body = "/v1/attention?" + big.query(variant="cpu"), big.safetensors()
    expected, _ = told(d.post(where, body))
    for _ in range(3):
        blocker = busy(d, 0.4)
        callers = [Caller(d, where, body=body) for _ in range(20)]
        wait_for(lambda: d.get("/v1/variants").json()["devices"][0]["groups"] == 4, "four groups in flight")
        (worker,) = d.workers()
        os.kill(worker, signal.SIGKILL)
        for caller in callers:
            tensors, _ = told(caller.answer())
            assert tensors == expected
        told(blocker.answer())
    assert json.loads(d.get("/v1/variants").body)["devices"][0]["restarts"] == 3


def test_two_devices_share_the_work(start):
    d = start("--test-variants", "--max-group-requests", "2", devices="cpu,cpu")
    wait_for(lambda: [v["state"] for v in d.get("/v1/variants").json()["devices"]] == ["ready", "ready"], "both devices")
    callers = [Caller(d, path("test_sleep", sm_scale=0.1)) for _ in range(12)]
    first, second = d.workers()
    for caller in callers:
        told(caller.answer())
    metrics = d.metrics()
    shares = [metrics[f'attnd_device_requests_total{{device="CPU",index="{i}"}}'] for i in (0, 1)]
    assert sum(shares) == 12 and min(shares) >= 3, shares
    os.kill(second, signal.SIGKILL)
    for _ in range(10):
        told(d.post(path("cpu"), BODY))
    wait_for(lambda: d.get("/v1/variants").json()["devices"][1]["restarts"] + d.get("/v1/variants").json()["devices"][0]["restarts"] == 1,
             "one worker to be replaced")
