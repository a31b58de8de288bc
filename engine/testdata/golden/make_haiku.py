"""Golden answers for the haiku test: greedy ids for all 60 minute words, and how often sampled haikus hold the word.

    python make_haiku.py --models ../../../models --out haiku.json
"""

import argparse
import hashlib
import json
import math
import os
import re

import llama_cpp as c
import numpy as np
from gguf import GGUFReader
from transformers.utils.chat_template_utils import _compile_jinja_template

from llama_reference import Llama

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MESSAGE = 'Write a haiku about the number {word}. Use the word "{word}" many times.'
MAX_TOKENS, TEMPERATURE, TOP_K, TOP_P = 48, 0.8, 40, 0.95
SAMPLES, SEEDS, RISK = 60, 20, 1e-3

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
WORDS = ONES + [tens + ("-" + ONES[n] if n else "") for tens in "twenty thirty forty fifty".split() for n in range(10)]


def finder(word):
    """Finds the word between word boundaries, any case; a hyphen may be a space."""
    return re.compile(r"\b" + word.replace("-", "[- ]") + r"\b", re.IGNORECASE)


def greedy(llama, logits):
    """(ids, the end token's id or None, the margin of every choice)"""
    ids, margins = [], []
    while True:
        second, best = np.argsort(logits)[-2:]
        if len(ids) == MAX_TOKENS:
            return ids, None, margins
        margins.append(round(float(logits[best] - logits[second]), 4))
        if llama.ends(best):
            return ids, int(best), margins
        ids.append(int(best))
        logits = llama.feed(ids[-1:])


def sampled(llama, seed, found):
    """Whether the word is in the text sampled with this seed; the first logits are those of the last feed."""
    chain = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
    for step in (c.llama_sampler_init_temp(TEMPERATURE), c.llama_sampler_init_top_k(TOP_K), c.llama_sampler_init_top_p(TOP_P, 1),
                 c.llama_sampler_init_dist(seed)):
        c.llama_sampler_chain_add(chain, step)
    ids, text = [], ""
    while len(ids) < MAX_TOKENS:
        token = c.llama_sampler_sample(chain, llama.context, -1)
        if llama.ends(token):
            break
        ids.append(token)
        text = llama.text(ids)
        hit = found.search(text)
        if hit and hit.end() < len(text):  # what follows can no longer become part of the word
            break
        llama.feed([token])
    c.llama_sampler_free(chain)
    return bool(found.search(text))


def least(hits, samples, n, risk):
    """The largest k such that fewer than k hits in n have at most this probability, having seen `hits` in `samples`.

    Beta-binomial predictive distribution with Jeffreys' prior.
    """
    a, b = hits + 0.5, samples - hits + 0.5
    beta = lambda x, y: math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)
    total = 0.0
    for k in range(n + 1):
        total += math.exp(math.log(math.comb(n, k)) + beta(k + a, n - k + b) - beta(a, b))
        if total > risk:
            return k
    return n


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--models", default="../../../models")
    args.add_argument("--out", default="haiku.json")
    args = args.parse_args()
    path = os.path.join(args.models, FILE)
    template = _compile_jinja_template(GGUFReader(path).fields["tokenizer.chat_template"].contents())
    llama = Llama(path)
    words = []
    for minute, word in enumerate(WORDS):
        message = {"role": "user", "content": MESSAGE.format(word=word)}
        prompt = llama.tokenize(template.render(messages=[message], add_generation_prompt=True))
        found = finder(word)
        llama.keep(0)
        ids, end, margins = greedy(llama, llama.feed(prompt))
        hits = [0, 0]
        for seed in range(1, SAMPLES + 1):
            llama.keep(len(prompt) - 1)
            llama.feed(prompt[-1:])
            hits[seed > SEEDS] += sampled(llama, seed, found)
        text = llama.text(ids)
        words.append({
            "minute": minute, "word": word, "prompt": prompt, "ids": ids, "end": end, "margins": margins, "text": text,
            "hit": bool(found.search(text)), "hits": sum(hits), "hits_first_20": hits[0], "least": least(sum(hits), SAMPLES, SEEDS, RISK),
        })
        print(minute, word, words[-1]["hit"], hits, words[-1]["least"], repr(text), flush=True)
    rates = np.array([w["hits"] for w in words]) / SAMPLES
    spread = math.sqrt(sum(rates * (1 - rates) * (SEEDS + SEEDS**2 / SAMPLES)))
    with open(path, "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    result = {
        "file": FILE, "sha256": digest, "engines": {"llama-cpp-python": c.__version__}, "message": MESSAGE,
        "max_tokens": MAX_TOKENS, "sampling": {"temperature": TEMPERATURE, "top_k": TOP_K, "top_p": TOP_P}, "samples": SAMPLES, "seeds": SEEDS,
        "greedy_hits": sum(w["hit"] for w in words), "rate": round(float(rates.mean()), 4),
        "least_over_all": int(rates.sum() * SEEDS - 4 * spread), "words": words,
    }
    with open(args.out, "w") as f:
        json.dump(result, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    print({k: v for k, v in result.items() if k != "words"})


if __name__ == "__main__":
    main()
