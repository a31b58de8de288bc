"""Golden values of every stage of the forward pass, by torch float32 on dequantized weights.

    python make_stages.py --models ../../../models --out .
"""

import argparse
import hashlib
import os

import gguf
import numpy as np
import torch
import transformers

from torch_reference import Reference, to_file_order

# "The old pond, a frog." and "def frog(n: int": fewer tokens for Qwen, whose logits are three times as large.
PROMPTS = {
    "smollm2": ("SmolLM2-135M-Instruct.Q4_1.gguf", [504, 1573, 8755, 28, 253, 20398, 30]),
    "qwen2": ("Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf", [750, 59881, 1445, 25, 526]),
}


def stages(ref, ids):
    """Runs the prompt once and returns {stage: [tokens x width]} of all layers."""
    seen = {}

    def keep(name, heads=0):
        def put(value):
            value = value.detach()[0].numpy()
            seen[name] = to_file_order(value, heads) if heads and ref.permuted else value
        return put

    def after(module, put):
        module.register_forward_hook(lambda m, args, out: put(out[0] if isinstance(out, tuple) else out))

    def before(module, put):
        module.register_forward_pre_hook(lambda m, args: put(args[0]))

    inner = ref.model.model
    after(inner.embed_tokens, keep("embed"))
    after(inner.norm, keep("output_norm"))
    for n, layer in enumerate(inner.layers):
        at = f"blk.{n}."
        after(layer.input_layernorm, keep(at + "attn_norm"))
        after(layer.self_attn.q_proj, keep(at + "q", ref.heads))
        after(layer.self_attn.k_proj, keep(at + "k", ref.kv_heads))
        after(layer.self_attn.v_proj, keep(at + "v"))
        before(layer.self_attn.o_proj, keep(at + "attn"))
        before(layer.post_attention_layernorm, keep(at + "attn_out"))
        after(layer.post_attention_layernorm, keep(at + "ffn_norm"))
        before(layer.mlp.down_proj, keep(at + "ffn_gate_up"))
        after(layer, keep(at + "ffn_out"))

    code = __import__(type(ref.model).__module__, fromlist=["apply_rotary_pos_emb"])
    rotate, calls = code.apply_rotary_pos_emb, []

    def rotate_and_keep(q, k, *args, **kwargs):
        q, k = rotate(q, k, *args, **kwargs)
        for name, value, heads in (("q_rope", q, ref.heads), ("k_rope", k, ref.kv_heads)):
            keep(f"blk.{len(calls)}.{name}", heads)(value.transpose(1, 2).flatten(2))
        calls.append(None)
        return q, k

    code.apply_rotary_pos_emb = rotate_and_keep
    seen["logits"] = ref.logits(ids)[-1:]
    code.apply_rotary_pos_emb = rotate
    assert len(calls) == ref.layers
    return seen


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--models", default="../../../models")
    args.add_argument("--out", default=".")
    args = args.parse_args()
    torch.set_num_threads(1)
    for name, (file, ids) in PROMPTS.items():
        path = os.path.join(args.models, file)
        ref = Reference(path)
        seen = stages(ref, ids)
        w = gguf.GGUFWriter(os.path.join(args.out, f"stages-{name}.gguf"), "kigo-reference")
        w.add_array("kigo.reference.tokens", ids)
        with open(path, "rb") as f:
            w.add_string("kigo.reference.model", hashlib.file_digest(f, "sha256").hexdigest())
        w.add_string("kigo.reference.engine", f"torch {torch.__version__}, transformers {transformers.__version__}, gguf 0.19.0, float32")
        full = {"0", "1", str(ref.layers - 1)}
        for stage, value in seen.items():
            part = stage.split(".")
            if part[0] == "blk" and part[1] not in full:
                if part[2] != "ffn_out":
                    continue
                value = value[-1:]
            w.add_tensor(stage, np.ascontiguousarray(value, np.float32))
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()


if __name__ == "__main__":
    main()
