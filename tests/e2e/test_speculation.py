"""Guessed tokens: the same answers as without, also when a rank dies among them."""

from faults import kill
from requests_under_test import (MODEL, join, long_requests, make_client, sample_answers,
                                 start_streams, wait_until_flowing)

REPEATING = "one two three four five six seven eight nine ten " * 6


def guessed(server):
    return (server.metric("vllm:spec_decode_num_draft_tokens_total"),
            server.metric("vllm:spec_decode_num_accepted_tokens_total"))


def test_the_same_answers_with_and_without(server, start_server, surroundings):
    plain = sample_answers(server)
    streams_plain = long_requests(server)
    guessing = start_server("--tp", 2, "--speculative-tokens", 4)
    assert sample_answers(guessing) == plain
    streams = start_streams(guessing, [request for request, _ in streams_plain])
    wait_until_flowing(streams)
    kill(guessing.rank_pids()[-1:])
    join(streams)
    assert [stream.error for stream in streams] == [None] * len(streams)
    assert [stream.text() for stream in streams] == [text for _, text in streams_plain]
    n_guessed, n_right = guessed(guessing)
    assert n_guessed > 0 and 0 <= n_right <= n_guessed
    assert guessed(server) == (0, 0)

    usage = make_client(guessing).completions.create(
        model=MODEL, prompt=REPEATING, max_tokens=64, temperature=0).usage
    details = usage.completion_tokens_details
    assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (
        guessed(guessing)[1] - n_right,
        guessed(guessing)[0] - n_guessed - (guessed(guessing)[1] - n_right))
    assert guessing.stop() == 0, guessing.output()
    surroundings.assert_nothing_left()
