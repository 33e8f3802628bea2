#!/usr/bin/env python3
"""Attention by attnd from a PyTorch process on the same host, through libattn and ctypes: host tensors lie in memory that
is shared with the daemon, CUDA tensors are used where they are. Nothing is copied.

    client/examples/attention.py unix:/run/attnd/attnd.sock [--cuda [--events]] [--lib libattn.so.0]
"""
import argparse
import ctypes
from ctypes import POINTER, Structure, byref, c_bool, c_char, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_uint8, c_uint32, c_uint64, c_void_p

import torch

DTYPES = {torch.float16: 1, torch.bfloat16: 2, torch.float32: 3}
READ, READ_WRITE = 1, 2


class Spec(Structure):  # attn_spec_t
    _fields_ = [("dtype", c_uint32), ("layout", c_uint32), ("batch", c_uint32), ("h_q", c_uint32), ("h_kv", c_uint32), ("d", c_uint32),
                ("s_q", c_int64), ("s_kv", c_int64), ("sm_scale", c_float), ("softcap", c_float), ("causal", c_uint8), ("return_lse", c_uint8),
                ("reserved", c_uint8 * 6)]


class Request(Structure):  # attn_client_request_t
    _fields_ = [("variant", c_char_p), ("spec", Spec), ("q", c_void_p), ("k", c_void_p), ("v", c_void_p), ("cu_seqlens_q", c_void_p),
                ("cu_seqlens_k", c_void_p), ("o", c_void_p), ("lse", c_void_p), ("id", c_char_p), ("deadline_ms", c_uint64), ("priority", c_int32),
                ("wait_event", c_void_p), ("signal_event", c_void_p)]


class Answer(Structure):  # attn_client_answer_t
    _fields_ = [("variant", c_char * 64), ("reason", c_char * 192), ("device", c_char * 64), ("id", c_char * 64), ("batch_size", c_uint32),
                ("attempts", c_uint32), ("queue_us", c_uint64), ("copy_in_us", c_uint64), ("copy_out_us", c_uint64), ("total_us", c_uint64),
                ("kernel_us", c_double)]


class Error(Structure):  # attn_client_error_t
    _fields_ = [("status", c_int), ("message", c_char * 512), ("retryable", c_bool), ("http_status", c_int), ("request_id", c_char * 64),
                ("missing_count", c_uint32), ("missing", (c_char * 112) * 12)]


class AttnError(Exception):
    pass


