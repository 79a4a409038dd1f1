"""What every run_*.py shares: it is given works, times them in one process and prints JSON.

A work is {"name", "kind": "prefill" or "decode", "prompt", "streams", "context", "generate"}; the
figures are tokens per second of all streams together. Prompts are random token ids.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time

FIRST_ID = 1000  # ids below may be special to a tokenizer


class Unsupported(Exception):
    """The engine cannot do this work."""


def process_age_s():
    """Seconds since the kernel started this process."""
    with open("/proc/self/stat") as file:
        start_ticks = int(file.read().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")


def random_ids(n_tokens, vocab_size, seed=random.Random(1)):
    return [seed.randrange(min(FIRST_ID, vocab_size // 2), vocab_size) for _ in range(n_tokens)]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--works", type=json.loads, required=True)
    parser.add_argument("--probe", type=json.loads, required=True,
                        help="command that prints what the machine does now")
    return parser.parse_args()


def probe(command):
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def run(load, measure):
    """load(args) -> state; measure(state, work) -> tokens per second, or raises Unsupported.

    The first work is done by the time that counts as the start: a prompt of 16 tokens.
    """
    args = parse_arguments()
    state = load(args)
    results = {"rates": {}, "unsupported": {}, "probes": {}}
    start = {"name": "start", "kind": "prefill", "prompt": 16, "streams": 1, "context": 16,
             "generate": 1}
    measure(state, start)
    results["start_to_first_token_s"] = process_age_s()
    before = probe(args.probe)
    for work in args.works:
        try:
            results["rates"][work["name"]] = measure(state, work)
        except Unsupported as reason:
            results["unsupported"][work["name"]] = str(reason)
        after = probe(args.probe)
        results["probes"][work["name"]] = [before, after]
        before = after
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results["resident_bytes"] = peak_kib * 1024
    sys.stdout.flush()
    print("\n" + json.dumps(results), flush=True)
    os._exit(0)  # some engines do not end cleanly


def steps_rate(times, n_streams):
    """Tokens per second from the moments at which each step's tokens were there."""
    return n_streams * (len(times) - 1) / (times[-1] - times[0])
