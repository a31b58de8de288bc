#!/usr/bin/env python3
"""Measures kigo and llama.cpp side by side on this machine's GPU.

Both run the same model files, one after the other, in pairs whose order alternates;
nothing else should run meanwhile. Each process repeats what it measures and gives the
median; with many streams, llama.cpp's measures once. Printed are the medians of the
processes with the extremes, and kigo's median over llama.cpp's.

    make build                             # or kigo of `make gpu-bundle`
    pip download --no-binary llama-cpp-python --no-deps llama-cpp-python==0.3.36   # has llama.cpp's source
    cmake -B build -DCMAKE_BUILD_TYPE=Release -DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=90a && \\
        cmake --build build --target llama-bench llama-batched-bench                # in vendor/llama.cpp
    kigo synth llama-3.1-8b-f16.gguf --shape llama-3.1-8b --format f16
    engine/testdata/compare_llama_gpu.py --llama .../build/bin --kigo ./kigo *.gguf

What is measured, in tokens/s:
    prefill N         of a prompt of N tokens: llama-bench, kigo bench
    decode at N       one stream, after N tokens: llama-bench -d, kigo bench --context
    streams N         so many together, while they generate 128 tokens after prompts of 128: llama-batched-bench, kigo bench --streams

llama.cpp has flash attention, all layers on the GPU, and its other defaults.
"""

import argparse
import json
import os
import statistics

from compare_llama import compare, run

GENERATE = 128
STREAM_PROMPT = 128  # kigo bench's


def output(command):
    return run(command)[0]


def repeated(flag, values):
    return [x for v in values for x in (flag, str(v))]


def kigo(a, model):
    bench = [a.kigo, "bench", model, "--device", a.device, "--runs", str(a.runs), "--generate", str(GENERATE), "--json"]
    report = json.loads(output(bench + repeated("--prompt", a.prompts) + repeated("--context", a.contexts) + repeated("--streams", a.streams)))
    rows = {r["name"]: r["median"] for r in report["results"]}
    found = {f"prefill {n}": rows[f"prefill {n}"] for n in a.prompts}
    found |= {f"decode at {n}": rows[f"decode {GENERATE} at context {n}"] for n in a.contexts}
    return found | {f"streams {n}": rows[f"streams {n}: generating"] for n in a.streams}


def llama(a, model):
    layers = ["-ngl", "99" if a.device == "cuda" else "0"]
    bench = [os.path.join(a.llama, "llama-bench"), "-m", model, "-fa", "1", "-r", str(a.runs), "-o", "json"] + layers
    bench += ["-p", ",".join(map(str, a.prompts)), "-n", str(GENERATE), "-d", ",".join(map(str, a.contexts))]
    found = {}
    for r in json.loads(output(bench)):
        if r["n_gen"]:
            found[f"decode at {r['n_depth']}"] = statistics.median(r["samples_ts"])
        elif r["n_depth"] == 0:
            found[f"prefill {r['n_prompt']}"] = statistics.median(r["samples_ts"])
    if a.streams:
        batched = [os.path.join(a.llama, "llama-batched-bench"), "-m", model, "-fa", "on", "--output-format", "jsonl"] + layers
        sizes = ["-c", str(max(a.streams) * (STREAM_PROMPT + GENERATE)), "-npp", str(STREAM_PROMPT), "-ntg", str(GENERATE)]
        for line in output(batched + sizes + ["-npl", ",".join(map(str, a.streams))]).splitlines():
            if line.startswith("{"):
                r = json.loads(line)
                found[f"streams {r['pl']}"] = r["speed_tg"]
    return found


def numbers(text):
    return [int(n) for n in text.split(",") if n]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+")
    p.add_argument("--kigo", default="./kigo")
    p.add_argument("--llama", required=True, help="folder of llama-bench and llama-batched-bench")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu is for a look at this program itself")
    p.add_argument("--pairs", type=int, default=2)
    p.add_argument("--runs", type=int, default=5, help="of each process")
    p.add_argument("--prompts", type=numbers, default=[512, 2048])
    p.add_argument("--contexts", type=numbers, default=[0, 4096])
    p.add_argument("--streams", type=numbers, default=[1, 8, 32, 64, 128, 256])
    a = p.parse_args()
    compare(a.models, a.pairs, lambda m: kigo(a, m), lambda m: llama(a, m), None, a.device)


if __name__ == "__main__":
    main()
