#!/usr/bin/env python3
"""Measures kigo and llama.cpp side by side on this machine's processor.

Both run the same model file with the same number of threads, one after the other,
in pairs whose order alternates; nothing else should run meanwhile. Printed are the
medians with the extremes, and kigo's median over llama.cpp's.

    make build
    pip download --no-binary llama-cpp-python --no-deps llama-cpp-python==0.3.36   # has llama.cpp's source
    cmake -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON && cmake --build build \\
        --target llama-bench llama-batched-bench llama-completion                   # in vendor/llama.cpp
    engine/testdata/compare_llama.py --llama .../build/bin models/*.gguf

What is measured:
    prefill, decode   llama-bench and kigo bench, tokens/s of a prompt and after it
    streams           llama-batched-bench and kigo bench --streams: tokens/s of so many together, while they generate
                      after prompts of 128 tokens
    start             from exec to the end of a process that answers with one token (llama.cpp without warm-up)
    memory            peak resident memory of a process with a long prompt and 16 tokens, context 1,024
    memory read       GB/s that as many threads read, and the share of it that decoding reaches (kigo bench)
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

PROMPT = "The capital of France is"
LONG = " ".join(f"In year {i} the old pond was still, and a frog jumped in." for i in range(24))


def run(command):
    """Runs a command; returns its output, seconds and peak memory in MiB."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        if process.returncode != 0:
            err.seek(0)
            sys.exit(f"{' '.join(command)}: exit {process.returncode}\n{err.read().decode(errors='replace')[-2000:]}")
        return out.read().decode(errors="replace"), seconds, usage.ru_maxrss / 1024


def kigo(a, model):
    out, _, _ = run([a.kigo, "bench", model, "--device", "cpu", "--threads", str(a.threads), "--prompt", str(a.prompt),
                     "--context", "0", "--generate", str(a.generate), "--streams", str(a.streams), "--runs", "1", "--json"])
    report = json.loads(out)
    rows = {r["name"]: r for r in report["results"]}
    decode = rows[f"decode {a.generate} at context 0"]
    one = [a.kigo, "run", "--model", model, "--device", "cpu", "--threads", str(a.threads), "--raw", "--temperature", "0", "--quiet"]
    _, start, _ = run(one + ["--max-tokens", "1", PROMPT])
    _, _, memory = run(one + ["--max-tokens", "16", LONG])
    return {
        "prefill": rows[f"prefill {a.prompt}"]["median"], "decode": decode["median"],
        "streams": rows[f"streams {a.streams}: generating"]["median"], "start": start, "memory": memory,
        "memory read": report["rates"]["copy"]["per_second"] / 1e9, "share of it": 100 * decode["share"],
    }


def llama(a, model):
    out, _, _ = run([os.path.join(a.llama, "llama-bench"), "-m", model, "-t", str(a.threads), "-p", str(a.prompt),
                     "-n", str(a.generate), "-r", "1", "-o", "json"])
    rate = {(r["n_prompt"], r["n_gen"]): r["avg_ts"] for r in json.loads(out)}
    out, _, _ = run([os.path.join(a.llama, "llama-batched-bench"), "-m", model, "-t", str(a.threads), "-tb", str(a.threads),
                     "-c", str(a.streams * (128 + a.generate)), "-npp", "128", "-ntg", str(a.generate), "-npl", str(a.streams),
                     "--output-format", "jsonl"])
    streams = [json.loads(line)["speed_tg"] for line in out.splitlines() if line.startswith("{")]
    one = [os.path.join(a.llama, "llama-completion"), "-m", model, "-t", str(a.threads), "-c", "1024", "-no-cnv",
           "--temp", "0", "--no-warmup"]
    _, start, _ = run(one + ["-n", "1", "-p", PROMPT])
    _, _, memory = run(one + ["-n", "16", "-p", LONG])
    return {"prefill": rate[(a.prompt, 0)], "decode": rate[(0, a.generate)], "streams": streams[0], "start": start, "memory": memory}


UNITS = {"prefill": "tokens/s", "decode": "tokens/s", "streams": "tokens/s", "start": "s", "memory": "MiB", "memory read": "GB/s", "share of it": "%"}


def show(values):
    if not values:
        return "-"
    digits = lambda v: f"{v:,.0f}" if v >= 1000 else f"{v:.4g}"
    return f"{digits(statistics.median(values))} ({digits(min(values))} to {digits(max(values))})"


def compare(models, pairs, kigo, llama, units, heading):
    """Measures every model with both, in pairs, and prints a table of units' rows, or of all with None."""
    for model in models:
        sides = {"kigo": [], "llama.cpp": []}
        for pair in range(pairs):
            order = [("kigo", kigo), ("llama.cpp", llama)]
            for name, measure in order if pair % 2 == 0 else reversed(order):
                sides[name].append(measure(model))
            print(f"{os.path.basename(model)}: pair {pair + 1} of {pairs}", file=sys.stderr)
        print(f"\n{os.path.basename(model)}, {heading}, {pairs} pairs, medians (extremes)\n")
        print("| | unit | kigo | llama.cpp | ratio |\n|---|---|---|---|---|")
        for row, unit in (units or {row: "tokens/s" for row in sides["kigo"][0]}).items():
            ours = [s[row] for s in sides["kigo"]]
            theirs = [s[row] for s in sides["llama.cpp"] if row in s]
            ratio = f"{statistics.median(ours) / statistics.median(theirs):.2f}" if theirs else ""
            print(f"| {row} | {unit} | {show(ours)} | {show(theirs)} | {ratio} |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+")
    p.add_argument("--kigo", default="./kigo")
    p.add_argument("--llama", required=True, help="folder of llama-bench, llama-batched-bench and llama-completion")
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--generate", type=int, default=128)
    p.add_argument("--streams", type=int, default=8)
    a = p.parse_args()
    compare(a.models, a.pairs, lambda m: kigo(a, m), lambda m: llama(a, m), UNITS, f"{a.threads} threads")


if __name__ == "__main__":
    main()
