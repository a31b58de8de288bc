"""Writes classes.json: which characters the regular expression engine of the
tokenizers package takes for \\p{L}, \\p{N}, \\p{M} and \\s, as ranges [first,
last] of code points.

    pip install tokenizers==0.23.3 && python make_classes.py
"""

import json
from pathlib import Path

import tokenizers
from tokenizers import Regex, pre_tokenizers

SEPARATOR = "\x01"
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def members(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    found = set()
    for i in range(0, len(CODE_POINTS), 4096):
        text = SEPARATOR.join(map(chr, CODE_POINTS[i : i + 4096]))
        found.update(ord(p) for p, _ in split.pre_tokenize_str(text) if len(p) == 1 and p != SEPARATOR)
    return sorted(found)


def ranges(points):
    out = []
    for p in points:
        if out and out[-1][1] == p - 1:
            out[-1][1] = p
        else:
            out.append([p, p])
    return out


answer = {"tokenizers": tokenizers.__version__}
for name, pattern in [("letter", r"\p{L}"), ("number", r"\p{N}"), ("mark", r"\p{M}"), ("space", r"\s")]:
    answer[name] = ranges(members(pattern))
Path(__file__).with_name("classes.json").write_text(json.dumps(answer, separators=(",", ":")) + "\n")
