"""Golden token ids by llama.cpp and by the tokenizers package.

    python make_tokens.py --models ../../../models --out .
"""

import argparse
import ctypes
import gzip
import hashlib
import json
import os

import llama_cpp
import tokenizers
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

import corpus

CONTROL, USER_DEFINED = 3, 4
# The pre-tokenizer patterns that the models' authors published in their tokenizer.json.
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"|\p{N}| ?", r"|\p{N}{1,3}| ?")


def split(pattern):
    return Sequence([Split(Regex(pattern), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])


VOCABULARIES = {
    "smollm2": dict(file="SmolLM2-135M-Instruct.Q4_1.gguf",
                    pre=Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])),
    "qwen2": dict(file="Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf", pre=split(QWEN2), normalizer=NFC()),
    "gpt-2": dict(file="vocab/ggml-vocab-gpt-2.gguf", pre=ByteLevel(add_prefix_space=False, use_regex=True)),
    "llama-bpe": dict(file="vocab/ggml-vocab-llama-bpe.gguf", pre=split(LLAMA3), ignore_merges=True),
}


def huggingface(reader, types, pre, normalizer=None, ignore_merges=False):
    """The tokenizers package's Tokenizer over the file's vocabulary, for each of parse_special false and true."""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ", 1)) for m in reader.fields["tokenizer.ggml.merges"].contents()]
    result = []
    for added in ([USER_DEFINED], [USER_DEFINED, CONTROL]):
        tok = Tokenizer(BPE({t: i for i, t in enumerate(tokens)}, merges, ignore_merges=ignore_merges))
        tok.pre_tokenizer = pre
        if normalizer:
            tok.normalizer = normalizer
        tok.add_tokens([AddedToken(t, normalized=False) for t, k in zip(tokens, types) if k in added])
        result.append(tok)
    return result


class Llama:
    """llama.cpp's vocabulary of a file, without its weights."""

    def __init__(self, path):
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def ids(self, data, add_special, parse_special):
        room = len(data) + 8
        out = (llama_cpp.llama_token * room)()
        n = llama_cpp.llama_tokenize(self.vocab, data, len(data), out, room, add_special, parse_special)
        assert n >= 0
        return list(out[:n])

    def ids_or_none(self, data):
        """The ids, or None where llama.cpp aborts on the bytes: asked in a child process."""
        r, w = os.pipe()
        if os.fork() == 0:
            os.write(w, json.dumps(self.ids(data, False, False)).encode())
            os._exit(0)
        os.close(w)
        os.wait()
        with os.fdopen(r) as f:
            return json.loads(f.read() or "null")

    def piece(self, token, special):
        buf = ctypes.create_string_buffer(1024)
        n = llama_cpp.llama_token_to_piece(self.vocab, token, buf, len(buf), 0, special)
        assert n >= 0
        return buf.raw[:n].hex()

    def facts(self):
        n = llama_cpp.llama_vocab_n_tokens(self.vocab)
        return {
            "vocab_size": n,
            "bos": llama_cpp.llama_vocab_bos(self.vocab),
            "eos": llama_cpp.llama_vocab_eos(self.vocab),
            "add_bos": llama_cpp.llama_vocab_get_add_bos(self.vocab),
            "eog": [i for i in range(n) if llama_cpp.llama_vocab_is_eog(self.vocab, i)],
        }


def golden(path, **how):
    reader = GGUFReader(path)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = [int(t) for t in reader.fields["tokenizer.ggml.token_type"].contents()]
    plain, special = huggingface(reader, types, **{k: v for k, v in how.items() if k != "file"})
    llama = Llama(path)

    def case(name, text, add=False, parse=False, compare=True):
        c = {"name": name, "text": text, "ids": llama.ids(text.encode(), add, parse)}
        if add:
            c["add_special"] = True
        if parse:
            c["parse_special"] = True
        theirs = (special if parse else plain).encode(text, add_special_tokens=False).ids
        if compare and theirs != c["ids"]:
            c["tokenizers"] = theirs
        return c

    cases = [case(name, text) for name, text in corpus.texts()]
    marked = [t for t, k in zip(tokens, types) if k in (CONTROL, USER_DEFINED)]
    for name, text in corpus.special_texts(marked):
        cases += [case(name, text), case(name, text, parse=True)]
        cases += [case(name, text, add=True, parse=p, compare=False) for p in (False, True)]
    for name, text in [("en-0", "Hello, world!"), ("empty", "")]:
        cases.append(case(name, text, add=True, compare=False))
    for name, data in corpus.invalid():
        cases.append({"name": name, "hex": data.hex(), "ids": llama.ids_or_none(data)})
    pieces = sorted(set(range(0, len(tokens), 397)) | set(range(256)) | {i for i, k in enumerate(types) if k in (CONTROL, USER_DEFINED)})
    with open(path, "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    return {
        "file": how["file"], "sha256": digest,
        "engines": {"llama-cpp-python": llama_cpp.__version__, "tokenizers": tokenizers.__version__},
        **llama.facts(),
        "cases": cases,
        "pieces": [{"id": i, "hex": llama.piece(i, True), "plain": llama.piece(i, False)} for i in pieces],
    }


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--models", default="../../../models")
    args.add_argument("--out", default=".")
    args = args.parse_args()
    os.environ["GGML_NO_BACKTRACE"] = "1"
    for name, how in VOCABULARIES.items():
        result = golden(os.path.join(args.models, how["file"]), **how)
        differ = [c["name"] for c in result["cases"] if "tokenizers" in c]
        print(name, len(result["cases"]), "cases;", len(differ), "differ:", *differ)
        text = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
        with open(os.path.join(args.out, f"tokens-{name}.json.gz"), "wb") as f:
            f.write(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
