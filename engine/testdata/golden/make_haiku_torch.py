"""Greedy ids of torch float32 for the haiku test's prompts, with the margin of every choice.

    python make_haiku_torch.py --models ../../../models --out haiku-torch.json

The prompts are those of make_haiku.py. Where a margin is tiny, rounding alone decides; margins tell where that is.
"""

import argparse
import hashlib
import json
import os

import torch
from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers.utils.chat_template_utils import _compile_jinja_template

from make_haiku import FILE, MAX_TOKENS, MESSAGE, WORDS
from torch_reference import Reference


def tokenizer(reader):
    """The model's own: single digits, then GPT-2's byte-level pieces, then BPE."""
    fields = reader.fields
    tokens, merges = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.merges"].contents()
    result = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in merges]))
    result.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    types = fields["tokenizer.ggml.token_type"].contents()
    result.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, types) if kind == 3])
    return result


@torch.no_grad()
def greedy(model, prompt, end):
    ids, margins, past, step = [], [], None, prompt
    while True:
        out = model(torch.tensor([step]), past_key_values=past, use_cache=True)
        past, best = out.past_key_values, torch.topk(out.logits[0, -1], 2)
        if len(ids) == MAX_TOKENS:
            return ids, None, margins
        margins.append(round(float(best.values[0] - best.values[1]), 5))
        choice = int(best.indices[0])
        if choice == end:
            return ids, choice, margins
        ids.append(choice)
        step = [choice]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--models", default="../../../models")
    args.add_argument("--out", default="haiku-torch.json")
    args = args.parse_args()
    torch.set_num_threads(1)
    path = os.path.join(args.models, FILE)
    reader = GGUFReader(path)
    encode = tokenizer(reader)
    template = _compile_jinja_template(reader.fields["tokenizer.chat_template"].contents())
    end = reader.fields["tokenizer.ggml.eos_token_id"].contents()
    model = Reference(path).model
    words = []
    for minute, word in enumerate(WORDS):
        message = {"role": "user", "content": MESSAGE.format(word=word)}
        prompt = encode.encode(template.render(messages=[message], add_generation_prompt=True), add_special_tokens=False).ids
        ids, stop, margins = greedy(model, prompt, end)
        words.append({"minute": minute, "word": word, "prompt": prompt, "ids": ids, "end": stop, "margins": margins})
        print(minute, word, len(ids), min(margins), repr(encode.decode(ids)), flush=True)
    with open(path, "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    import transformers

    result = {"file": FILE, "sha256": digest, "engines": {"torch": torch.__version__, "transformers": transformers.__version__},
              "message": MESSAGE, "max_tokens": MAX_TOKENS, "words": words}
    with open(args.out, "w") as f:
        json.dump(result, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
