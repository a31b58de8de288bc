"""Golden perplexities and KL divergences: what llama-perplexity says about the demo model and two conversions of it.

    make build                                 # at the root: kigo converts the files
    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36    # and unpack it; in its vendor/llama.cpp:
    cmake -B build -DCMAKE_BUILD_TYPE=Release && cmake --build build --target llama-perplexity
    python make_perplexity.py --llama-perplexity .../build/bin/llama-perplexity --work SCRATCH_FOLDER

Each file is measured twice: as it is ("plain": llama.cpp quantizes activations to 8 bits, keys and values are float16),
and dequantized to F32 by the gguf package, with keys and values in float32 ("exact": float32 arithmetic throughout).
"""

import argparse
import hashlib
import json
import os
import re
import subprocess

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T, GGUFReader, GGUFValueType, GGUFWriter, quants

MODEL, TEXT = "SmolLM2-135M-Instruct.Q4_1.gguf", "perplexity.txt"
CONVERTED = ["q8_0", "q4_0"]
SIZES = [{"context": 64, "chunks": 4}, {"context": 512, "chunks": 5}]
OPTIONS = {"plain": ["--no-repack"], "exact": ["--no-repack", "-fa", "off", "-ctk", "f32", "-ctv", "f32"]}

NUMBER = r"\s*(-?[\d.]+)"
PAIR = NUMBER + r" ±" + NUMBER
SUMMARY = {  # by our name: llama-perplexity's
    "perplexity": r"Mean PPL\(Q\)", "base_perplexity": r"Mean PPL\(base\)", "log_ratio": r"Mean ln\(PPL\(Q\)/PPL\(base\)\)",
    "ratio": r"Mean PPL\(Q\)/PPL\(base\)", "kl": "Mean    KLD", "probability_mean": "Mean    Δp", "probability_rms": "RMS Δp",
    "same_top": "Same top p", "correlation": r"Cor\(ln\(PPL\(Q\)\), ln\(PPL\(base\)\)\)",
    "kl_max": "Maximum KLD", "kl_99_9": "99.9%   KLD", "kl_99": "99.0%   KLD", "kl_95": "95.0%   KLD", "kl_90": "90.0%   KLD",
    "kl_median": "Median  KLD",
}
PERCENT = ["probability_mean", "probability_rms", "same_top", "correlation"]


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def dequantize(source, target):
    """Copies a file with all its tensors as F32."""
    reader = GGUFReader(source)
    w = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = 0 if key == "general.file_type" else field.contents()
        kind, sub = field.types[0], field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        w.add_key_value(key, value, kind, sub)
    for t in reader.tensors:
        data = np.asarray(t.data)
        w.add_tensor(t.name, data if t.tensor_type == T.F32 else quants.dequantize(data, t.tensor_type).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


class Tool:
    def __init__(self, path, threads):
        self.path, self.threads = path, threads

    def run(self, model, size, how, *more):
        command = [self.path, "-m", model, "-f", TEXT, "-c", str(size["context"]), "-b", str(size["context"]),
                   "--chunks", str(size["chunks"]), "-t", str(self.threads), *OPTIONS[how], *more]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}:\n{done.stdout}")
        return done.stdout

    def base(self, model, size, how, logits):
        """Perplexity over the chunks up to each, with its final error; the log-probabilities go into a file."""
        out = self.run(model, size, how, "--kl-divergence-base", logits)
        error = re.search(r"Final estimate: PPL =" + NUMBER + r" \+/-" + NUMBER, out)
        return {"running": [float(x) for x in re.findall(r"\[\d+\]([\d.]+),", out)], "error": float(error[2])}

    def divergence(self, model, size, how, logits):
        """The statistics that the tool prints at the end, as [value, error] where it has an error, and, after each chunk,
        those that it prints then."""
        out = self.run(model, size, how, "--kl-divergence", "--kl-divergence-base", logits)
        stats = {}
        for name, theirs in SUMMARY.items():
            scale = 0.01 if name in PERCENT else 1
            if pair := re.search(theirs + r"\s*:" + PAIR, out):
                stats[name] = [round(float(pair[1]) * scale, 9), round(float(pair[2]) * scale, 9)]
            else:
                stats[name] = round(float(re.search(theirs + r"\s*:" + NUMBER, out)[1]) * scale, 9)
        rows = re.findall(r"^\s*\d+\s" + PAIR * 3 + PAIR + " %" + PAIR + " %", out, re.M)
        if len(rows) != size["chunks"]:
            raise SystemExit(f"{len(rows)} lines of chunks in\n{out}")
        stats["running"] = [{
            "perplexity": [float(r[0]), float(r[1])], "log_ratio": [float(r[2]), float(r[3])], "kl": [float(r[4]), float(r[5])],
            "probability_rms": [round(float(x) / 100, 9) for x in r[6:8]], "same_top": [round(float(x) / 100, 9) for x in r[8:]],
        } for r in rows]
        return stats


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--models", default="../../../models")
    args.add_argument("--kigo", default="../../../kigo")
    args.add_argument("--llama-perplexity", required=True)
    args.add_argument("--threads", type=int, default=1, help="do not change the result")
    args.add_argument("--work", required=True, help="folder for converted files and log-probabilities (2.5 GB)")
    args.add_argument("--out", default=".")
    args = args.parse_args()

    tool = Tool(args.llama_perplexity, args.threads)
    version = subprocess.run([tool.path, "--version"], capture_output=True, text=True)
    paths = {("q4_1", "plain"): os.path.join(args.models, MODEL)}
    for name in CONVERTED:
        paths[name, "plain"] = os.path.join(args.work, name + ".gguf")
        subprocess.run([args.kigo, "convert", paths["q4_1", "plain"], paths[name, "plain"], "--format", name, "--force"], check=True)
    for name in ["q4_1", *CONVERTED]:
        paths[name, "exact"] = os.path.join(args.work, name + ".f32.gguf")
        dequantize(paths[name, "plain"], paths[name, "exact"])

    logits = {how: os.path.join(args.work, how + ".logits") for how in OPTIONS}
    runs = []
    for size in SIZES:
        run = {**size, "counted": size["chunks"] * (size["context"] - 1 - size["context"] // 2), "perplexity": {}, "divergence": {}}
        for how in OPTIONS:
            run["perplexity"][how] = tool.base(paths["q4_1", how], size, how, logits[how])
            run["divergence"][how] = {name: tool.divergence(paths[name, how], size, how, logits[how]) for name in CONVERTED}
        run["noise"] = tool.divergence(paths["q4_1", "plain"], size, "plain", logits["exact"])
        runs.append(run)
    golden = {
        "engine": "llama-perplexity of llama-cpp-python 0.3.36, " + re.search("version: .*", version.stdout + version.stderr)[0],
        "options": {how: " ".join(o) for how, o in OPTIONS.items()},
        "text": TEXT, "text_sha256": sha256(TEXT), "file": MODEL,
        "sha256": {name: sha256(paths[name, "plain"]) for name in ["q4_1", *CONVERTED]},
        "runs": runs,
    }
    with open(os.path.join(args.out, "perplexity.json"), "w") as f:
        json.dump(golden, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
