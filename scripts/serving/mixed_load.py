"""Requests of every kind with clients that hang up, and the memory that the server keeps."""

import figures
import servers
from load import Samples, apply_load, completion
from rpc_servers import resident_bytes
from scenarios import DEADLINE_S, DEMO_VOCABULARY

N_CLIENTS = 16
CANCELLED = 0.25  # of the requests
WARM_UP = 0.25  # of the time: caches fill, threads are started
N_KEPT = 200  # samples in the results
MIB = 1 << 20

TALE = [{"role": "user", "content": "Tell me a tale about a fox and a king."}]
TOOL = {"type": "function", "function": {
    "name": "look_up", "description": "Looks a word up.",
    "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}}}
SCHEMA = {"type": "object", "required": ["name", "age"], "additionalProperties": False,
          "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}}}


def chat(max_tokens, **body):
    return {"kind": "chat", "path": "/v1/chat/completions",
            "body": {"messages": TALE, "max_tokens": max_tokens, "temperature": 0.8, **body}}


def text(max_tokens, **body):
    return {"kind": "text", "path": "/v1/completions",
            "body": {"prompt": "Once upon a time", "max_tokens": max_tokens, **body}}


KINDS = [
    completion([8, 600], [1, 200]),
    text([20, 200]),
    chat([10, 120]),
    completion([8, 100], [1, 60]),
    chat([20, 80], response_format={
        "type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}),
    text([10, 60], n=4, logprobs=3),
    chat([10, 60], tools=[TOOL]),
    text([40, 200], stop=["fox", "\n\n"], temperature=1.2, top_p=0.9, presence_penalty=0.5),
]


def growth(samples, which):
    """(MiB an hour, MiB at the end of the fitted line) after the warm-up."""
    counted = samples[int(len(samples) * WARM_UP):]
    slope, start = figures.linear_fit([(sample[0], sample[which] / MIB) for sample in counted])
    return slope * 3600, start + slope * counted[-1][0]


def memory(bench, _contestant, _dtype):
    seconds = 60 * bench.minutes
    kinds = [kind | {"cancel": CANCELLED} for kind in KINDS]
    clients = [{"first": None, "requests": kinds[i % len(kinds):] + kinds[:i % len(kinds)],
                "loop": True} for i in range(N_CLIENTS)]
    with servers.trireme(bench.cache, "demo", DEMO_VOCABULARY, N_CLIENTS, 1024,
                         ("--tool-call-parser", "hermes")) as server:
        coordinator, ranks = server.process.pid, server.children()
        with Samples(lambda: (resident_bytes(coordinator),
                              sum(map(resident_bytes, ranks)))) as samples:
            seen = apply_load(server, clients, "first_token", {"seconds": seconds},
                              seconds + DEADLINE_S, keep_times=False)
    taken = samples.between(seen.begin, seen.end)
    found = {"n_requests": len(seen.requests), "minutes": bench.minutes,
             "n_cancelled": sum(one["cancelled"] for one in seen.requests)}
    for which, name in ((1, "coordinator"), (2, "ranks")):
        found[f"{name}_mib_h"], found[f"{name}_mib"] = growth(taken, which)
    return found | {"samples": taken[::max(1, len(taken) // N_KEPT)]}
