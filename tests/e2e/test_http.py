"""HTTP itself: lengths that lie, doubled headers, slow and vanishing clients, uploads that are refused."""
import http.client
import json
import socket
import struct
import subprocess
import threading
import time
from email.utils import parsedate_to_datetime

import pytest

import wire
from daemon import SLOW, wait_for
from refusal import check
from wire import Problem, head

P = Problem()
BODY = P.safetensors()


def ask(attnd, raw, **kw):
    return wire.exchange(attnd.port, raw, **kw)


def test_curl(attnd, tmp_path):
    (tmp_path / "qkv.safetensors").write_bytes(BODY)
    out = tmp_path / "o.safetensors"
    subprocess.run(["curl", "-fsS", "-H", "Content-Type: application/safetensors", "--data-binary", f"@{tmp_path}/qkv.safetensors",
                    "-o", out, f"{attnd.url}/v1/attention?variant=cpu"], check=True, timeout=30)
    tensors, metadata = wire.safetensors_parse(out.read_bytes())
    assert metadata["variant"] == "cpu" and P.judge(tensors["o"], None) == []


def test_requests_and_the_safetensors_package(attnd, tmp_path):
    """What a Python user writes: the package makes the body, requests streams the file."""
    import numpy as np
    import requests
    from safetensors.numpy import load, save_file

    save_file({name: getattr(P, name).astype(np.float16) for name in "qkv"}, tmp_path / "qkv.safetensors", {"made by": "a test"})
    with open(tmp_path / "qkv.safetensors", "rb") as f:
        answer = requests.post(attnd.url + "/v1/attention", params={"variant": "cpu"}, data=f, headers={"Content-Type": wire.SAFETENSORS},
                               timeout=30)
    assert answer.status_code == 200, answer.text
    o = load(answer.content)["o"]
    assert P.judge(("fp16", o.shape, o.tobytes()), None) == []
    # A generator has no length: requests sends it in chunks.
    answer = requests.post(attnd.url + "/v1/attention", data=iter([BODY]), headers={"Content-Type": wire.SAFETENSORS}, timeout=30)
    assert answer.status_code == 411 and "Content-Length" in answer.json()["error"]


def test_keep_alive(attnd):
    with wire.Raw(attnd.port) as raw:
        for _ in range(20):
            raw.send(head("/v1/attention", len(BODY)) + BODY)
            assert raw.answer().status == 200


@pytest.mark.parametrize("between", ["", "TE: trailers", "Expect: 100-continue"])
def test_a_connection_changes_hands(attnd, between):
    """The daemon reads plain requests with tensors itself and leaves a connection to libmicrohttpd when another comes."""
    other = head("/v1/attention", len(BODY), extra=[between]) + BODY if between else head("/v1/variants", method="GET", content_type=None)
    plain = head("/v1/attention", len(BODY)) + BODY
    answers = []
    with wire.Raw(attnd.port) as raw:
        for request in (plain, plain, other, plain, other, plain):
            raw.send(request)
            answers.append(raw.answer())
    assert [a.status for a in answers] == [200] * 6
    tensors = [wire.safetensors_parse(a.body)[0] for a in answers if a.headers["content-type"] == wire.SAFETENSORS]
    assert all(t == tensors[0] for t in tensors)
    with wire.Raw(attnd.port) as raw:  # the same without waiting for answers
        raw.send(plain + plain + other + plain + other + plain)
        assert [raw.answer().status for _ in range(6)] == [200] * 6


def test_heads_of_both_readers_are_alike(attnd):
    """Names and values of an answer's headers do not tell who has read the request."""
    mine, library = (wire.post(attnd.port, "/v1/attention", BODY, extra=["X-Request-Id: same", *more]) for more in ((), ["TE: trailers"]))
    for answer in (mine, library):
        date = answer.headers.pop("date")
        assert parsedate_to_datetime(date).tzinfo is not None and date.endswith("GMT")
    assert len(mine.body) > 0
    mine.headers.pop("content-length"), library.headers.pop("content-length")  # the timings inside have digits
    assert mine.headers == library.headers


