"""Prompts that begin alike are computed once, and nobody can tell by the answers."""

import os
import signal

import pytest
from requests_under_test import (MODEL, join, long_requests, make_client, start_streams,
                                 wait_until_flowing)

PREFIX = [100 + 7 * i % 900 for i in range(800)]
TAIL = [50, 60, 70]


def ask(server, prompt, **fields):
    """(texts of the choices, cached tokens)."""
    answer = make_client(server).completions.create(
        model=MODEL, prompt=prompt, **dict(max_tokens=24, temperature=1.0, seed=3) | fields)
    return ([choice.text for choice in answer.choices],
            answer.usage.prompt_tokens_details.cached_tokens)


def computed_tokens(server):
    return server.metric("vllm:iteration_tokens_total_sum")


@pytest.fixture(scope="module")
def undisturbed_answer(server):
    """What a server says that computes all of the prompt."""
    return ask(server, PREFIX + TAIL)


@pytest.mark.parametrize("options", ((), ("--tp", 2, "--pp", 2), ("--kv-dtype", "int8")),
                         ids=lambda o: "".join(map(str, o)))
def test_a_shared_prefix_is_found(start_server, options):
    server = start_server(*options)
    plain, n_cached = ask(server, PREFIX + TAIL)
    assert n_cached == 0
    before = computed_tokens(server)
    assert ask(server, PREFIX + TAIL) == (plain, 800)
    assert computed_tokens(server) - before < 100
    assert ask(server, PREFIX + [51])[1] == 800
    assert ask(server, PREFIX[:400] + TAIL)[1] == 400
    # Others' KV is not found, and what they are told is the same.
    assert ask(server, PREFIX + TAIL, extra_body={"cache_salt": "other"}) == (plain, 0)
    assert ask(server, PREFIX + TAIL, extra_body={"cache_salt": "other"}) == (plain, 800)
    assert server.metric("vllm:prefix_cache_hits_total") == 3 * 800 + 400
    assert server.metric("vllm:prompt_tokens_cached_total") == 3 * 800 + 400
    server.wait_until_idle()


def test_off_it_says_the_same(start_server, undisturbed_answer):
    server = start_server("--no-prefix-cache")
    for _ in range(2):
        assert ask(server, PREFIX + TAIL) == (undisturbed_answer[0], 0)


def test_choices_compute_their_prompt_once(start_server):
    server = start_server()
    texts, n_cached = ask(server, PREFIX, n=4)
    assert n_cached == 0 and len(set(texts)) == 4
    assert computed_tokens(server) < 800 + 3 * 16 + 4 * 24


def test_a_chats_next_turn_finds_the_last(start_server):
    client = make_client(start_server())
    messages = [{"role": "user", "content": "Tell me a tale about a fox and a king. " * 5}]
    first = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=64,
                                           temperature=0)
    messages += [{"role": "assistant", "content": first.choices[0].message.content},
                 {"role": "user", "content": "And then?"}]
    second = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=4,
                                            temperature=0)
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached >= first.usage.prompt_tokens - 32


@pytest.mark.parametrize("killed_by", (signal.SIGKILL, signal.SIGSEGV))
def test_outlives_a_killed_rank_with_the_kv(start_server, server, undisturbed_answer, killed_by):
    """A rank that crashes by its own fault leaves memory that is not trusted."""
    undisturbed = long_requests(server)
    disturbed = start_server("--tp", 2)
    assert ask(disturbed, PREFIX + TAIL)[0] == undisturbed_answer[0]
    ranks = disturbed.rank_pids()
    streams = start_streams(disturbed, [request for request, _ in undisturbed])
    wait_until_flowing(streams)
    os.kill(ranks[1], killed_by)
    disturbed.wait_for_new_ranks(ranks)
    n_expected = 800 if killed_by == signal.SIGKILL else 0
    assert ask(disturbed, PREFIX + TAIL) == (undisturbed_answer[0], n_expected)
    join(streams)
    assert [stream.error for stream in streams] == [None] * len(streams)
    assert [stream.text() for stream in streams] == [text for _, text in undisturbed]
    disturbed.wait_until_idle()
