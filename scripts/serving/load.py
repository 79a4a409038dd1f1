"""Drives load_client.py against a server, and takes down what the server used meanwhile."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import rpc_servers
from servers import MODEL_NAME, cpu_seconds
from shell import Failed, last_line

CLIENT = Path(__file__).resolve().parent / "load_client.py"
SAMPLE_S = 1.0


def completion(prompt_tokens, max_tokens, **more):
    """A template of the load client: random ids in, so many tokens out whatever they are."""
    return {"kind": "completion", "path": "/v1/completions", "prompt_tokens": prompt_tokens,
            "body": {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}, **more}


def looping(template, first=None):
    return {"first": first, "requests": [template], "loop": True}


class Samples(threading.Thread):
    """What look() gives, each second of a with-block: (moment, *values) in `taken`."""

    def __init__(self, look):
        super().__init__(daemon=True)
        self.look = look
        self.taken = []
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(SAMPLE_S):
            self.taken.append((time.monotonic(), *self.look()))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()

    def between(self, begin, end):
        return [sample for sample in self.taken if begin <= sample[0] <= end]


@dataclass(frozen=True)
class Measured:
    begin: float  # of what counts, on CLOCK_MONOTONIC
    end: float
    requests: list  # the records of load_client.py
    cpu_percent: float  # of a core, that the server's process took of its time


def apply_load(server, clients, begin, end, deadline_s, late=None, keep_times=True, seed=1):
    """The arguments are members of load_client.py's specification."""
    spec = {"port": server.port, "vocab_size": server.vocab_size, "model": MODEL_NAME, "seed": seed,
            "clients": clients, "begin": begin, "end": end, "late": late, "keep_times": keep_times,
            "deadline_s": deadline_s}
    uses, result = [], None
    with subprocess.Popen([sys.executable, CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, preexec_fn=rpc_servers.end_with_parent) as client:
        try:
            client.stdin.write(json.dumps(spec).encode())
            client.stdin.close()
            for line in client.stdout:
                told = json.loads(line)
                if told["event"] == "result":
                    result = told
                else:
                    uses.append((time.monotonic(), cpu_seconds(server.process.pid)))
            errors = client.stderr.read()
        except BaseException:
            client.kill()
            raise
    if result is None:
        raise Failed(f"load: {last_line(errors)}")
    (begin_at, cpu_before), (end_at, cpu_after) = uses
    return Measured(result["begin"], result["end"], result["requests"],
                    100 * (cpu_after - cpu_before) / (end_at - begin_at))