@pytest.mark.parametrize("extra", [[], ["TE: trailers"]])
def test_a_body_in_pieces(attnd, extra):
    request = head("/v1/attention", len(BODY), extra=extra) + BODY
    whole = wire.exchange(attnd.port, request)
    for step in (7, 97, 1000, 4096):
        with wire.Raw(attnd.port) as raw:
            for at in range(0, len(request), step):
                raw.send(request[at : at + step])
            answer = raw.answer()
            assert answer.status == 200
            assert wire.safetensors_parse(answer.body)[0] == wire.safetensors_parse(whole.body)[0]


def test_keep_alive_after_a_refusal(attnd):
    """A refusal whose body was taken in whole leaves the connection usable, or closes it and says so."""
    with wire.Raw(attnd.port) as raw:
        raw.send(head("/v1/attention?causal=maybe", len(BODY)) + BODY)
        answer = raw.answer()
        check(answer, 400)
        if answer.headers.get("connection", "").lower() != "close":
            raw.send(head("/v1/attention", len(BODY)) + BODY)
            assert raw.answer().status == 200


def test_pipelined(attnd):
    with wire.Raw(attnd.port) as raw:
        raw.send((head("/v1/attention", len(BODY)) + BODY) * 3)
        assert [raw.answer().status for _ in range(3)] == [200] * 3


def test_body_byte_by_byte_at_the_edges(attnd):
    """Metadata and tensor borders fall into every possible packet."""
    with wire.Raw(attnd.port) as raw:
        data = head("/v1/attention", len(BODY)) + BODY
        edge = len(data) - len(BODY) + 400
        for i in range(edge):
            raw.send(data[i : i + 1])
        raw.send(data[edge:])
        assert raw.answer().status == 200


def test_expect_100_continue(attnd):
    with wire.Raw(attnd.port) as raw:
        raw.send(head("/v1/attention", len(BODY), extra=["Expect: 100-continue"]))
        raw.sock.settimeout(10)
        interim = raw.sock.recv(100)
        assert interim.startswith(b"HTTP/1.1 100"), interim
        raw.buffer = interim.partition(b"\r\n\r\n")[2]
        raw.send(BODY)
        assert raw.answer().status == 200


def test_expect_100_continue_is_refused_before_the_body(start):
    d = start("--max-request-bytes", "1M")
    with wire.Raw(d.port) as raw:
        raw.send(head("/v1/attention", 2 << 20, extra=["Expect: 100-continue"]))
        check(raw.answer(), 413)


# ---- lengths -----------------------------------------------------------------------------------------------------


def test_no_content_length(attnd):
    check(ask(attnd, head("/v1/attention")), 411, "Content-Length")


def test_chunked(attnd):
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    check(ask(attnd, head("/v1/attention", extra=["Transfer-Encoding: chunked"]) + chunk), 411, "Content-Length")


def test_content_length_and_transfer_encoding(attnd):
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    answer = ask(attnd, head("/v1/attention", len(chunk), extra=["Transfer-Encoding: chunked"]) + chunk)
    check(answer, 400)
    assert answer.headers.get("connection", "").lower() == "close"


SMUGGLED = "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n".encode()


# Heads that a proxy in front may read in another way: refused, and nothing after them is taken for a request.
@pytest.mark.parametrize("lines", [
    ["Transfer-Encoding : chunked", f"Content-Length: {len(BODY)}"],
    ["Transfer-Encoding\t: chunked", f"Content-Length: {len(BODY)}"],
    [f"Content-Length : {len(BODY)}"],
    [" folded: x", f"Content-Length: {len(BODY)}"],
    ["X-Any: a\rContent-Length: 3", f"Content-Length: {len(BODY)}"],
    ["X-(Any): a", f"Content-Length: {len(BODY)}"],
    ["Content-Type: application/x-attn", f"Content-Length: {len(BODY)}"],
    ["Content-Encoding: identity", "Content-Encoding: gzip", f"Content-Length: {len(BODY)}"],
    [f"Content-Length: +{len(BODY)}"],
    [f"Content-Length: {len(BODY)},{len(BODY)}"],
    [": nameless", f"Content-Length: {len(BODY)}"],
], ids=lambda lines: "".join(c if c.isalnum() else "_" for c in " ".join(lines)))
def test_ambiguous_heads(attnd, lines):
    raw = "\r\n".join(["POST /v1/attention HTTP/1.1", *lines, "Host: x", f"Content-Type: {wire.SAFETENSORS}", "", ""]).encode()
    with wire.Raw(attnd.port) as conn:
        conn.send(raw + BODY + SMUGGLED)
        while conn.receive():
            pass
    assert conn.buffer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 411")), conn.buffer[:200]
    assert b"HTTP/1.1 200" not in conn.buffer and b"started" not in conn.buffer


