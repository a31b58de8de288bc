"""llama.cpp through llama-cpp-python's C interface: ids in, logits out, nothing in between."""

import ctypes

import llama_cpp as c
import numpy as np


@c.llama_log_callback
def _quiet(level, text, user):
    pass


c.llama_log_set(_quiet, ctypes.c_void_p(0))


class Llama:
    """One sequence on the CPU (the number of threads does not change the result). KV cache in float16 (llama.cpp's default); flash attention only when asked for."""

    def __init__(self, path, context=512, threads=1, flash=False):
        params = c.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = False  # plain weights: no repacking, no AMX
        self.model = c.llama_model_load_from_file(path.encode(), params)
        self.vocab = c.llama_model_get_vocab(self.model)
        self.vocab_size = c.llama_vocab_n_tokens(self.vocab)
        params = c.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1 if flash else 0
        self.context = c.llama_init_from_model(self.model, params)
        self.memory = c.llama_get_memory(self.context)

    def keep(self, length):
        """Forgets everything after the first `length` tokens."""
        c.llama_memory_seq_rm(self.memory, 0, length, -1)

    def feed(self, ids):
        """Appends the tokens in one batch; returns the logits of the last one (a copy)."""
        tokens = (c.llama_token * len(ids))(*ids)  # the batch only points to it
        assert c.llama_decode(self.context, c.llama_batch_get_one(tokens, len(ids))) == 0
        return np.ctypeslib.as_array(c.llama_get_logits_ith(self.context, -1), (self.vocab_size,)).copy()

    def tokenize(self, text, parse_special=True):
        data = text.encode()
        out = (c.llama_token * (len(data) + 8))()
        return list(out[: c.llama_tokenize(self.vocab, data, len(data), out, len(out), False, parse_special)])

    def text(self, ids):
        buf, data = ctypes.create_string_buffer(1024), b""
        for i in ids:
            n = c.llama_token_to_piece(self.vocab, i, buf, len(buf), 0, False)
            data += buf.raw[:n]
        return data.decode(errors="replace")

    def ends(self, token):
        return c.llama_vocab_is_eog(self.vocab, int(token))
