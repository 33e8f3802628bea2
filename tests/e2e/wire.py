"""Both framings of a request, and a raw HTTP client that can be as wrong as a test wants."""
import json
import socket
import struct

import reference

MAGIC = b"ATTN"
SAFETENSORS = "application/safetensors"
XATTN = "application/x-attn"
ST_DTYPE = {"fp16": "F16", "bf16": "BF16", "fp32": "F32", "int32": "I32"}
ST_NAME = {v: k for k, v in ST_DTYPE.items()}


# ---- safetensors -------------------------------------------------------------------------------------------------


def safetensors(tensors, metadata=None):
    """tensors: {name: (dtype, shape, bytes)}."""
    header, at, body = {}, 0, []
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": ST_DTYPE[dtype], "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
        body.append(data)
    return safetensors_raw(json.dumps(header).encode(), b"".join(body))


def safetensors_raw(header, data, length=None):
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def safetensors_parse(body):
    """{name: (dtype, shape, bytes)}, metadata. Checks the layout as strictly as the safetensors package does."""
    (n,) = struct.unpack_from("<Q", body)
    header = json.loads(body[8 : 8 + n])
    metadata = header.pop("__metadata__", {})
    data, tensors, end = body[8 + n :], {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        assert begin == end, f"{name} begins at {begin}, the one before ends at {end}"
        end = stop
        tensors[name] = (ST_NAME[entry["dtype"]], tuple(entry["shape"]), data[begin:stop])
    assert end == len(data), f"tensors end at {end} of {len(data)}"
    return tensors, metadata


# ---- x-attn ------------------------------------------------------------------------------------------------------


def xattn(metadata, data, magic=MAGIC, version=1, flags=0, length=None):
    length = len(metadata) if length is None else length
    return magic + struct.pack("<III", version, flags, length) + metadata + data


def xattn_parse(body):
    """(metadata bytes, data bytes)."""
    magic, version, flags, n = struct.unpack_from("<4sIII", body)
    assert (magic, version, flags) == (MAGIC, 1, 0)
    assert len(body) >= 16 + n
    return body[16 : 16 + n], body[16 + n :]


# ---- a problem and its two encodings -----------------------------------------------------------------------------


class Problem:
    """Random Q, K, V, or given ones, and what is asked. Arrays are [b, s, h, d], or [total, h, d] with cu."""

    def __init__(self, b=1, s_q=16, s_kv=16, h_q=4, h_kv=2, d=32, dtype="fp16", layout="bshd", seed=0, cu_q=None, cu_k=None,
                 scale=1.0, **ask):
        self.dtype, self.layout, self.cu_q, self.cu_k, self.ask = dtype, layout, cu_q, cu_k, ask
        if cu_q is not None:
            shapes = [(cu_q[-1], h_q, d), (cu_k[-1], h_kv, d), (cu_k[-1], h_kv, d)]
        else:
            shapes = [(b, s_q, h_q, d), (b, s_kv, h_kv, d), (b, s_kv, h_kv, d)]
        self.q, self.k, self.v = (
            reference.rounded(scale * reference.normal(shape, dtype, (seed, i)), dtype) for i, shape in enumerate(shapes))

    def _laid(self, x):
        return x.transpose(0, 2, 1, 3) if self.layout == "bhsd" else x

    def tensors(self):
        out = {}
        for name in "qkv":
            x = self._laid(getattr(self, name))
            out[name] = (self.dtype, x.shape, reference.to_bytes(x, self.dtype))
        if self.cu_q is not None:
            for name, cu in (("cu_seqlens_q", self.cu_q), ("cu_seqlens_k", self.cu_k)):
                out[name] = ("int32", (len(cu),), struct.pack(f"<{len(cu)}i", *cu))
        return out

    def query(self, **more):
        ask = dict(self.ask, **more)
        if self.layout == "bhsd":
            ask["layout"] = "bhsd"
        text = {True: "true", False: "false"}
        return "&".join(f"{k}={text.get(v, v) if isinstance(v, bool) else v}" for k, v in ask.items())

    def safetensors(self):
        return safetensors(self.tensors())

    def message(self, pb, **more):
        """AttentionRequest and the tensors' bytes."""
        m = pb.AttentionRequest()
        m.dtype = {"fp16": pb.DTYPE_F16, "bf16": pb.DTYPE_BF16, "fp32": pb.DTYPE_F32}[self.dtype]
        layout = "thd" if self.cu_q is not None else self.layout
        m.layout = {"bshd": pb.LAYOUT_BSHD, "bhsd": pb.LAYOUT_BHSD, "thd": pb.LAYOUT_THD}[layout]
        data = b""
        for name in "qkv":
            _, shape, raw = self.tensors()[name]
            t = getattr(m, name)
            t.shape.extend(shape)
            t.body.offset, t.body.length = len(data), len(raw)
            data += raw
        if self.cu_q is not None:
            m.cu_seqlens_q.extend(self.cu_q)
            m.cu_seqlens_k.extend(self.cu_k)
        for key, value in dict(self.ask, **more).items():
            setattr(m, key, value)
        return m, data

    def xattn(self, pb, **more):
        m, data = self.message(pb, **more)
        return xattn(m.SerializeToString(), data)

    def truth(self):
        """O64, LSE64, the plain formula's O and the floor of its rows' errors, laid out as answers are."""
        ask = {k: self.ask[k] for k in ("causal", "sm_scale", "softcap") if k in self.ask}
        parts = [
            lambda *qkv: reference.attention(*qkv, **ask)[0],
            lambda *qkv: reference.attention(*qkv, **ask)[1].transpose(0, 2, 1),
            lambda *qkv: reference.naive(*qkv, self.dtype, **ask),
            lambda *qkv: reference.row_floor(*qkv, self.dtype, **ask),
        ]
        if self.cu_q is not None:
            o, lse, naive, floor = (reference.packed(self.q, self.k, self.v, self.cu_q, self.cu_k, part) for part in parts)
            return o, lse.T, naive, floor
        o, lse, naive, floor = (part(self.q, self.k, self.v) for part in parts)
        if self.layout == "bhsd":
            floor = floor.transpose(0, 2, 1)
        return self._laid(o), lse.transpose(0, 2, 1), self._laid(naive), floor

    def judge(self, o, lse):
        """o, lse: (dtype, shape, bytes) as answered; lse None when it was not asked for."""
        o64, lse64, naive, floor = self.truth()
        dtype, shape, data = o
        wrong = [] if dtype == self.dtype else [f"O is {dtype}, Q is {self.dtype}"]
        if tuple(shape) != o64.shape:
            return wrong + [f"O has shape {shape}, expected {o64.shape}"]
        got_lse = None
        if lse is not None:
            if lse[0] != "fp32":
                return wrong + [f"LSE is {lse[0]}"]
            got_lse = reference.from_bytes(lse[2], "fp32", lse[1])
        return wrong + reference.judge(reference.from_bytes(data, dtype, shape), got_lse, o64, lse64, naive, floor, self.dtype,
                                       self.ask.get("softcap", 0.0))


# ---- raw HTTP ----------------------------------------------------------------------------------------------------


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.body[:300]!r}>"


