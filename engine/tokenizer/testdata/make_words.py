"""Writes words.json: how the tokenizers package cuts texts into words, before
any merging. The texts are random runs of characters on which the
pre-tokenizers' patterns differ.

    pip install tokenizers==0.23.3 && python make_words.py
"""

import json
import random
from pathlib import Path

import tokenizers
from tokenizers import Regex, pre_tokenizers as pre

ALPHABET = (
    list("aestmdrvlSTMDREVLzZ") * 2
    + ["'"] * 20
    + ["\u017f", "\u2019", "\u0130", "\u0131", "\u212a", "\ufb06", "é", "ß", "я", "ק", "م", "अ", "漢", "か", "한", "\u01c5", "ª", "ʰ"]
    + list("0123456789") + ["٣", "५", "Ⅷ", "½", "²", "〇", "\U0001D7D8"]
    + [" "] * 25 + ["\t", "\u00a0", "\u0085", "\u1680", "\u2003", "\u2028", "\u3000", "\u200b", "\u180e", "\ufeff", "\x0b", "\x0c", "\x1c"]
    + ["\n"] * 8 + ["\r"] * 4
    + ["\u0301", "\u093e", "\u0345", "\u20dd", "\u200d", "\ufe0f"] * 2
    + list("!.,-_^/<|>{}$+=`~") + ["…", "—", "€", "©", "😀", "\U0001F9D1", "🇯"]
    + ["\x00", "\x01", "\x7f", "\u0378", "\ue000", "\ufffd", "\U0010FFFF"]
)

LLAMA = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN35 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

GPT2 = pre.ByteLevel(add_prefix_space=False, use_regex=True)
CUTTERS = {
    "gpt-2": GPT2,
    "smollm": pre.Sequence([pre.Digits(individual_digits=True), GPT2]),
    "llama-bpe": pre.Split(Regex(LLAMA), "isolated"),
    "qwen2": pre.Split(Regex(QWEN2), "isolated"),
    "qwen35": pre.Split(Regex(QWEN35), "isolated"),
}

rng = random.Random(20261123)
texts = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 24))) for _ in range(500)]
texts += [a + b + c for a in ["x'", " '", "'"] for b in ["s", "S", "\u017f", "ll", "Ll", "rE", "vE", "D", "st"] for c in ["", "t", " ", "'s"]]
answer = {
    "tokenizers": tokenizers.__version__,
    "texts": texts,
    # Number of characters of each word, the words of a text in one list.
    "words": {name: [[end - start for _, (start, end) in c.pre_tokenize_str(t)] for t in texts] for name, c in CUTTERS.items()},
}
Path(__file__).with_name("words.json").write_text(json.dumps(answer, separators=(",", ":")) + "\n")
