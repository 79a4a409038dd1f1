#!/usr/bin/env python3
"""Runs `trireme logits` on the golden models and compares (Python's standard library only).

  tests/golden/check_golden.py [--tp N --pp M --launcher L] [--dtype D] [--only NAME,...]
      against golden.json: float32 within 1e-3 of the largest logit and the greedy continuation
      exact, bfloat16 within a mean KL divergence of 1e-3.
  tests/golden/check_golden.py --layouts [--launcher L] ...
      every layout of TP {1,2,3,4} x PP {1,2,3} against one rank, byte for byte.

The binary is --binary, or $TRIREME_BIN, or build/release/trireme. See README.md in this folder.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
DEMO = REPO / "demo" / "model"
N_GREEDY = 24
RUN_DEADLINE_S = 180
LIMIT_LOGIT = 1e-3      # of the prompt's largest |logit|, float32
LIMIT_KL = 1e-3         # mean over the prompts, bfloat16
# These expectations were computed with rotary frequencies rounded to bfloat16 (README.md).
LIMITS_FLOAT32 = {"golden.json": LIMIT_LOGIT, "golden-bf16-rope.json": 2e-3}
STORAGE_PREFIX = "storage-"   # one set of weights in several files: all give the same bytes
# What --layouts runs in float32 too; every model runs there in bfloat16.
LAYOUTS_FLOAT32 = ("llama", "mistral-window", "qwen2", "qwen3", "llama-biases")
MAX_LEAVES = 16
MLP_UNIT = 32


class RunFailed(Exception):
    pass


def name_of(folder):
    return "demo" if folder == DEMO else folder.name


def n_greedy_of(prompts):
    return max(N_GREEDY, *(len(p["greedy"]) for p in prompts))


def run_logits(args, folder, prompts, dtype, tp, pp):
    """The output lines, one per prompt."""
    command = [args.binary, "logits", str(folder), "--dtype", dtype, "--tp", str(tp),
               "--pp", str(pp), "--max-new", str(n_greedy_of(prompts))]
    if args.launcher:
        command += ["--launcher", args.launcher]
    request = "".join(json.dumps({"input_ids": p["input_ids"]}) + "\n" for p in prompts)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        output, errors = process.communicate(request, timeout=RUN_DEADLINE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise RunFailed(f"no end within {RUN_DEADLINE_S} s: {' '.join(command)}") from None
    if process.returncode != 0:
        last = (errors.strip().splitlines() or ["nothing on standard error"])[-1]
        raise RunFailed(f"exit {process.returncode}: {last}")
    lines = output.splitlines()
    if len(lines) != len(prompts):
        raise RunFailed(f"{len(lines)} lines for {len(prompts)} prompts")
    return lines


def log_softmax(logits):
    largest = max(logits)
    log_sum = math.log(math.fsum(math.exp(v - largest) for v in logits))
    return [v - largest - log_sum for v in logits]


def divergence(expected, actual):
    """KL(expected || actual) of two logit vectors."""
    p, q = log_softmax(expected), log_softmax(actual)
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q))


def largest_difference(expected, actual):
    if len(expected) != len(actual):
        raise RunFailed(f"{len(actual)} values where {len(expected)} were expected")
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in actual):
        raise RunFailed("a value that is not a finite number")
    return max((abs(a - b) for a, b in zip(expected, actual)), default=0.0)


def compare(prompts, answers):
    """Errors of logits and log p relative to the largest logit; mean KL; greedy agreement."""
    scale = max(abs(v) for p in prompts for v in p["last_logits"])
    logit = logprob = kl = 0.0
    greedy = True
    for prompt, answer in zip(prompts, answers):
        largest = max(abs(v) for v in prompt["last_logits"])
        logit = max(logit,
                    largest_difference(prompt["last_logits"], answer["last_logits"]) / largest)
        logprob = max(logprob, largest_difference(prompt["logprobs"], answer["logprobs"]) / scale)
        kl += divergence(prompt["last_logits"], answer["last_logits"]) / len(prompts)
        if len(answer["greedy"]) != n_greedy_of(prompts):
            raise RunFailed(f"{len(answer['greedy'])} greedy tokens")
        greedy &= answer["greedy"][:len(prompt["greedy"])] == prompt["greedy"]
    return logit, logprob, kl, greedy


class Tally:
    def __init__(self):
        self.n_passed = self.n_failed = 0

    def row(self, passed, text):
        self.n_passed += passed
        self.n_failed += not passed
        print(("ok    " if passed else "FAIL  ") + text, flush=True)


def check_golden(args, folder, tally, storage_lines):
    for file_name, limit in LIMITS_FLOAT32.items():
        path = folder / file_name
        if not path.exists():
            continue
        prompts = json.loads(path.read_text())["prompts"]
        label = name_of(folder) + ("" if file_name == "golden.json" else " (bf16 rope)")
        for dtype in args.dtypes:
            try:
                lines = run_logits(args, folder, prompts, dtype, args.tp, args.pp)
                logit, logprob, kl, greedy = compare(prompts, [json.loads(v) for v in lines])
            except (RunFailed, ValueError, KeyError) as failure:
                tally.row(False, f"{label:30} {dtype:9} {failure}")
                continue
            # A log probability is a difference of logits: twice their error.
            passed = (kl < LIMIT_KL if dtype == "bfloat16"
                      else logit <= limit and logprob <= 2 * limit and greedy)
            tally.row(passed, f"{label:30} {dtype:9} logit {logit:.1e}  log p {logprob:.1e}  "
                              f"KL {kl:.1e}  greedy {'agrees' if greedy else 'differs'}")
            if folder.name.startswith(STORAGE_PREFIX):
                storage_lines.setdefault(dtype, []).append((folder.name, lines))


def check_storage(storage_lines, tally):
    for dtype, results in storage_lines.items():
        for name, lines in results[1:]:
            tally.row(lines == results[0][1], f"{name:30} {dtype:9} same bytes as {results[0][0]}")


def layouts_of(folder):
    """Those of TP {1,2,3,4} x PP {1,2,3} that the model's leaves and layers allow."""
    config = json.loads((folder / "config.json").read_text())
    mlp_units = -(-config["intermediate_size"] // MLP_UNIT)
    largest_tp = min(MAX_LEAVES, config["num_attention_heads"], mlp_units)
    largest_pp = config["num_hidden_layers"]
    return [(tp, pp) for tp in range(1, min(4, largest_tp) + 1)
            for pp in range(1, min(3, largest_pp) + 1)]


def check_layouts(args, folder, tally):
    prompts = json.loads((folder / "golden.json").read_text())["prompts"]
    layouts = layouts_of(folder)
    dtypes = args.dtypes
    if args.dtype is None and name_of(folder) not in LAYOUTS_FLOAT32:
        dtypes = ("bfloat16",)
    for dtype in dtypes:
        differing, first = [], None
        for tp, pp in layouts:
            try:
                lines = run_logits(args, folder, prompts, dtype, tp, pp)
            except RunFailed as failure:
                differing.append(f"{tp}x{pp} ({failure})")
                continue
            first = first or lines
            if lines != first:
                wrong = [i for i, (a, b) in enumerate(zip(first, lines)) if a != b]
                differing.append(f"{tp}x{pp} (prompts {wrong})")
        text = "differ: " + ", ".join(differing) if differing else "same bytes"
        tally.row(not differing, f"{name_of(folder):30} {dtype:9} {len(layouts)} layouts: {text}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.environ.get(
        "TRIREME_BIN", str(REPO / "build" / "release" / "trireme")))
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--pp", type=int, default=1)
    parser.add_argument("--launcher", default="", help="local, mpirun, srun or external")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--layouts", action="store_true")
    args = parser.parse_args()
    args.dtypes = (args.dtype,) if args.dtype else ("float32", "bfloat16")
    return args


def main():
    args = parse_arguments()
    if not os.access(args.binary, os.X_OK):
        sys.exit(f"{args.binary} is not there: build it with scripts/build, or give --binary")
    only = set(filter(None, args.only.split(",")))
    folders = sorted(p.parent for p in HERE.glob("*/golden.json")) + [DEMO]
    folders = [f for f in folders if not only or name_of(f) in only]
    tally, storage_lines = Tally(), {}
    for folder in folders:
        if args.layouts:
            check_layouts(args, folder, tally)
        else:
            check_golden(args, folder, tally, storage_lines)
    check_storage(storage_lines, tally)
    print(f"{tally.n_passed} passed, {tally.n_failed} failed")
    sys.exit(tally.n_failed > 0 or tally.n_passed == 0)


if __name__ == "__main__":
    main()
