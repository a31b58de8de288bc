"""Writes utf8.json: what Python makes of bytes that are only partly UTF-8, with
U+FFFD for each maximal subpart of an ill-formed sequence.

    python make_utf8.py
"""

import json
import platform
import random
from pathlib import Path

PIECES = ["a", "é", "漢", "😀", "\U0010FFFF"]
STRAY = [b"\x80", b"\xbf", b"\xc0", b"\xc1", b"\xc3", b"\xe0", b"\xe2\x82", b"\xed\xa0", b"\xf0\x9f", b"\xf0\x9f\x98", b"\xf4\x90", b"\xf5", b"\xff", b"\xe0\x80", b"\xf0\x80"]

rng = random.Random(7)
cases = []
for _ in range(400):
    data = b"".join(
        rng.choice(STRAY) if rng.random() < 0.4 else rng.choice(PIECES).encode()
        for _ in range(rng.randint(1, 8))
    )
    cases.append([data.hex(), data.decode("utf-8", "replace")])
answer = {"python": platform.python_version(), "cases": cases}
Path(__file__).with_name("utf8.json").write_text(json.dumps(answer, separators=(",", ":")) + "\n")
