"""Golden greedy continuations by llama.cpp, and the logits of torch float32 at the same positions.

    python make_f16.py --f16 qwen-f16.gguf
    python make_teacher_forced.py --models ../../../models --f16 qwen-f16.gguf --out . [smollm2 qwen2 qwen2-f16]
"""

import argparse
import gc
import hashlib
import json
import os

import llama_cpp
import numpy as np
import torch
import transformers

from llama_reference import Llama
from torch_reference import Reference

FILES = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "qwen2": "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf", "qwen2-f16": None}
LENGTH, TOP, FIXED = 64, 32, 64
DETAIL = [0, 1, 5, 13, 22, 34, 48, 63]

CHAT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = {
    "en-story": "Once upon a time, in a small village by the sea,",
    "en-facts": "The capital of France is Paris. The capital of Japan is",
    "en-list": "Ten common fruits:\n1. Apple\n2. Banana\n3.",
    "en-letter": "Dear Ms. Carter,\n\nThank you for your letter of 3 May 1998. I am writing to",
    "de": "Die Brüder Grimm sammelten Märchen, zum Beispiel",
    "fr": "La tour Eiffel, construite en 1889, est",
    "es": "El sol sale por el este y",
    "ru": "Москва — столица России, а Париж",
    "zh": "中国的首都是北京，日本的首都是",
    "ja": "古池や蛙飛びこむ水の音という俳句は",
    "python": "def fibonacci(n: int) -> int:\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "go": "package main\n\nimport \"fmt\"\n\n// reverse returns s with its runes in reverse order.\nfunc reverse(s string) string {\n",
    "c": "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; i++) {\n",
    "sql": "-- Customers with more than five orders\nSELECT",
    "json": "{\"name\": \"Ada Lovelace\", \"born\": 1815, \"known_for\": [",
    "maths": "Question: A train travels 60 miles in 1.5 hours. What is its average speed?\nAnswer: Let us",
    "sums": "2 + 2 = 4\n3 + 5 = 8\n10 + 7 = 17\n6 + 9 =",
    "chat-haiku": CHAT % "Write a haiku about the rain in spring.",
    "chat-code": CHAT % "Write a Python function that checks whether a word is a palindrome.",
    "chat-turns": CHAT % "What is the boiling point of water?" + "100 degrees Celsius at sea level.<|im_end|>\n<|im_start|>user\nAnd on a mountain?<|im_end|>\n<|im_start|>assistant\n",
}


def floats(values):
    return [round(float(v), 5) for v in values]


def greedy(llama, prompt):
    """LENGTH greedy tokens (an end of generation does not stop it) and the logits each was chosen from."""
    llama.keep(0)
    logits, ids = [llama.feed(prompt)], []
    while True:
        ids.append(int(logits[-1].argmax()))
        if len(ids) == LENGTH:
            return ids, np.array(logits)
        logits.append(llama.feed(ids[-1:]))


def forced(llama, prompt, ids):
    """The logits at the same positions when the tokens are given."""
    llama.keep(0)
    return np.array([llama.feed(prompt)] + [llama.feed([i]) for i in ids[:-1]])


def error(got, want):
    difference = np.concatenate(got).astype(np.float64) - np.concatenate(want)
    return {"rms": round(float(np.sqrt((difference**2).mean())), 6), "max": round(float(abs(difference).max()), 6)}


def golden(path, file):
    ref = Reference(path)
    llama = Llama(path)
    fixed = sorted(np.random.default_rng(64).choice(llama.vocab_size, FIXED, replace=False).tolist())
    prompts, wanted, plain, everything = [], [], [], {"got": [], "want": []}
    for name, text in PROMPTS.items():
        prompt = llama.tokenize(text)
        ids, logits = greedy(llama, prompt)
        theirs = ref.logits(prompt + ids[:-1])[-LENGTH:]
        best = np.sort(logits)[:, :-3:-1]
        torch_best = np.sort(theirs)[:, :-3:-1]
        detail = []
        for at in DETAIL:
            top = np.argsort(-logits[at], kind="stable")[:TOP]
            both = np.concatenate([top, fixed])
            plain.append(logits[at][both])
            wanted.append(theirs[at][both])
            detail.append({"at": at, "ids": top.tolist(), "llama": floats(plain[-1]), "torch": floats(wanted[-1])})
        everything["got"].append(np.sqrt(((logits - theirs) ** 2).mean(axis=1)))
        prompts.append({
            "name": name, "text": text, "prompt": prompt, "generated": ids, "best": [floats(b) for b in best],
            "torch_argmax": theirs.argmax(axis=1).tolist(), "torch_margin": floats(torch_best[:, 0] - torch_best[:, 1]), "detail": detail,
        })
    del llama
    gc.collect()
    flash = Llama(path, flash=True)
    flashed = []
    for p in prompts:
        logits = forced(flash, p["prompt"], p["generated"])
        flashed += [logits[d["at"]][d["ids"] + fixed] for d in p["detail"]]
    margins = np.array([b[0] - b[1] for p in prompts for b in p["best"]])
    changed = np.array([a != b for p in prompts for a, b in zip(p["generated"], p["torch_argmax"])])
    with open(path, "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    return {
        "file": file, "sha256": digest,
        "engines": {"llama-cpp-python": llama_cpp.__version__, "torch": torch.__version__, "transformers": transformers.__version__, "gguf": "0.19.0"},
        "fixed_ids": fixed,
        "llama_error": error(plain, wanted), "llama_flash_error": error(flashed, wanted),
        "rms_over_vocabulary": round(float(np.sqrt((np.concatenate(everything["got"]) ** 2).mean())), 6),
        "positions": len(margins), "argmax_differs_from_torch": int(changed.sum()),
        "largest_margin_where_it_differs": round(float(margins[changed].max(initial=0)), 5),
        "margin_quantiles": {str(q): round(float(np.quantile(margins, q)), 5) for q in (0.01, 0.02, 0.05, 0.1, 0.5)},
        "prompts": prompts,
    }


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--models", default="../../../models")
    args.add_argument("--f16", default="qwen-f16.gguf")
    args.add_argument("--out", default=".")
    args.add_argument("names", nargs="*", default=list(FILES))
    args = args.parse_args()
    torch.set_num_threads(1)
    for name in args.names:
        file = FILES[name]
        result = golden(os.path.join(args.models, file) if file else args.f16, file or "the Qwen file as F16 (f16-qwen2.json)")
        print(name, json.dumps({k: v for k, v in result.items() if k not in ("prompts", "fixed_ids")}, indent=1))
        with open(os.path.join(args.out, f"teacher-forced-{name}.json"), "w") as f:
            json.dump(result, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")


if __name__ == "__main__":
    main()