def test_another_version_needs_a_host_too(attnd):
    answer = ask(attnd, b"GET /v1/variants HTTP/1.3\r\n\r\n")
    assert answer.status == 400 and b"Host" in answer.body  # libmicrohttpd 1.0 says so itself, in HTML
    assert ask(attnd, b"GET /v1/variants HTTP/1.0\r\n\r\n").status == 200


@pytest.mark.parametrize("second", [len(BODY), len(BODY) + 1, 0])
def test_two_content_lengths(attnd, second):
    answer = ask(attnd, head("/v1/attention", len(BODY), extra=[f"Content-Length: {second}"]) + BODY)
    check(answer, 400, "Content-Length")
    assert answer.headers.get("connection", "").lower() == "close"


@pytest.mark.parametrize("length", ["-1", "abc", "12abc", "0x10", "1e3", "+5", "", "5, 5", "18446744073709551616", "9" * 400])
def test_content_length_that_is_no_number(attnd, length):
    answer = ask(attnd, head("/v1/attention", length) + BODY)
    # The HTTP library refuses some of these before the door sees them, in its own words.
    assert answer is None or answer.status in (400, 411, 413), answer
    assert attnd.post("/v1/attention", BODY).status == 200


@pytest.mark.parametrize("length", [2**40, 2**62, 2**63 - 1])
def test_content_length_absurd(attnd, length):
    began = time.monotonic()
    check(ask(attnd, head("/v1/attention", length)), 413)
    assert time.monotonic() - began < 10


def test_content_length_above_the_limit(start):
    d = start("--max-request-bytes", str(len(BODY)))
    assert d.post("/v1/attention", BODY).status == 200
    check(d.post("/v1/attention", BODY + b"\0"), 413, str(len(BODY)))


def test_body_shorter_than_content_length(attnd):
    """The client ends its side early: nothing to answer, nothing kept."""
    with wire.Raw(attnd.port) as raw:
        raw.send(head("/v1/attention", len(BODY) + 100) + BODY)
        raw.sock.shutdown(socket.SHUT_WR)
        answer = raw.answer()
        assert answer is None or answer.status in (400, 408), answer


def test_body_longer_than_content_length(attnd):
    """The rest would be the next request: it is no HTTP, and that must not hurt."""
    with wire.Raw(attnd.port) as raw:
        raw.send(head("/v1/attention", len(BODY) - 10) + BODY)
        check(raw.answer(), 400)


def test_body_over_an_offered_length_of_zero(attnd):
    check(ask(attnd, head("/v1/attention", 0)), 400)


# ---- heads -------------------------------------------------------------------------------------------------------


def test_no_host(attnd):
    answer = ask(attnd, head("/v1/attention", len(BODY), host=None) + BODY)
    assert answer is not None and answer.status == 400, answer


@pytest.mark.parametrize("kind", [None, "text/plain", "application/json", "application/octet-stream", "", "application/x-attn2"])
def test_content_type(attnd, kind):
    check(ask(attnd, head("/v1/attention", len(BODY), content_type=kind) + BODY), 415, "application/safetensors")


def test_content_type_with_parameters(attnd):
    assert attnd.post("/v1/attention", BODY, "Application/SafeTensors; charset=binary").status == 200


def test_content_encoding(attnd):
    """A compressed body would be read as tensors: it is refused."""
    check(attnd.post("/v1/attention", BODY, extra=["Content-Encoding: gzip"]), (400, 415), "encoding")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "BREW"])
def test_wrong_method(attnd, method):
    answer = attnd.get("/v1/attention", method=method)
    check(answer, 405, "POST")
    assert "POST" in answer.headers.get("allow", "")


