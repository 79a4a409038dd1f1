"""A rank killed while text is held back, inside a character of several tokens or inside what may
become a stop string: not a byte of it is lost, changed or sent too early."""

import signal
import time

import pytest
from faults import kill
from requests_under_test import MODEL, Stream, join, make_client
from trireme_process import READY_DEADLINE_S, wait_until

UMLAUTS = "äöüß, Märchen, König, schön, für, über, " * 6  # two tokens each
N_TOKENS = 600
MOMENT_S = 0.0005
N_KILLS = 3
ONE_BYTE = "\ufffd"  # how a token shows that is one byte of a character


def request_of(**fields):
    return dict(max_tokens=N_TOKENS, temperature=0.0, logprobs=0,
                extra_body={"ignore_eos": True}) | fields


def undisturbed(server, request):
    """(text, the place in it, in bytes, after each token)."""
    choice = make_client(server).completions.create(model=MODEL, **request).choices[0]
    assert len(choice.logprobs.tokens) == N_TOKENS
    places, place = [], 0
    for token in choice.logprobs.tokens:
        place += 1 if token == ONE_BYTE else len(token.encode())
        places.append(place)
    return choice.text, places


def kill_inside(server, numbers):
    """Kills a rank where the tokens of the one stream there are in these numbers, some times. The
    numbers it was."""
    def n_tokens():
        return int(server.metric("vllm:generation_tokens_total"))

    def n_losses():
        return server.metric("trireme_group_restarts_total")

    hits = []
    pids = server.rank_pids()
    while len(hits) < N_KILLS:
        kill(pids, signal.SIGSTOP)
        n_before = n_tokens()
        assert n_before < max(numbers), f"the stream is past it; killed at {hits}"
        if n_before in numbers:
            losses_before = n_losses()
            kill(pids[:1])
            wait_until(lambda: n_losses() > losses_before, READY_DEADLINE_S, "the loss")
            # What was on its way has come now, and the next ranks have a pause before them.
            hits += {n_tokens()} & numbers
            wait_until(server.is_ready, READY_DEADLINE_S, "ready again")
            pids = server.rank_pids()
        else:
            kill(pids, signal.SIGCONT)
            time.sleep(MOMENT_S)
    return hits


@pytest.fixture
def disturbed_stream(start_server, surroundings, tmp_path):
    """A function that sends a request to ranks that are killed at some numbers of tokens, and gives
    its stream."""
    config = tmp_path / "deadlines.yaml"
    config.write_text("deadlines: {heartbeat_ms: 60000, silence_ms: 60000, max_crashes: 100,\n"
                      "  backoff_initial_ms: 500, backoff_max_ms: 500}\n")

    def run(request, numbers, launcher):
        server = start_server("--tp", 2, "--launcher", launcher, "--config", config)
        stream = Stream(server, request)
        stream.start()
        hits = kill_inside(server, numbers)
        join([stream])
        assert stream.error is None
        assert server.metric("trireme_group_restarts_total") >= len(hits)
        assert server.stop() == 0, server.output()
        surroundings.assert_nothing_left()
        return stream

    return run


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_killed_inside_a_character(disturbed_stream, server, launcher):
    request = request_of(prompt=UMLAUTS)
    text, places = undisturbed(server, request)
    assert ONE_BYTE not in text and places[-1] == len(text.encode())
    begins = {len(text[:i].encode()) for i in range(len(text) + 1)}
    inside = {n + 1 for n, place in enumerate(places) if place not in begins}
    assert len(inside) > 10 * N_KILLS, "the model goes on with other characters"
    stream = disturbed_stream(request, inside, launcher)
    assert stream.text() == text
    assert ONE_BYTE not in stream.text()


def test_killed_between_bytes_that_are_no_text(disturbed_stream, server):
    request = request_of(prompt=UMLAUTS, temperature=100.0, seed=5)
    choice = make_client(server).completions.create(model=MODEL, **request).choices[0]
    inside = {n + 1 for n, token in enumerate(choice.logprobs.tokens) if token == ONE_BYTE}
    assert len(inside) > 3 * N_KILLS
    assert ONE_BYTE in choice.text
    assert disturbed_stream(request, inside, "local").text() == choice.text


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_killed_inside_a_stop_string(disturbed_stream, server, launcher):
    request = request_of(prompt="Once upon a time", temperature=1.0, seed=3)
    text, places = undisturbed(server, request)
    # The whole last quarter but a little: long enough to be stopped in.
    stop = text[len(text) * 3 // 4:-8]
    begin = len(text[:text.index(stop)].encode())
    inside = {n + 1 for n, place in enumerate(places) if begin < place < begin + len(stop.encode())}
    assert len(inside) > 10 * N_KILLS
    stream = disturbed_stream(request | dict(stop=[stop]), inside, launcher)
    assert stream.text() == text[:text.index(stop)]
    assert stream.finish_reason == "stop"
