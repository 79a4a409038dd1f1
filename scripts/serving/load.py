"""Drives load_client.py against a server, and takes down what the server used meanwhile."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import rpc_servers
from servers import cpu_seconds
from shell import Failed, last_line

CLIENT = Path(__file__).resolve().parent / "load_client.py"


def completion(prompt_tokens, max_tokens, **more):
    """A template of the load client: random ids in, so many tokens out whatever they are."""
    return {"kind": "completion", "path": "/v1/completions", "prompt_tokens": prompt_tokens,
            "body": {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}, **more}


def looping(template, first=None):
    return {"first": first, "requests": [template], "loop": True}


def usage_of(server):
    """What the server has used so far; of ours also what its first stage has done."""
    usage = {"at": time.monotonic(), "cpu_s": cpu_seconds(server.process.pid)}
    if server.trireme:
        usage["busy_s"] = server.metric("trireme_stage_busy_seconds_total", stage="0")
        usage["steps"] = server.metric("vllm:iteration_tokens_total_count")
    return usage


@dataclass(frozen=True)
class Measured:
    begin: float  # of what counts, on CLOCK_MONOTONIC
    end: float
    requests: list  # the records of load_client.py
    used: dict  # of usage_of(): the differences between begin and end


def apply_load(server, clients, begin, end, deadline_s, late=None, keep_times=True, seed=1):
    """The arguments are members of load_client.py's specification."""
    spec = {"port": server.port, "vocab_size": server.vocab_size, "seed": seed, "begin": begin,
            "end": end, "late": late, "keep_times": keep_times, "deadline_s": deadline_s,
            "clients": [client | {"requests": [named(server, one) for one in client["requests"]],
                                  "first": named(server, client["first"])} for client in clients]}
    spec["late"] = named(server, late)
    usages, result = [], None
    with subprocess.Popen([sys.executable, CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, preexec_fn=rpc_servers.end_with_parent) as client:
        client.stdin.write(json.dumps(spec).encode())
        client.stdin.close()
        for line in client.stdout:
            told = json.loads(line)
            if told["event"] == "result":
                result = told
            else:
                usages.append(usage_of(server))
        errors = client.stderr.read()
    if result is None:
        raise Failed(f"load: {last_line(errors)}")
    first, last = usages
    used = {name: last[name] - first[name] for name in first}
    return Measured(result["begin"], result["end"], result["requests"], used)


def named(server, template):
    """With the model's name in the body."""
    return template and template | {"body": template["body"] | {"model": server.model}}
