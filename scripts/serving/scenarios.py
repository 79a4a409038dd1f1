"""What is measured: each function takes a Bench and gives {name of a figure: number}."""

import json
import random
import statistics
import time
from dataclasses import dataclass

import figures
import servers
from bench_common import REPO
from load import Samples, apply_load, completion, looping
from runner import random_ids

N_PROMPT = N_ANSWER = 128
LONG_PROMPT = 4096
SHARED_PREFIX = 1024
N_SHARED = 3  # pairs of requests with one prefix
DECODING = 8  # streams beside which something else is looked at
DECODED = 3072  # tokens of each of them: more than the time allows
CALM_S = 10  # of those streams before the long prompt
TAIL_S = 2
DEADLINE_S = 1500
MAX_CONTEXT = LONG_PROMPT + 64


@dataclass(frozen=True)
class Bench:
    """What all scenarios of a run share."""

    cache: object
    vocab_size: int
    n_threads: int
    requests_each: int  # measured of each client in a closed loop
    seconds: float  # of scenarios that last as long as one likes
    minutes: float  # of the mixed load

    def serve(self, contestant, dtype, n_streams, context):
        if contestant == "trireme":
            return servers.trireme(
                self.cache, self.cache.models / "hf", self.vocab_size, n_streams, context,
                ("--dtype", dtype, "--threads", self.n_threads))
        return servers.llama_cpp(self.cache, dtype, self.vocab_size, n_streams, context,
                                 self.n_threads)


