"""A rank killed while text is held back, inside a character of several tokens or inside what may
become a stop string: not a byte of it is lost, changed or sent too early."""

import signal
import time

import pytest
from faults import kill
from requests_under_test import MODEL, Stream, join, make_client
from trireme_process import READY_DEADLINE_S, wait_until

ACCENTS = "é é é " * 40  # two tokens each
N_TOKENS = 400
N_SEEDS = 60
N_PLACES = 10
MOMENT_S = 0.0005
N_KILLS = 2
N_STREAMS = 20
ONE_BYTE = "\ufffd"  # how a token shows that is one byte of a character


def request_of(**fields):
    return dict(max_tokens=N_TOKENS, temperature=1.0, logprobs=0,
                extra_body={"ignore_eos": True, "skip_special_tokens": False, "top_k": 3}) | fields


def undisturbed(server, request):
    """(text, the place in it, in bytes, after each token)."""
    choice = make_client(server).completions.create(model=MODEL, **request).choices[0]
    assert len(choice.logprobs.tokens) == N_TOKENS
    places, place = [], 0
    for token in choice.logprobs.tokens:
        place += 1 if token == ONE_BYTE else len(token.encode())
        places.append(place)
    return choice.text, places


def n_tokens(server):
    return int(server.metric("vllm:generation_tokens_total"))


def n_losses(server):
    return server.metric("trireme_group_restarts_total")


def kill_inside(server, numbers):
    """Lets the one stream there is go on in moments, and kills a rank where its tokens are one of
    these numbers. How often it was so when the group was lost."""
    n_hits, begin, pids = 0, n_tokens(server), server.rank_pids()
    while n_hits < N_KILLS:
        kill(pids, signal.SIGSTOP)
        n_now = n_tokens(server) - begin
        if n_now in numbers:
            losses_before = n_losses(server)
            kill(pids[:1])
            wait_until(lambda: n_losses(server) > losses_before, READY_DEADLINE_S, "the loss")
            # What was on its way has come now, and the next ranks have a pause before them.
            n_hits += n_tokens(server) - begin in numbers
            wait_until(server.is_ready, READY_DEADLINE_S, "ready again")
            pids = server.rank_pids()
        else:
            kill(pids, signal.SIGCONT)
            if n_now > max(numbers):
                break
            time.sleep(MOMENT_S)
    return n_hits


@pytest.fixture
def disturbed_streams(start_server, surroundings, tmp_path):
    """A function that sends a request again and again to ranks that are killed at some numbers of
    tokens, until that happened often enough, and gives the streams."""
    config = tmp_path / "deadlines.yaml"
    config.write_text("deadlines: {heartbeat_ms: 60000, silence_ms: 60000, max_crashes: 1000,\n"
                      "  backoff_initial_ms: 500, backoff_max_ms: 500}\n")

    def run(request, numbers, launcher):
        server = start_server("--tp", 2, "--launcher", launcher, "--config", config)
        n_hits, streams = 0, []
        while n_hits < N_KILLS and len(streams) < N_STREAMS:
            streams.append(Stream(server, request))
            streams[-1].start()
            n_hits += kill_inside(server, numbers)
            join(streams[-1:])
        assert n_hits >= N_KILLS, f"{n_hits} kills hit in {len(streams)} streams"
        assert [stream.error for stream in streams] == [None] * len(streams)
        assert server.stop() == 0, server.output()
        surroundings.assert_nothing_left()
        return streams

    return run


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_killed_inside_a_character(disturbed_streams, server, launcher):
    for seed in range(N_SEEDS):
        request = request_of(prompt=ACCENTS, seed=seed)
        text, places = undisturbed(server, request)
        begins = {len(text[:i].encode()) for i in range(len(text) + 1)}
        inside = {n + 1 for n, place in enumerate(places) if place not in begins}
        if ONE_BYTE not in text and len(inside) >= N_PLACES:
            break
    else:
        raise AssertionError(f"none of {N_SEEDS} seeds gives characters of several tokens")
    assert places[-1] == len(text.encode())
    assert {stream.text() for stream in disturbed_streams(request, inside, launcher)} == {text}


def test_killed_between_bytes_that_are_no_text(disturbed_streams, server):
    request = request_of(prompt=ACCENTS, seed=5, temperature=100.0,
                         extra_body={"ignore_eos": True})
    choice = make_client(server).completions.create(model=MODEL, **request).choices[0]
    inside = {n + 1 for n, token in enumerate(choice.logprobs.tokens) if token == ONE_BYTE}
    assert len(inside) >= N_PLACES and ONE_BYTE in choice.text
    streams = disturbed_streams(request, inside, "local")
    assert {stream.text() for stream in streams} == {choice.text}


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_killed_inside_a_stop_string(disturbed_streams, server, launcher):
    request = request_of(prompt="Once upon a time", seed=3)
    text, places = undisturbed(server, request)
    # The last third but a little: long enough to be stopped in.
    stop = text[len(text) * 2 // 3:-8]
    begin = text.encode().index(stop.encode())
    inside = {n + 1 for n, place in enumerate(places) if begin < place < begin + len(stop.encode())}
    assert len(inside) >= N_PLACES
    streams = disturbed_streams(request | dict(stop=[stop]), inside, launcher)
    assert {(stream.text(), stream.finish_reason) for stream in streams} == {
        (text[:text.index(stop)], "stop")}