@pytest.mark.parametrize("path", ["/v1/atention", "/v1/attention/", "/v1", "/v1/jobs/none-such", "/v1/../v1/attention%00"])
def test_unknown_path(attnd, path):
    answer = attnd.get(path)
    assert answer.status in (400, 404), answer
    assert answer.json()["code"] in ("NOT_FOUND", "INVALID_ARGUMENT")


def test_long_url_and_long_headers(attnd):
    for raw in (head("/v1/attention?variant=" + "x" * 200000, len(BODY)), head("/v1/attention", len(BODY), extra=["A: " + "b" * 200000]),
                head("/v1/attention", len(BODY), extra=[f"A{i}: b" for i in range(20000)])):
        answer = ask(attnd, raw)
        assert answer is None or 400 <= answer.status < 500, answer


@pytest.mark.parametrize("raw", [b"\r\n\r\n", b"GET\r\n\r\n", b"\0" * 100 + b"\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0" * 30,
                                 b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST /v1/attention HTTP/9.9\r\nHost: x\r\n\r\n", b"A" * 100000])
def test_not_http(attnd, raw):
    with wire.Raw(attnd.port, timeout=15) as conn:
        conn.send(raw)
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has closed the connection already
        try:
            while conn.sock.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert attnd.post("/v1/attention", BODY).status == 200


def test_refused_upload_is_answered(start):
    """A client that sends everything before it reads still gets the sentence (http.client sees a broken pipe
    otherwise)."""
    d = start("--max-request-bytes", "1M")
    for _ in range(10):
        conn = http.client.HTTPConnection("127.0.0.1", d.port, timeout=30)
        conn.request("POST", "/v1/attention", bytes(12 << 20), {"Content-Type": wire.SAFETENSORS})
        answer = conn.getresponse()
        assert answer.status == 413
        answer.read()
        conn.close()


def test_traceparent_and_request_id(start):
    d = start("--log-format", "json")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = d.post("/v1/attention?variant=flash9&id=abc-123", BODY, extra=[f"traceparent: 00-{trace}-00f067aa0ba902b7-01"])
    assert check(answer, 404)["request_id"] == "abc-123"
    wait_for(lambda: trace in d.log() and "abc-123" in d.log(), "the trace and request id in the log", 5)
    for line in d.log().splitlines():
        json.loads(line)


# ---- slow and vanishing ------------------------------------------------------------------------------------------


def idle(d):
    return arena_in_use(d) == 0


def arena_in_use(d):
    values = [v for k, v in d.metrics().items() if k.startswith("attnd_arena_used_bytes")]
    assert values, sorted(d.metrics())
    return sum(values)


def test_slow_sender_is_cut_off(start):
    d = start("--min-upload-rate", "1M", "--rate-grace-ms", "300")
    with wire.Raw(d.port, timeout=20 * SLOW) as raw:
        raw.send(head("/v1/attention", len(BODY)))
        began = time.monotonic()
        answered = None
        raw.sock.settimeout(0.05)
        good = iter(BODY)
        while time.monotonic() - began < 15 * SLOW:
            try:
                raw.sock.sendall(bytes([next(good)]))
                answered = raw.sock.recv(4096)
                break
            except (TimeoutError, socket.timeout):
                continue
            except (BrokenPipeError, ConnectionResetError):
                answered = b""
                break
        assert answered is not None, "a sender of 20 bytes a second was still welcome after 15 s"
        assert b" 408 " in answered.split(b"\r\n")[0], answered[:200]
    wait_for(lambda: idle(d), "the arena to be empty")


def test_slow_head_is_cut_off(start):
    d = start("--header-timeout-ms", "500")
    with wire.Raw(d.port, timeout=15 * SLOW) as raw:
        raw.send(b"POST /v1/attention HTTP/1.1\r\nHost: x\r\n")
        raw.answer()
        assert raw.closed()


def test_slow_reader_is_cut_off(start):
    """The answer is larger than all socket buffers and nobody reads it: its place comes back."""
    d = start("--min-download-rate", "64M", "--rate-grace-ms", "300")
    # s_kv = 0: an answer of 48 MiB that costs nothing to compute.
    p = Problem(s_q=4096, s_kv=0, h_q=48, h_kv=48, d=128)
    body = p.safetensors()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", d.port))
    sock.sendall(head("/v1/attention?variant=cpu", len(body)) + body)
    wait_for(lambda: arena_in_use(d) > 0, "the answer to wait in the arena", 20)
    wait_for(lambda: idle(d), "the place of an unread answer to come back", 20)
    sock.close()


def test_idle_connection_is_closed(start):
    d = start("--idle-timeout-ms", "500")
    with wire.Raw(d.port, timeout=10 * SLOW) as raw:
        raw.send(head("/v2/health/live", method="GET", content_type=None))
        assert raw.answer().status == 200
        assert raw.closed()


@pytest.mark.parametrize("stage", ["connected", "head_begun", "head_sent", "in_prefix", "in_header", "in_tensors", "last_byte_missing",
                                   "running", "reading"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_vanishing(attnd, stage, how):
    whole = head("/v1/attention?variant=test_sleep&sm_scale=0.3", len(BODY)) + BODY
    top = len(whole) - len(BODY)
    cut = {"connected": 0, "head_begun": 20, "head_sent": top, "in_prefix": top + 3, "in_header": top + 60, "in_tensors": top + 2000,
           "last_byte_missing": len(whole) - 1, "running": len(whole), "reading": len(whole)}[stage]
    for _ in range(5):
        sock = socket.create_connection(("127.0.0.1", attnd.port))
        sock.sendall(whole[:cut])
        if stage in ("running", "in_tensors"):
            time.sleep(0.1)
        if stage == "reading":
            sock.recv(100)
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    wait_for(lambda: idle(attnd), f"the arena to be empty after clients vanished: {stage}, {how}")
    assert attnd.post("/v1/attention", BODY).status == 200


def test_a_caller_that_leaves_cancels(start):
    """Long work of a caller that left does not hold the device up to its end."""
    d = start("--test-variants", "--watchdog-floor-ms", "60000")
    sock = socket.create_connection(("127.0.0.1", d.port))
    sock.sendall(head("/v1/attention?variant=test_sleep&sm_scale=30", len(BODY)) + BODY)
    time.sleep(0.3)
    sock.close()
    began = time.monotonic()
    assert d.post("/v1/attention?variant=cpu", BODY).status == 200
    assert time.monotonic() - began < 5 * SLOW


def test_bodies_still_arriving_hold_no_more_than_their_share(start):
    """Bodies still arriving may take half of the arena, one peer's a quarter; the rest serves others, and what does not
    fit is told so at once."""
    d = start("--arena-bytes", "256M", "--rate-grace-ms", "60000")
    body = Problem(s_q=2048, s_kv=2048, h_q=16, h_kv=16, d=64).safetensors()
    assert len(body) > 12 << 20
    held, refused = [], 0
    for i in range(40):
        conn = wire.Raw(d.port, peer=f"127.0.0.{10 + i % 10}")
        conn.send(head("/v1/attention", len(body)) + body[:4096])
        held.append(conn)
    for _ in range(5):
        with wire.Raw(d.port, peer="127.0.0.2") as other:
            other.send(head("/v1/attention", len(BODY)) + BODY)
            assert other.answer().status == 200
    time.sleep(3)  # a refused upload is read for up to 2 s before it is answered
    for conn in held:
        conn.sock.settimeout(0.05)
        try:
            answer = conn.answer()
        except (TimeoutError, socket.timeout):
            answer = None
        if answer is not None:
            check(answer, 503)
            assert "retry-after" in answer.headers
            refused += 1
        conn.sock.close()
    assert 20 < refused < 40
    wait_for(lambda: idle(d), "the arena to be empty")


def test_large_bodies_take_turns(start):
    """One thread reads one large body of a peer at a time, but for one whose sender stands still nobody waits."""
    d = start("--http-threads", "1", "--max-request-bytes", "4M")
    problem = Problem(s_q=512, s_kv=512, h_q=8, h_kv=2, d=128)
    body = problem.safetensors()
    answers = []

    def upload():
        with wire.Raw(d.port, timeout=60 * SLOW) as raw:
            for _ in range(3):
                raw.send(head("/v1/attention?variant=cpu", len(body)) + body)
                answers.append(raw.answer())

    with wire.Raw(d.port) as stands:
        stands.send(head("/v1/attention?variant=cpu", len(body)) + body[:len(body) // 2])
        callers = [threading.Thread(target=upload) for _ in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert [answer.status for answer in answers] == [200] * 24
        stands.send(body[len(body) // 2:])
        answers.append(stands.answer())
        assert answers[-1].status == 200
    first = wire.safetensors_parse(answers[0].body)[0]["o"]
    assert problem.judge(first, None) == []
    assert all(wire.safetensors_parse(answer.body)[0]["o"] == first for answer in answers)
    wait_for(lambda: idle(d), "the arena to be empty")


def test_many_connections_at_once(start):
    d = start("--max-connections", "64")
    socks = [socket.create_connection(("127.0.0.1", d.port)) for _ in range(200)]
    time.sleep(0.3)
    for s in socks:
        s.close()
    wait_for(lambda: d.post("/v1/attention", BODY).status == 200, "service after a flood of connections")


def test_a_peer_has_its_number_of_connections(start):
    """However the connections fall to the door's threads; and a place that came back is a place."""
    d = start("--max-connections-per-peer", "5", "--http-threads", "3")

    def served(peer, conns):
        for _ in range(8):
            raw = wire.Raw(d.port, peer=peer, timeout=5 * SLOW)
            try:
                raw.send(head("/v2/health/live", method="GET", content_type=None))
                if raw.answer() is not None:
                    conns.append(raw)
            except OSError:
                pass
        return len(conns)

    first, other = [], []
    assert served("127.0.0.7", first) == 5
    assert served("127.0.0.8", other) == 5
    for raw in first + other:
        raw.sock.close()
    again = []
    wait_for(lambda: served("127.0.0.7", again) == 5, "the places to come back")


@pytest.mark.full
def test_body_over_2_gib(start):
    """K and V of 1.1 GiB each for one query: every offset crosses 2^31, and the answer is checked."""
    import numpy as np

    import reference

    d = start("--arena-bytes", "6G")
    s_kv, dim, step = 4_500_000, 128, 500_000
    rng = np.random.default_rng(1)
    shapes = {"q": (1, 1, 1, dim), "k": (1, s_kv, 1, dim), "v": (1, s_kv, 1, dim)}
    q, k, v = (rng.standard_normal(shape, np.float32).astype(np.float16) for shape in shapes.values())
    header, at = {}, 0
    for (name, shape), x in zip(shapes.items(), (q, k, v)):
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    assert at > 2**31
    text = json.dumps(header).encode()
    prefix = struct.pack("<Q", len(text)) + text
    with wire.Raw(d.port, timeout=300) as raw:
        raw.send(head("/v1/attention?variant=cpu&return_lse=true", len(prefix) + at) + prefix)
        for x in (q, k, v):
            raw.sock.sendall(memoryview(x).cast("B"))
        answer = raw.answer()
    assert answer.status == 200, answer
    tensors, _ = wire.safetensors_parse(answer.body)

    # In pieces, because float64 copies of K and V would need 9 GB.
    parts = range(0, s_kv, step)
    row = q[0, 0, 0]
    s = np.concatenate([k[0, i : i + step, 0].astype(np.float64) @ row.astype(np.float64) for i in parts]) / np.sqrt(dim)
    e = np.exp(s - s.max())
    o64 = sum(e[i : i + step] @ v[0, i : i + step, 0].astype(np.float64) for i in parts) / e.sum()
    plain_s = s.astype(np.float32).astype(np.float16).astype(np.float32)
    plain_e = np.exp(plain_s - plain_s.max())
    p = (plain_e / plain_e.sum()).astype(np.float16).astype(np.float32)
    plain = sum(p[i : i + step] @ v[0, i : i + step, 0].astype(np.float32) for i in parts).astype(np.float16).astype(np.float64)
    got = np.frombuffer(tensors["o"][2], np.float16).astype(np.float64)
    lse = np.frombuffer(tensors["lse"][2], np.float32).astype(np.float64)
    shape = (1, 1, 1, dim)
    assert reference.judge(got.reshape(shape), lse.reshape(1, 1, 1), o64.reshape(shape),
                           (s.max() + np.log(e.sum())).reshape(1, 1, 1), plain.reshape(shape), 2.0**-11 * np.linalg.norm(o64).reshape(1, 1, 1), "fp16") == []