def closed_loop(n_clients):
    """Clients that ask again as soon as they have their answer. The first answers have different
    lengths, so that the clients do not go on in step; they do not count."""
    def run(bench, contestant, dtype):
        template = completion(N_PROMPT, N_ANSWER)
        clients = [looping(template, completion(N_PROMPT, max(1, N_ANSWER * (i + 1) // n_clients)))
                   for i in range(n_clients)]
        with bench.serve(contestant, dtype, n_clients, N_PROMPT + N_ANSWER) as server:
            seen = apply_load(server, clients, "first_end", {"requests_each": bench.requests_each},
                              DEADLINE_S)
        first = figures.first_token_times(seen.requests, seen.begin, seen.end)
        between = figures.of_all(figures.gaps_within, seen.requests, seen.begin, seen.end)
        elapsed_s = seen.end - seen.begin
        found = {
            "tokens_s": figures.n_tokens(seen.requests, seen.begin, seen.end) / elapsed_s,
            "first_p50_s": figures.percentile(first, 50),
            "first_p95_s": figures.percentile(first, 95),
            "between_p50_s": figures.percentile(between, 50),
            "between_p95_s": figures.percentile(between, 95),
            "n_first": len(first), "events_per_token": events_per_token(seen.requests)}
        return found | cost_of(seen, contestant)
    return run


def events_per_token(requests):
    """1 where the server streams each token by itself; less, and times between events are no times
    between tokens."""
    whole = [one for one in requests if one["tokens"]]
    return sum(one["n_events"] for one in whole) / max(1, sum(one["tokens"] for one in whole))


def cost_of(seen, contestant):
    """Of our coordinator; llama-server computes in the process that serves."""
    return {"coordinator_percent": seen.cpu_percent} if contestant == "trireme" else {}


def decoding_streams():
    return [looping(completion(16, DECODED)) for _ in range(DECODING)]


def long_prompt(bench, contestant, dtype):
    """What a long prompt does to streams that are decoding."""
    late = completion(LONG_PROMPT, 1, after_s=CALM_S, tail_s=TAIL_S)
    with bench.serve(contestant, dtype, DECODING + 1, MAX_CONTEXT) as server:
        seen = apply_load(server, decoding_streams(), "first_token", {"late": True}, DEADLINE_S,
                          late=late)
    [long] = [one for one in seen.requests if one["client"] == DECODING]
    streams = [one for one in seen.requests if one["client"] < DECODING]
    sent, answered = long["begin"], long["times"][0]
    before = figures.of_all(figures.gaps_within, streams, seen.begin, sent)
    during = figures.of_all(figures.gaps_across, streams, sent, answered)
    before_s, during_s = (figures.percentile(found, 95) for found in (before, during))
    return {"before_p95_s": before_s, "during_p95_s": during_s, "raised": during_s / before_s,
            "during_tokens_s": figures.n_tokens(streams, sent, answered) / (answered - sent),
            "long_first_s": answered - sent}


def shared_prefix(bench, contestant, dtype):
    """First tokens of two requests with one prefix, the second sent after the first."""
    dice = random.Random(7)
    requests = []
    for _ in range(N_SHARED):
        prefix = random_ids(SHARED_PREFIX, bench.vocab_size, dice)
        requests += [completion(16, 8, prefix=prefix, kind=kind) for kind in ("first", "second")]
    client = {"first": completion(64, 8), "requests": requests, "loop": False}
    with bench.serve(contestant, dtype, 1, SHARED_PREFIX + 64) as server:
        seen = apply_load(server, [client], "first_end", {"done": True}, DEADLINE_S)
    first, second = ([one["times"][0] - one["begin"] for one in seen.requests
                      if one["kind"] == kind] for kind in ("first", "second"))
    return {"first_s": statistics.median(first), "second_s": statistics.median(second),
            "sooner": statistics.median(a / b for a, b in zip(first, second))}


def coordinator(bench, contestant, dtype):
    """What our coordinator costs beside streams that only decode: processor time, and the time of
    a step in which the rank does not compute. The rank tells how long it was busy with heartbeats,
    some time after each step: a line through many samples does not mind."""
    with bench.serve(contestant, dtype, DECODING, MAX_CONTEXT) as server:
        with Samples(server.busy_and_steps) as samples:
            seen = apply_load(server, decoding_streams(), "first_token",
                              {"seconds": bench.seconds}, DEADLINE_S)
    taken = samples.between(seen.begin, seen.end)
    busy_share, _ = figures.linear_fit([(moment, busy_s) for moment, busy_s, _ in taken])
    steps_s, _ = figures.linear_fit([(moment, n_steps) for moment, _, n_steps in taken])
    return cost_of(seen, contestant) | {"added_s": (1 - busy_share) / steps_s, "steps_s": steps_s}


DEMO_VOCABULARY = json.loads((REPO / "demo/model/config.json").read_text())["vocab_size"]
GROWTH_CONTEXT = 256
GROWTH_STREAMS = (8, 64, 256, 1000)
GROWTH_LAYOUTS = ((2, 1, 1), (2, 2, 1), (4, 2, 1), (8, 2, 1), (8, 4, 1), (8, 4, 2))  # tp, pp, dp
LAYOUT_STREAMS = 64
IDLE_S = 2.0


def idle_percent(server):
    """Of a core: heartbeats, mostly."""
    before = servers.cpu_seconds(server.process.pid)
    time.sleep(IDLE_S)
    return 100 * (servers.cpu_seconds(server.process.pid) - before) / IDLE_S


def cost_per_token(bench, n_streams, options):
    """Microseconds of the coordinator's processor time for a token, heartbeats and all."""
    clients = [looping(completion(8, GROWTH_CONTEXT - 16)) for _ in range(n_streams)]
    with servers.trireme(bench.cache, "demo", DEMO_VOCABULARY, n_streams, GROWTH_CONTEXT,
                         ("--max-batch-tokens", 1024, *options)) as server:
        idle = idle_percent(server)
        seen = apply_load(server, clients, "first_token", {"seconds": bench.seconds}, DEADLINE_S)
    tokens = figures.n_tokens(seen.requests, seen.begin, seen.end)
    tokens_s = tokens / (seen.end - seen.begin)
    return {"us_per_token": 1e4 * seen.cpu_percent / tokens_s, "tokens_s": tokens_s,
            "idle_percent": idle}


def growth_streams(bench, _contestant, _dtype):
    return {str(n): cost_per_token(bench, n, ()) for n in GROWTH_STREAMS}


def growth_ranks(bench, _contestant, _dtype):
    return {str(tp * pp * replicas): cost_per_token(
        bench, LAYOUT_STREAMS, ("--tp", tp, "--pp", pp, "--replicas", replicas))
        for tp, pp, replicas in GROWTH_LAYOUTS}
