#!/usr/bin/env python3
"""The peer of the service benchmark: an attention service as people write it with aiohttp and PyTorch's
scaled_dot_product_attention.

Takes and gives the same safetensors bodies as attnd. The header is read by hand and tensors are views of the body
(torch.frombuffer), which is faster than the safetensors package: the peer is to be as fast as this style gets.

    torch_service.py --port 9000 --device cuda
"""
import argparse
import json
import struct

import torch
import torch.nn.functional as F
from aiohttp import web

KIND = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def load(body):
    (n,) = struct.unpack_from("<Q", body)
    header = json.loads(body[8 : 8 + n])
    data = memoryview(body)[8 + n :]
    out = {}
    for name in "qkv":
        entry = header[name]
        begin, end = entry["data_offsets"]
        out[name] = torch.frombuffer(data[begin:end], dtype=KIND[entry["dtype"]]).view(entry["shape"])
    return out, header["q"]


def application(device):
    async def attention(request):
        body = bytearray(await request.read())
        tensors, entry = load(body)
        q, k, v = (tensors[name].to(device).transpose(1, 2) for name in "qkv")
        with torch.inference_mode():
            causal = request.query.get("causal") == "true"
            o = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])
            o = o.transpose(1, 2).contiguous().cpu()
        raw = o.view(torch.uint8).numpy().data
        header = json.dumps({"o": {"dtype": entry["dtype"], "shape": entry["shape"], "data_offsets": [0, raw.nbytes]}}).encode()
        return web.Response(body=b"".join((struct.pack("<Q", len(header)), header, raw)), content_type="application/safetensors")

    async def ready(_request):
        return web.Response(text="ready")

    app = web.Application(client_max_size=1 << 34)
    app.add_routes([web.post("/v1/attention", attention), web.get("/v2/health/ready", ready)])
    return app


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    web.run_app(application(options.device), host="127.0.0.1", port=options.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