def head(path, body_length=None, method="POST", content_type=SAFETENSORS, extra=(), host="x"):
    lines = [f"{method} {path} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    if body_length is not None:
        lines.append(f"Content-Length: {body_length}")
    return ("\r\n".join(lines + list(extra)) + "\r\n\r\n").encode()


class Raw:
    """One connection."""

    def __init__(self, port, timeout=20, peer="127.0.0.1"):
        """`peer`: which of the loopback's addresses the daemon sees as the caller's."""
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout, source_address=(peer, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        """Sends all, or what the server lets through before it closes (its answer may still be there to read)."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def receive(self):
        """Takes in what comes next; false when the server has closed."""
        try:
            data = self.sock.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def answer(self):
        """The next answer, interim ones skipped; None when the server closed without one."""
        while True:
            while b"\r\n\r\n" not in self.buffer:
                if not self.receive():
                    return None
            top, _, rest = self.buffer.partition(b"\r\n\r\n")
            lines = top.decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            headers = {k.strip().lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
            if status < 200:
                self.buffer = rest
                continue
            n = int(headers.get("content-length", 0))
            self.buffer = rest
            while len(self.buffer) < n:
                if not self.receive():
                    raise AssertionError(f"closed after {len(self.buffer)} of {n} bytes of a {status}")
            body, self.buffer = self.buffer[:n], self.buffer[n:]
            return Answer(status, headers, body)

    def closed(self):
        """Whether the server has closed its side (waits for the time limit)."""
        try:
            return not self.receive()
        except (TimeoutError, socket.timeout):
            return False


def exchange(port, data, timeout=20):
    with Raw(port, timeout) as raw:
        raw.send(data)
        return raw.answer()


def post(port, path, body, content_type=SAFETENSORS, extra=(), timeout=60):
    return exchange(port, head(path, len(body), content_type=content_type, extra=extra) + body, timeout)


def get(port, path, method="GET", extra=(), timeout=20):
    return exchange(port, head(path, method=method, content_type=None, extra=extra), timeout)