class Client:
    """One connection to the daemon. Threads may share it."""

    def __init__(self, server, library="libattn.so.0"):
        self.lib = ctypes.CDLL(library)
        for name, arguments in {
            "attn_client_open": [c_char_p, c_void_p, POINTER(c_void_p), POINTER(Error)],
            "attn_region_allocate": [c_void_p, c_uint64, c_bool, POINTER(c_void_p), POINTER(Error)],
            "attn_region_import_cuda_ipc": [c_void_p, c_char_p, c_char_p, c_void_p, c_uint64, c_uint64, c_int, POINTER(c_void_p), POINTER(Error)],
            "attn_event_import": [c_void_p, c_char_p, c_char_p, POINTER(c_void_p), POINTER(Error)],
            "attn_event_release": [c_void_p],
            "attn_client_run": [c_void_p, POINTER(Request), c_void_p, POINTER(Answer), POINTER(Error)],
            "attn_client_submit": [c_void_p, POINTER(Request), c_void_p, POINTER(c_void_p), POINTER(Error)],
            "attn_job_wait": [c_void_p, c_int, POINTER(Answer), POINTER(Error)],
            "attn_region_data": [c_void_p],
            "attn_region_bytes": [c_void_p],
            "attn_region_release": [c_void_p],
            "attn_job_free": [c_void_p],
            "attn_client_close": [c_void_p],
        }.items():
            getattr(self.lib, name).argtypes = arguments
        self.lib.attn_region_data.restype = c_void_p
        self.lib.attn_region_bytes.restype = c_uint64
        self.handle = c_void_p()
        self.call("attn_client_open", server.encode(), None, byref(self.handle))

    def call(self, name, *arguments):
        error = Error()
        if getattr(self.lib, name)(*arguments, byref(error)) != 0:
            raise AttnError(error.message.decode())

    def host_tensors(self, *shapes, dtype):
        """Tensors that lie one behind the other in memory which is shared with the daemon. They must not outlive the client."""
        sizes = [torch.Size(shape).numel() * dtype.itemsize for shape in shapes]
        region, at, tensors = c_void_p(), 0, []
        self.call("attn_region_allocate", self.handle, sum((n + 255) // 256 * 256 for n in sizes), False, byref(region))
        base = self.lib.attn_region_data(region)
        for shape, size in zip(shapes, sizes):
            memory = (c_uint8 * size).from_address(base + at)
            tensors.append(torch.frombuffer(memory, dtype=dtype).view(shape))
            at += (size + 255) // 256 * 256
        return tensors

    def share_cuda(self, tensor):
        """Lets the daemon use the CUDA memory of a tensor, and of whatever else PyTorch put into the same block of its cache.
        Returns the region, which must be released before the memory is freed."""
        # _share_cuda_() gives the handle of the block, and how far the tensor lies inside it.
        _, handle, _, offset, *_ = tensor.untyped_storage()._share_cuda_()
        handle = bytes(handle)[-64:]  # newer versions put the kind of handle before it
        device = f"GPU-{torch.cuda.get_device_properties(tensor.device).uuid}".encode()
        size, region = tensor.untyped_storage().nbytes(), c_void_p()
        self.call("attn_region_import_cuda_ipc", self.handle, handle, device, tensor.untyped_storage().data_ptr(), offset, size, READ_WRITE,
                  byref(region))
        return region

    def share_event(self, event):
        """Lets the daemon wait for, or signal, a torch.cuda.Event(interprocess=True)."""
        shared = c_void_p()
        device = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}".encode()
        self.call("attn_event_import", self.handle, event.ipc_handle(), device, byref(shared))
        return shared

    def request(self, q, k, v, o, causal=False, variant=None, after=None, signals=None):
        """[batch, s, heads, d] each, contiguous, in shared memory or anywhere on the host (then libattn copies). In device memory
        the work begins after the shared event `after` and signals another at its end."""
        return Request(variant=variant.encode() if variant else None, q=q.data_ptr(), k=k.data_ptr(), v=v.data_ptr(), o=o.data_ptr(),
                       wait_event=after, signal_event=signals,
                       spec=Spec(dtype=DTYPES[q.dtype], layout=1, batch=q.shape[0], s_q=q.shape[1], s_kv=k.shape[1], h_q=q.shape[2],
                                 h_kv=k.shape[2], d=q.shape[3], causal=causal))

    def run(self, *tensors, **options):
        answer = Answer()
        self.call("attn_client_run", self.handle, byref(self.request(*tensors, **options)), None, byref(answer))
        return answer

    def submit(self, *tensors, **options):
        """Does not wait; give the result to wait()."""
        job = c_void_p()
        self.call("attn_client_submit", self.handle, byref(self.request(*tensors, **options)), None, byref(job))
        return job

    def wait(self, job):
        answer = Answer()
        try:
            self.call("attn_job_wait", job, -1, byref(answer))
        finally:
            self.lib.attn_job_free(job)
        return answer

    def release(self, region):
        self.lib.attn_region_release(region)

    def close(self):
        self.lib.attn_client_close(self.handle)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("server", help="unix:PATH")
    parser.add_argument("--cuda", action="store_true", help="tensors in device memory")
    parser.add_argument("--events", action="store_true", help="with --cuda: order the work with the stream by events, without waiting on the host")
    parser.add_argument("--lib", default="libattn.so.0")
    options = parser.parse_args()
    if options.events and not options.cuda:
        parser.error("--events goes with --cuda")
    client, order = Client(options.server, options.lib), {}
    q_shape, kv_shape = (1, 128, 8, 64), (1, 192, 2, 64)
    if options.cuda:
        # One block for all, so that there is one thing to share.
        counts = [torch.Size(s).numel() for s in (q_shape, kv_shape, kv_shape, q_shape)]
        block = torch.randn(sum(counts), device="cuda").half()
        q, k, v, o = (part.view(shape) for part, shape in zip(block.split(counts), (q_shape, kv_shape, kv_shape, q_shape)))
        region = client.share_cuda(block)
        torch.cuda.synchronize()  # what was written is there before the request is
        if options.events:
            ready, done = torch.cuda.Event(interprocess=True), torch.cuda.Event(interprocess=True)
            order = {"after": client.share_event(ready), "signals": client.share_event(done)}
            q.mul_(2)  # may still run when the request is sent
            ready.record()
    else:
        q, k, v, o = client.host_tensors(q_shape, kv_shape, kv_shape, q_shape, dtype=torch.float32)
        for tensor in (q, k, v):
            tensor.normal_()
    job = client.submit(q, k, v, o, causal=True, **order)
    answer = client.wait(job)
    if options.events:
        torch.cuda.current_stream().wait_event(done)  # what the stream does from here on comes after the work

    mask = torch.ones(128, 192, dtype=torch.bool, device=q.device).tril(192 - 128)
    truth = torch.nn.functional.scaled_dot_product_attention(
        *(t.transpose(1, 2).double() for t in (q, k.repeat_interleave(4, dim=2), v.repeat_interleave(4, dim=2))), attn_mask=mask).transpose(1, 2)
    worst = (o.double() - truth).abs().max().item()
    print(f"{answer.variant.decode()} on {answer.device.decode()}, kernel {answer.kernel_us:.1f} us, farthest from fp64 {worst:.1e}")
    for event in order.values():
        client.lib.attn_event_release(event)
    if options.cuda:
        client.release(region)
    client.close()
    return worst > (2e-3 if options.cuda else 1e-5)


if __name__ == "__main__":
    raise SystemExit(main())
