"""The independent truth of the end-to-end tests: attention in numpy, float64, written from the formula in the design
and from nothing in the C sources.

    S = QK^T * sm_scale, or softcap * tanh(QK^T * sm_scale / softcap)
    causal: row i sees key j when j <= i + s_kv - s_q
    O = softmax(S) V, LSE = ln(sum(exp(S))); a row that sees nothing: O = 0, LSE = -inf

Arrays are [batch, s, heads, d] in float64 whose values are representable in the request's dtype.
"""
import numpy as np

SIZE = {"fp16": 2, "bf16": 2, "fp32": 4}
EPSILON = {"fp16": 2.0**-11, "bf16": 2.0**-8, "fp32": 2.0**-24}


def bf16_bits(x):
    """float -> bfloat16 bit patterns, round to nearest even (as in IEEE 754, from float32)."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    nan = np.isnan(np.asarray(x, np.float32))
    return np.where(nan, 0x7FC0, rounded).astype(np.uint16)


def to_bytes(x, dtype):
    if dtype == "bf16":
        return bf16_bits(x).tobytes()
    return np.asarray(x).astype({"fp16": np.float16, "fp32": np.float32}[dtype]).tobytes()


def from_bytes(data, dtype, shape):
    if dtype == "bf16":
        bits = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).astype(np.float64).reshape(shape)
    kind = {"fp16": np.float16, "fp32": np.float32}[dtype]
    return np.frombuffer(data, kind).astype(np.float64).reshape(shape)


def rounded(x, dtype):
    x = np.asarray(x)
    return from_bytes(to_bytes(x, dtype), dtype, x.shape)


def normal(shape, dtype, seed):
    return rounded(np.random.default_rng(seed).standard_normal(shape), dtype)


def mask(s_q, s_kv, causal):
    if not causal:
        return np.ones((s_q, s_kv), bool)
    i = np.arange(s_q)[:, None]
    j = np.arange(s_kv)[None, :]
    return j <= i + s_kv - s_q


def _attend(q, k, v, causal, sm_scale, softcap, kind, rnd):
    batch, s_q, h_q, d = q.shape
    s_kv, h_kv = k.shape[1], k.shape[2]
    scale = kind(1 / np.sqrt(d) if sm_scale is None else sm_scale)
    out = np.zeros((batch, s_q, h_q, d))
    lse = np.full((batch, h_q, s_q), -np.inf)
    seen = mask(s_q, s_kv, causal)
    alive = seen.any(axis=1)
    if s_kv == 0 or not alive.any():
        return out, lse
    q, k, v = (x.astype(kind) for x in (q, k, v))
    for b in range(batch):
        for h in range(h_q):
            g = h // (h_q // h_kv)
            s = rnd(q[b, :, h] @ k[b, :, g].T * scale).astype(kind)
            if softcap:
                s = (kind(softcap) * np.tanh(s / kind(softcap))).astype(kind)
            s = np.where(seen, s, -np.inf)[alive]
            top = s.max(axis=1, keepdims=True)
            e = np.exp(s - top)
            total = e.sum(axis=1, keepdims=True)
            p = rnd(e / total).astype(kind)
            out[b, alive, h] = p @ v[b, :, g]
            lse[b, h, alive] = (top + np.log(total))[:, 0]
    return out, lse


def attention(q, k, v, causal=False, sm_scale=None, softcap=0.0):
    """O64 [batch, s_q, h_q, d] and LSE64 [batch, h_q, s_q]."""
    # The request carries both scalars as float32.
    sm_scale = None if sm_scale is None else float(np.float32(sm_scale))
    return _attend(q, k, v, causal, sm_scale, float(np.float32(softcap)), np.float64, lambda x: x)


def naive(q, k, v, dtype, causal=False, sm_scale=None, softcap=0.0):
    """The plain formula: scores and probabilities rounded to the dtype, float32 accumulation, O rounded."""
    out, _ = _attend(q, k, v, causal, sm_scale, softcap, np.float32, lambda x: rounded(x, dtype))
    return rounded(out, dtype)


def packed(q, k, v, cu_q, cu_k, fn):
    """Runs fn(q, k, v) -> array of [1, s_q, …] for each sequence of packed [total, heads, d]."""
    return np.concatenate([fn(q[None, a:b], k[None, c:e], v[None, c:e])[0] for a, b, c, e in zip(cu_q, cu_q[1:], cu_k, cu_k[1:])])


def row_floor(q, k, v, dtype, **ask):
    """What the plain formula's error of each row counts as at least, because it may be small by luck. 16-bit: the one
    rounding of O, relative to the row. fp32: every term is rounded too, and a score of size x turns its rounding into x
    times that in exp: 4 roundoffs of the terms' sizes. (Without it PyTorch's own fp32 attention fails in 1 to 12 of 64
    rows, and so do two ways to sum the plain formula against each other.)"""
    o64, lse64 = attention(q, k, v, **ask)
    if dtype != "fp32":
        return EPSILON[dtype] * np.linalg.norm(o64, axis=-1)
    size, _ = attention(q, k, np.abs(v), **ask)
    scores = np.maximum(1, np.abs(np.where(np.isfinite(lse64), lse64, 0))).transpose(0, 2, 1)
    return 4 * EPSILON[dtype] * scores * np.linalg.norm(size, axis=-1)


def judge(o, lse, o64, lse64, onaive, floor, dtype, softcap=0.0):
    """Section 6 of the design; `floor` from row_floor(). Returns a list of what is wrong; empty when the answer is right."""
    wrong = []
    if o.shape != o64.shape:
        return [f"O has shape {o.shape}, expected {o64.shape}"]
    if not np.isfinite(o).all():
        wrong.append(f"O has {np.count_nonzero(~np.isfinite(o))} elements that are not finite")
    if o.size:
        max_abs = np.abs(o - o64).max()
        allowed = 2 * np.abs(onaive - o64).max() + 2 * np.abs(rounded(rounded(o64 + 0.3, dtype) - 0.3, dtype) - o64).max()
        if not max_abs <= allowed:
            wrong.append(f"max|O - O64| = {max_abs:.3g}, allowed {allowed:.3g}")
        norm = np.linalg.norm(o64, axis=-1)
        dead = norm == 0
        if np.any(o[dead] != 0):
            wrong.append("a masked row of O is not zero")
        row = np.linalg.norm(o - o64, axis=-1)[~dead] / norm[~dead]
        limit = 2 * np.maximum(np.linalg.norm(onaive - o64, axis=-1), floor)[~dead] / norm[~dead]
        if np.any(row > limit):
            worst = np.argmax(row / limit)
            wrong.append(f"row error {row[worst]:.3g}, allowed {limit[worst]:.3g}; {np.count_nonzero(row > limit)} rows")
    if lse is not None:
        if lse.shape != lse64.shape:
            return wrong + [f"LSE has shape {lse.shape}, expected {lse64.shape}"]
        empty = np.isneginf(lse64)
        if not np.array_equal(np.isneginf(lse), empty) or np.isnan(lse).any():
            wrong.append("LSE is not -inf exactly on the masked rows")
        elif (~empty).any():
            error = (np.abs(lse[~empty] - lse64[~empty]) / np.maximum(1, np.abs(lse64[~empty]))).max()
            limit = 1e-5 + (softcap * 2.0**-11 if softcap else 0)
            if error > limit:
                wrong.append(f"LSE error {error:.3g}, allowed {limit:.3g}")
    return wrong
