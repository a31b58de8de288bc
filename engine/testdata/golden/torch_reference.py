"""A GGUF file as a transformers model: float32 weights dequantized by gguf, computed by torch."""

import numpy as np
import torch
from gguf import GGUFReader, quants
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}


def from_file_order(rows, heads):
    """Rows of Q or K (axis 0) from the llama architecture's file order, rotation pairs adjacent, to transformers' halves."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def to_file_order(values, heads):
    """The inverse of from_file_order, along the last axis."""
    return values.reshape(*values.shape[:-1], heads, 2, -1).swapaxes(-1, -2).reshape(values.shape)


class Reference:
    """`model` is the transformers model; `heads`, `kv_heads`; `permuted`: the file stores Q and K in its own order."""

    def __init__(self, path):
        reader = GGUFReader(path)
        arch = reader.fields["general.architecture"].contents()
        meta = lambda key: reader.fields[f"{arch}.{key}"].contents()
        self.permuted = arch == "llama"
        self.heads, self.kv_heads, self.layers = meta("attention.head_count"), meta("attention.head_count_kv"), meta("block_count")
        tensors = {t.name: t for t in reader.tensors}
        tied = "output.weight" not in tensors
        make, config = {"llama": (LlamaForCausalLM, LlamaConfig), "qwen2": (Qwen2ForCausalLM, Qwen2Config)}[arch]
        with torch.device("meta"):
            self.model = make(config(
                vocab_size=int(tensors["token_embd.weight"].shape[1]), hidden_size=meta("embedding_length"),
                intermediate_size=meta("feed_forward_length"), num_hidden_layers=self.layers, num_attention_heads=self.heads,
                num_key_value_heads=self.kv_heads, max_position_embeddings=meta("context_length"),
                rms_norm_eps=meta("attention.layer_norm_rms_epsilon"), tie_word_embeddings=tied, attn_implementation="eager",
                rope_parameters={"rope_type": "default", "rope_theta": meta("rope.freq_base")},
            ))
        state = {}
        for name, tensor in tensors.items():
            data = quants.dequantize(np.asarray(tensor.data), tensor.tensor_type)
            if name in TOP:
                state[TOP[name]] = torch.from_numpy(np.array(data))
                continue
            _, layer, part, kind = name.split(".")
            if self.permuted and part in ("attn_q", "attn_k"):
                data = from_file_order(data, self.heads if part == "attn_q" else self.kv_heads)
            state[f"model.layers.{layer}.{NAMES[part]}.{kind}"] = torch.from_numpy(np.array(data))
        if tied:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        self.model.load_state_dict(state, strict=True, assign=True)
        self.model.model.rotary_emb = type(self.model.model.rotary_emb)(self.model.config)  # buffers were made on "meta"
        self.model.eval()

    @torch.no_grad()
    def logits(self, ids):
        """All positions' logits [tokens x vocabulary]."""
        return self.model(torch.tensor([ids])).logits[0].numpy()
