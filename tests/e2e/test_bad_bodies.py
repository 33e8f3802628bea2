"""Bodies whose framing is wrong: safetensors headers and x-attn prefixes, protobuf and slices."""
import json
import struct

import pytest

import wire
from refusal import check
from wire import Problem

GOOD = Problem()
TENSORS = GOOD.tensors()
DATA = b"".join(raw for _, _, raw in TENSORS.values())


def header(**change):
    """The JSON header of GOOD with tensors replaced (None: left out)."""
    at, out = 0, {}
    for name, (_, shape, raw) in TENSORS.items():
        out[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    for name, value in change.items():
        if value is None:
            del out[name]
        elif isinstance(value, dict) and name in out:
            out[name].update(value)
        else:
            out[name] = value
    return out


def body(head, data=DATA, **kw):
    return wire.safetensors_raw(head if isinstance(head, bytes) else json.dumps(head).encode(), data, **kw)


q_size = len(TENSORS["q"][2])
text = json.dumps(header()).encode()

SAFETENSORS = {
    "empty_body": b"",
    "seven_bytes": b"\0" * 7,
    "only_a_length": struct.pack("<Q", 8),
    "header_length_0": body(header(), length=0),
    "header_length_2^63": body(header(), length=2**63),
    "header_length_2^64-1": body(header(), length=2**64 - 1),
    "header_length_2^64-8": body(header(), length=2**64 - 8),
    "header_longer_than_body": body(header(), length=len(DATA) * 2),
    "header_one_too_short": body(header(), length=len(text) - 1),
    "not_json": body(b"q, k and v, please"),
    "json_array": body(b"[]"),
    "json_string": body(b'"q"'),
    "json_null": body(b"null"),
    "json_cut": body(text[:-3]),
    "json_trailing": body(text + b"{}"),
    "json_trailing_comma": body(text[:-1] + b",}"),
    "json_nul": body(text[:-1] + b"\0}"),
    "json_deep_array": body(b"[" * 100000),
    "json_deep_object": body(b'{"a":' * 50000),
    "json_deep_metadata": body(b'{"__metadata__":' + b"[" * 50000 + b"]" * 50000 + b"," + text[1:]),
    "json_bad_utf8": body(b'{"\xff\xfe":' + text[5:]),
    "json_surrogate": body(text.replace(b'"q"', b'"\\ud800"', 1)),
    "json_control": body(text.replace(b'"F16"', b'"F\n16"', 1)),
    "json_comment": body(b"/* */" + text),
    "empty_object": body(b"{}", b""),
    "duplicate_tensor": body(text[:-1] + b', "q": ' + json.dumps(header()["q"]).encode() + b"}"),
    "duplicate_key": body(text.replace(b'"dtype": "F16"', b'"dtype": "F16", "dtype": "F16"', 1)),
    "duplicate_metadata": body(b'{"__metadata__": {}, "__metadata__": {}, ' + text[1:]),
    "unknown_tensor": body(header(mask={"dtype": "F16", "shape": [0], "data_offsets": [len(DATA), len(DATA)]})),
    "unknown_key": body(header(q={"stride": [1]})),
    "missing_v": body(header(v=None), DATA[: -len(TENSORS["v"][2])]),
    "missing_dtype": body(text.replace(b'"dtype": "F16", ', b"", 1)),
    "missing_shape": body({**header(), "q": {"dtype": "F16", "data_offsets": [0, q_size]}}),
    "missing_offsets": body({**header(), "q": {"dtype": "F16", "shape": [1, 16, 4, 32]}}),
    "tensor_is_a_list": body({**header(), "q": []}),
    "tensor_is_a_number": body({**header(), "q": 7}),
    "dtype_f64": body(header(q={"dtype": "F64", "shape": [1, 16, 1, 32]})),
    "dtype_i8": body(header(q={"dtype": "I8"})),
    "dtype_unknown": body(header(q={"dtype": "F12"})),
    "dtype_number": body(header(q={"dtype": 16})),
    "shape_negative": body(header(q={"shape": [1, -16, 4, 32]})),
    "shape_fraction": body(header(q={"shape": [1, 16.5, 4, 32]})),
    "shape_exponent": body(text.replace(b"[1, 16, 4, 32]", b"[1, 1.6e1, 4, 32]")),
    "shape_string": body(header(q={"shape": ["1", 16, 4, 32]})),
    "shape_product_2^64": body(header(q={"shape": [2**32, 2**32, 1, 1]})),
    "shape_product_2^66": body(header(q={"shape": [2**22, 2**22, 2**22, 1]})),
    "shape_2^63": body(header(q={"shape": [2**63, 1, 1, 1]})),
    "shape_2^64": body(header(q={"shape": [2**64, 1, 1, 1]})),
    "shape_wraps_to_right_size": body(header(q={"shape": [2**63 + 1, 16, 4, 32]})),
    "shape_huge_digits": body(text.replace(b"[1, 16,", b"[" + b"9" * 5000 + b", 16,", 1)),
    "shape_of_1000": body(header(q={"shape": [1] * 1000})),
    "offsets_reversed": body(header(q={"data_offsets": [q_size, 0]})),
    "offsets_negative": body(header(q={"data_offsets": [-8, q_size - 8]})),
    "offsets_beyond": body(header(v={"data_offsets": [len(DATA), len(DATA) + len(TENSORS["v"][2])]})),
    "offsets_2^63": body(header(q={"data_offsets": [2**63, 2**63 + q_size]})),
    "offsets_2^64": body(header(q={"data_offsets": [2**64, 2**64 + q_size]})),
    "offsets_wrap": body(header(q={"data_offsets": [2**64 - q_size, 0]})),
    "offsets_fraction": body(header(q={"data_offsets": [0.5, q_size]})),
    "offsets_one": body(header(q={"data_offsets": [0]})),
    "offsets_three": body(header(q={"data_offsets": [0, q_size, q_size]})),
    "offsets_too_short": body(header(q={"data_offsets": [0, q_size - 2]})),
    "overlap": body(header(k={"data_offsets": [0, len(TENSORS["k"][2])]})),
    "overlap_partly": body(header(k={"data_offsets": [q_size - 2, q_size - 2 + len(TENSORS["k"][2])]})),
    "gap": body(header(v={"data_offsets": [len(DATA) + 8 - len(TENSORS["v"][2]), len(DATA) + 8]}), DATA + bytes(8)),
    "data_too_short": body(header(), DATA[:-1]),
    "data_too_long": body(header(), DATA + b"\0"),
    "no_data": body(header(), b""),
    "metadata_not_an_object": body({"__metadata__": 1, **header()}),
    "metadata_not_strings": body({"__metadata__": {"a": 1}, **header()}),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors(attnd, name):
    # Absurd sizes may also be "too large": both tell the truth.
    check(attnd.post("/v1/attention", SAFETENSORS[name]), (400, 413) if "2^" in name or "huge" in name else 400)


def test_safetensors_header_over_the_limit(start):
    d = start("--max-metadata-bytes", "8192")
    padded = json.dumps(header()).encode() + b" " * 10000
    check(d.post("/v1/attention", body(padded)), (400, 413), "8192")
    assert d.post("/v1/attention", GOOD.safetensors()).status == 200


# ---- x-attn ------------------------------------------------------------------------------------------------------


def varint(n):
    out = b""
    while n >= 0x80:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, wire_type, payload):
    return varint(number << 3 | wire_type) + payload


PREFIXES = {
    "empty": lambda meta, data: b"",
    "cut_prefix": lambda meta, data: b"ATTN\1\0\0",
    "only_prefix": lambda meta, data: wire.xattn(b"", b"", length=40),
    "magic": lambda meta, data: wire.xattn(meta, data, magic=b"NTTA"),
    "version_0": lambda meta, data: wire.xattn(meta, data, version=0),
    "version_2": lambda meta, data: wire.xattn(meta, data, version=2),
    "flags": lambda meta, data: wire.xattn(meta, data, flags=1),
    "length_0": lambda meta, data: wire.xattn(meta, data, length=0),
    "length_short": lambda meta, data: wire.xattn(meta, data, length=len(meta) - 1),
    "length_long": lambda meta, data: wire.xattn(meta, data, length=len(meta) + 1),
    "length_beyond_body": lambda meta, data: wire.xattn(meta, data, length=len(meta) + len(data) + 1),
    "length_2^31": lambda meta, data: wire.xattn(meta, data, length=2**31),
    "length_2^32-1": lambda meta, data: wire.xattn(meta, data, length=2**32 - 1),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_x_attn_prefix(attnd, pb, name):
    raw = PREFIXES[name](*good_bytes(pb))
    check(attnd.post("/v1/attention", raw, wire.XATTN), (400, 413) if "2^" in name else 400)


def good_bytes(pb):
    m, data = GOOD.message(pb)
    return m.SerializeToString(), data


APPENDED = {
    "unknown_field": (field(100, 0, varint(1)), 400, "100"),
    "unknown_field_bytes": (field(99, 2, varint(3) + b"abc"), 400, "99"),
    "window_left": (field(32, 0, varint(7)), 501, "window"),
    "page_table": (field(35, 2, varint(1) + b"x"), 501, "pag"),
    "q_descale": (field(38, 5, bytes(4)), 501, "scale"),
    "duplicate_dtype": (field(2, 0, varint(1)), 400, "dtype"),
    "duplicate_q": (None, 400, "q"),
    "wrong_wire_type": (field(9, 2, varint(1) + b"\1"), 400),
    "cut_varint": (b"\x80", 400),
    "varint_of_11_bytes": (field(16, 0, b"\xff" * 10 + b"\1"), 400),
    "cut_bytes": (field(17, 2, varint(50) + b"abc"), 400),
    "length_2^63": (field(17, 2, varint(2**63)), 400),
    "field_0": (b"\0\0", 400),
    "group": (field(60, 3, field(60, 4, b"")), 400),
    "wire_type_6": (field(60, 6, b""), 400),
    "id_bad_utf8": (field(17, 2, varint(2) + b"\xff\xfe"), 400),
    "id_nul": (field(17, 2, varint(3) + b"a\0b"), 400),
    "variant_nul": (field(1, 2, varint(5) + b"cpu\0x"), 400),
    "both_presences_of_scale": (field(10, 5, struct.pack("<f", 1)) * 2, 400, "sm_scale"),
}


@pytest.mark.parametrize("name", APPENDED)
def test_x_attn_appended(attnd, pb, name):
    extra, status, *words = APPENDED[name]
    m, data = GOOD.message(pb)
    meta = m.SerializeToString()
    if extra is None:
        q = m.q.SerializeToString()
        extra = field(4, 2, varint(len(q)) + q)
    check(attnd.post("/v1/attention", wire.xattn(meta + extra, data), wire.XATTN), status, *words)


def test_x_attn_unknown_field_inside_a_tensor(attnd, pb):
    m, data = GOOD.message(pb)
    q = m.q.SerializeToString() + field(50, 0, varint(1))
    m.ClearField("q")
    meta = m.SerializeToString() + field(4, 2, varint(len(q)) + q)
    check(attnd.post("/v1/attention", wire.xattn(meta, data), wire.XATTN), 400, "50")


def test_x_attn_three_million_empty_submessages(start, pb):
    """protobuf-c would make 117 MB of heap of these 3 MB; the daemon must neither take them nor grow."""
    import daemon

    d = start("--max-metadata-bytes", "8M")
    m, data = GOOD.message(pb)
    d.post("/v1/attention", wire.xattn(m.SerializeToString(), data), wire.XATTN)
    before = daemon.private_kib(d.pid)
    compare = b"\x1a\x00" * (3 << 19)
    for path in ("/v1/attention", "/v1/compare"):
        check(d.post(path, wire.xattn(compare, b""), wire.XATTN), (400, 413))
    # Sanitizers keep what was freed.
    assert daemon.private_kib(d.pid) - before < 32 * 1024 * daemon.SLOW


SLICES = {
    "q_missing": (lambda m: m.ClearField("q"), 400, "q"),
    "q_without_a_place": (lambda m: m.q.ClearField("body"), 400, "q"),
    "q_without_a_shape": (lambda m: m.q.ClearField("shape"), 400),
    "overlap": (lambda m: setattr(m.k.body, "offset", 0), 400),
    "overlap_by_one": (lambda m: setattr(m.k.body, "offset", m.k.body.offset - 1), 400),
    "beyond_the_end": (lambda m: setattr(m.v.body, "offset", m.v.body.offset + 1), 400),
    "offset_2^63": (lambda m: setattr(m.q.body, "offset", 2**63), 400),
    "offset_2^64-1": (lambda m: setattr(m.q.body, "offset", 2**64 - 1), 400),
    "length_2^63": (lambda m: setattr(m.q.body, "length", 2**63), 400),
    "length_2^64-1": (lambda m: setattr(m.q.body, "length", 2**64 - 1), 400),
    "length_one_less": (lambda m: setattr(m.q.body, "length", m.q.body.length - 1), 400),
    "length_0": (lambda m: setattr(m.q.body, "length", 0), 400),
    "shape_2^63": (lambda m: m.q.shape.__setitem__(1, 2**63), (400, 413)),
    "shape_product_2^64": (lambda m: (m.q.shape.__setitem__(0, 2**32), m.q.shape.__setitem__(1, 2**32)), (400, 413)),
    "shape_wraps_to_right_size": (lambda m: m.q.shape.__setitem__(0, 2**63 + 1), (400, 413)),
    "shape_bigger_than_slice": (lambda m: m.q.shape.__setitem__(1, 17), 400),
    "shape_smaller_than_slice": (lambda m: m.q.shape.__setitem__(1, 15), 400),
    "q_in_a_region": (lambda m: (m.q.ClearField("body"), setattr(m.q.region, "region", "mine")), (400, 404), "region"),
    "o_in_a_region": (lambda m: setattr(m.o.region, "region", "mine"), (400, 404), "region"),
    "lse_in_a_region": (lambda m: setattr(m.lse.region, "region", "mine"), (400, 404), "region"),
}


@pytest.mark.parametrize("name", SLICES)
def test_x_attn_slices(attnd, pb, name):
    change, status, *words = SLICES[name]
    m, data = GOOD.message(pb)
    change(m)
    check(attnd.post("/v1/attention", wire.xattn(m.SerializeToString(), data), wire.XATTN), status, *words)


@pytest.mark.parametrize("extra", [-1, 1, -len(DATA)])
def test_x_attn_data_of_another_length(attnd, pb, extra):
    meta, data = good_bytes(pb)
    data = data[:extra] if extra < 0 else data + bytes(extra)
    check(attnd.post("/v1/attention", wire.xattn(meta, data), wire.XATTN), 400)


def test_x_attn_gap(attnd, pb):
    m, data = GOOD.message(pb)
    m.v.body.offset += 8
    check(attnd.post("/v1/attention", wire.xattn(m.SerializeToString(), data + bytes(8)), wire.XATTN), 400)


def test_bytes_flipped_anywhere_never_hurt(attnd, pb):
    """A few hundred random damages: any status of the contract, never a crash, and the daemon goes on."""
    import random

    rng = random.Random(7)
    meta, data = good_bytes(pb)
    x = wire.xattn(meta, data)
    s = GOOD.safetensors()
    header_end = 8 + struct.unpack_from("<Q", s)[0]
    for raw, end, kind in ((x, 16 + len(meta), wire.XATTN), (s, header_end, wire.SAFETENSORS)):
        for _ in range(250):
            bad = bytearray(raw)
            for _ in range(rng.choice((1, 1, 2, 8))):
                bad[rng.randrange(end)] = rng.randrange(256)
            answer = attnd.post("/v1/attention", bytes(bad), kind)
            assert answer is not None and answer.status in (200, 400, 404, 413, 415, 422, 501, 504), answer
