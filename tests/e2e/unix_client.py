"""A client of the Unix socket's door that shares nothing with libattn: packets by protobuf, the ring by struct and mmap.

It does as it is told, so that tests can be hostile with it."""
import array
import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct
import time

import numpy as np

F_ADD_SEALS, F_GET_SEALS = 1033, 1034
SEAL_SHRINK, SEAL_GROW, SEAL_WRITE = 2, 4, 8
DTYPE = {"fp16": 1, "bf16": 2, "fp32": 3}
FUTEX_WAIT, SYS_FUTEX = 0, 202


def memfd(data=None, size=None, seals=SEAL_SHRINK | SEAL_GROW, allocate=True, flags=os.MFD_ALLOW_SEALING):
    fd = os.memfd_create("test", os.MFD_CLOEXEC | flags)
    size = len(data) if size is None else size
    os.ftruncate(fd, size)
    if allocate:
        os.posix_fallocate(fd, 0, size)
    if data is not None:
        os.pwrite(fd, data, 0)
    if seals:
        fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd


class Refused(Exception):
    def __init__(self, error):
        super().__init__(f"{error.code}: {error.error}")
        self.code, self.sentence, self.missing, self.retryable = (
            error.code, error.error, list(error.missing), error.retryable)


class Client:
    def __init__(self, path, pbs, hello=True, timeout=20):
        self.pbs = pbs
        self.tag = 0
        self.answers = {}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(path)  # without a timeout: it would not wait for room in the listener's queue
        self.socket.settimeout(timeout)
        if hello:
            self.welcome = self.ask(hello=pbs.Hello(version_min=1, version_max=1, client="test"))[0].welcome

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send_raw(self, data, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([data], rights)

    def send(self, fds=(), **what):
        self.tag += 1
        self.send_raw(self.pbs.SocketRequest(tag=self.tag, **what).SerializeToString(), fds)
        return self.tag

    def receive(self):
        """(answer, descriptors); EOFError at the end."""
        data, ancillary, flags, _ = self.socket.recvmsg(1 << 17, socket.CMSG_SPACE(8 * 4))
        if not data:
            raise EOFError
        fds = array.array("i")
        for _, _, part in ancillary:
            fds.frombytes(part[: len(part) // 4 * 4])
        return self.pbs.SocketAnswer.FromString(data), list(fds)

    def wait(self, tag):
        while tag not in self.answers:
            answer, fds = self.receive()
            self.answers[answer.tag] = (answer, fds)
            if answer.tag == 0 and tag != 0:
                raise Refused(answer.error)
        answer, fds = self.answers.pop(tag)
        if answer.WhichOneof("what") == "error":
            raise Refused(answer.error)
        return answer, fds

    def ask(self, fds=(), **what):
        try:
            tag = self.send(fds, **what)
        except BrokenPipeError:
            tag = self.tag  # the daemon has ended the connection, and perhaps said why
        return self.wait(tag)

    def register(self, name, fd=None, write=False, **memory):
        access = 2 if write else 1
        if fd is not None:
            memory = {"memfd": self.pbs.HostMemfd()}
        answer, fds = self.ask([fd] if fd is not None else [],
                               register_region=self.pbs.RegisterRegion(name=name, access=access, **memory))
        return answer.region_registered, fds

    def release(self, name):
        return self.ask(release_region=self.pbs.ReleaseRegion(name=name))

    def open_ring(self, entries=64):
        answer, fds = self.ask(open_ring=self.pbs.OpenRing(entries=entries))
        return Ring(fds, answer.ring_opened)


def request(pbs, q, k, v, places, dtype=None, return_lse=False, **fields):
    """An AttentionRequest; places: {"q": (region, offset), …} and numpy arrays for the shapes."""
    pb = pbs.attn_dot_v1_dot_attention__pb2
    dtype = dtype or {"float16": "fp16", "float32": "fp32"}[str(q.dtype)]

    def tensor(name, x):
        region, offset = places[name]
        return pb.Tensor(shape=x.shape, region=pb.RegionSlice(region=region, offset=offset, length=x.nbytes))

    r = pb.AttentionRequest(dtype=DTYPE[dtype], q=tensor("q", q), k=tensor("k", k), v=tensor("v", v), **fields)
    region, offset = places["o"]
    r.o.region.CopyFrom(pb.RegionSlice(region=region, offset=offset, length=q.nbytes))
    if return_lse:
        r.return_lse = True
        region, offset = places["lse"]
        r.lse.region.CopyFrom(pb.RegionSlice(region=region, offset=offset, length=q.nbytes // q.itemsize // q.shape[-1] * 4))
    return r


SUBMISSION, COMPLETION = 256, 1024
NOP, RUN, CANCEL = 1, 2, 3


def submission(tag, op, dtype=0, layout=0, flags=0, priority=0, batch=0, h_q=0, h_kv=0, d=0, s_q=0, s_kv=0, sm_scale=0.0,
               softcap=0.0, deadline_us=0, wait=0, signal=0, variant=b"", places=(), target=0, tail=b""):
    """places: up to seven (region, offset), in the order of attn/v1/shm_ring.h."""
    out = struct.pack("<QQBBBBiIIIIQQffQII48s", tag, target, op, dtype, layout, flags, priority, batch, h_q, h_kv, d, s_q,
                      s_kv, sm_scale, softcap, deadline_us, wait, signal, variant)
    places = list(places) + [(0, 0)] * (7 - len(places))
    for region, offset in places:
        out += struct.pack("<IIQ", region, 0, offset)
    out += tail.ljust(16, b"\0")
    assert len(out) == SUBMISSION
    return out


class Completion:
    def __init__(self, data):
        (self.tag, self.status, self.batch_size, self.attempts, items, self.kernel_us, _, self.queue_us, self.copy_in_us,
         self.copy_out_us, self.total_us) = struct.unpack_from("<QiIIIddQQQQ", data)
        self.variant = data[72:120].split(b"\0")[0].decode()
        self.device = data[120:168].split(b"\0")[0].decode()
        self.text = [t.decode() for t in data[224:].split(b"\0")[:items]]


class Ring:
    def __init__(self, fds, opened):
        memory, self.bell, self.pipe = fds
        self.entries = opened.entries
        self.map = mmap.mmap(memory, opened.bytes)
        os.close(memory)
        magic, version, entries, s_bytes, c_bytes, self.s_at, self.c_at = struct.unpack_from("<QIIIIQQ", self.map)
        assert magic == 0x676E69722F317661 and version == 1 and entries == opened.entries
        assert (s_bytes, c_bytes) == (SUBMISSION, COMPLETION)
        self.tail = self.head = 0

    def close(self):
        self.map.close()
        os.close(self.bell)
        os.close(self.pipe)

    # By ctypes: struct writes byte by byte, and the other side would see halves of a counter.
    def get(self, at, kind=ctypes.c_uint64):
        return kind.from_buffer(self.map, at).value

    def put(self, at, value, kind=ctypes.c_uint64):
        kind.from_buffer(self.map, at).value = value

    def ring_bell(self):
        os.write(self.bell, struct.pack("<Q", 1))

    def submit(self, *records):
        for record in records:
            at = self.s_at + self.tail % self.entries * SUBMISSION
            self.map[at:at + SUBMISSION] = record
            self.tail += 1
        self.put(64, self.tail)
        if self.get(136, ctypes.c_uint32):
            self.ring_bell()

    def take(self):
        """The next completion, or None."""
        if self.get(192) == self.head:
            return None
        at = self.c_at + self.head % self.entries * COMPLETION
        completion = Completion(self.map[at:at + COMPLETION])
        self.head += 1
        self.put(256, self.head)
        return completion

    def wait(self, timeout=20, futex=False):
        end = time.monotonic() + timeout
        while True:
            completion = self.take()
            if completion is not None:
                return completion
            if time.monotonic() > end:
                raise TimeoutError("no completion")
            seen = self.get(200, ctypes.c_uint32)
            self.put(320, 1 if futex else 2, ctypes.c_uint32)
            if self.get(192) != self.head:
                continue
            if futex:
                self._futex_wait(200, seen)
            elif select.select([self.pipe], [], [], 1)[0]:
                os.read(self.pipe, 64)

    def _futex_wait(self, at, seen):
        word = ctypes.c_uint32.from_buffer(self.map, at)
        limit = (ctypes.c_long * 2)(1, 0)
        ctypes.CDLL(None, use_errno=True).syscall(SYS_FUTEX, ctypes.byref(word), FUTEX_WAIT, ctypes.c_uint32(seen), limit,
                                                  None, 0)
        del word


def attention(q, k, v, causal=False):
    """fp64 truth for bshd with GQA: O and LSE."""
    b, s_q, h_q, d = q.shape
    s_kv, h_kv = k.shape[1], k.shape[2]
    qd, kd, vd = (x.astype(np.float64) for x in (q, k, v))
    kd, vd = (np.repeat(x, h_q // h_kv, axis=2) for x in (kd, vd))
    scores = np.einsum("bihd,bjhd->bhij", qd, kd) / np.sqrt(d)
    if causal:
        i, j = np.arange(s_q)[:, None], np.arange(s_kv)[None, :]
        scores = np.where(j <= i + s_kv - s_q, scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    p = np.exp(scores - top)
    total = p.sum(-1, keepdims=True)
    return np.einsum("bhij,bjhd->bihd", p / total, vd), (top + np.log(total))[..., 0]
