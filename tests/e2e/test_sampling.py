"""Fields that change what is drawn and what is told of it, as the openai client sends them, on one
rank and on several, over kills, a tight KV cache and an upgrade."""

import json
import math
import os
import signal

import openai
import pytest
from requests_under_test import (CHAT, MODEL, PROMPT, join, make_client, start_streams,
                                 wait_until_flowing)
from trireme_process import http_post

GREEDY = dict(model=MODEL, prompt=PROMPT, max_tokens=40, temperature=0)


def complete(client, extra=None, **options):
    return client.completions.create(**(GREEDY | options), extra_body=extra or {})


def ids_of(client, extra=None, **options):
    return complete(client, (extra or {}) | dict(return_token_ids=True),
                    **options).choices[0].token_ids


def test_frequency_penalty_ends_repetition(client):
    plain = ids_of(client, max_tokens=150)
    penalised = ids_of(client, max_tokens=150, frequency_penalty=2.0)
    assert len(set(penalised)) > len(set(plain))
    assert ids_of(client, max_tokens=150, presence_penalty=2.0) != plain
    assert ids_of(client, {"repetition_penalty": 1.5}, max_tokens=150) != plain


def test_repetition_penalty_covers_the_prompt(client):
    """A token of the prompt that would be drawn first is drawn no more when it is punished."""
    first = ids_of(client, max_tokens=1)[0]
    prompt = complete(client, {"return_token_ids": True}, max_tokens=1).choices[0].prompt_token_ids
    with_it = [first] + prompt
    assert ids_of(client, {"repetition_penalty": 1.0}, prompt=with_it, max_tokens=1)
    assert ids_of(client, {"repetition_penalty": 100.0}, prompt=with_it, max_tokens=1) != [first]


def test_logit_bias(client):
    plain = ids_of(client, max_tokens=5)
    banned = ids_of(client, max_tokens=5, logit_bias={str(plain[0]): -100})
    assert plain[0] not in banned
    forced = ids_of(client, max_tokens=5, logit_bias={str(plain[3]): 100})
    assert forced == [plain[3]] * 5
    chat = client.chat.completions.create(
        model=MODEL, messages=CHAT, max_tokens=4, temperature=0, logit_bias={str(plain[3]): 100},
        extra_body={"return_token_ids": True})
    assert chat.choices[0].token_ids == [plain[3]] * 4


def test_allowed_token_ids(client):
    allowed = ids_of(client, max_tokens=12)[::2]
    got = ids_of(client, {"allowed_token_ids": allowed, "ignore_eos": True}, temperature=1.0,
                 seed=3)
    assert len(got) == 40 and set(got) <= set(allowed)


def test_bad_words_do_not_appear(client):
    text = complete(client).choices[0].text
    words = [word for word in text.split() if word.isalpha()][:3]
    assert words
    without = complete(client, {"bad_words": words}).choices[0].text
    assert without != text
    for word in words:
        assert f" {word} " not in f" {without} ", (word, without)


def test_min_tokens(client):
    """What would stop at once does not before its time, neither by id nor by string."""
    ids = ids_of(client)
    assert complete(client, {"stop_token_ids": ids[:1]}).usage.completion_tokens == 1
    got = complete(client, {"stop_token_ids": ids[:1], "min_tokens": 7})
    assert got.usage.completion_tokens >= 7
    text = complete(client).choices[0].text
    stop = text.strip()[:1]
    short = complete(client, stop=[stop])
    longer = complete(client, {"min_tokens": 10}, stop=[stop])
    assert short.usage.completion_tokens < 10 <= longer.usage.completion_tokens
    assert longer.choices[0].text.startswith(text[:len(text) // 8])


def test_min_p_of_one_is_greedy(client):
    greedy = complete(client).choices[0].text
    assert complete(client, {"min_p": 1.0}, temperature=1.5, seed=4).choices[0].text == greedy
    assert complete(client, {"min_p": 0.0}, temperature=1.5, seed=4).choices[0].text != greedy


def test_logprobs_stay_those_of_the_model(client):
    plain = complete(client, max_tokens=1, logprobs=3).choices[0].logprobs
    token = complete(client, {"return_token_ids": True}, max_tokens=1).choices[0].token_ids[0]
    biased = complete(client, max_tokens=1, logprobs=3,
                      logit_bias={str(token): -100}).choices[0].logprobs
    assert {k: v for k, v in biased.top_logprobs[0].items() if k in plain.top_logprobs[0]} == (
        plain.top_logprobs[0])


@pytest.mark.parametrize("n_new", (0, 1))
def test_what_lm_evaluation_harness_asks_for(client, n_new):
    prompt = list(range(100, 125))
    answer = complete(client, prompt=prompt, max_tokens=n_new, echo=True, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(prompt) + n_new
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    for value, top in zip(logprobs.token_logprobs[1:], logprobs.top_logprobs[1:]):
        assert value < 0 and value in top.values() and value <= max(top.values())
        assert 1 <= len(top) <= 2


def test_prompt_logprobs(client):
    prompt = list(range(100, 112))
    rows = complete(client, {"prompt_logprobs": 3}, prompt=prompt,
                    max_tokens=1).choices[0].prompt_logprobs
    echoed = complete(client, prompt=prompt, max_tokens=0, echo=True,
                      logprobs=0).choices[0].logprobs.token_logprobs
    assert len(rows) == len(prompt) and rows[0] is None
    for token, row, logprob in zip(prompt[1:], rows[1:], echoed[1:]):
        assert row[str(token)]["logprob"] == pytest.approx(logprob, abs=1e-6)
        ranks = sorted(entry["rank"] for entry in row.values() if entry["rank"])
        assert ranks == [1, 2, 3]


def test_best_of_is_the_best_of_n(client):
    options = dict(temperature=1.0, seed=5, max_tokens=12, logprobs=0)
    all_of_them = complete(client, n=4, **options).choices
    means = [math.fsum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs)
             for c in all_of_them]
    best = complete(client, best_of=4, **options)
    assert best.choices[0].text == all_of_them[means.index(max(means))].text
    assert best.usage.completion_tokens == sum(len(c.logprobs.token_logprobs)
                                               for c in all_of_them)


def test_beam_search(client):
    greedy = complete(client, max_tokens=8, logprobs=0)
    search = dict(use_beam_search=True, ignore_eos=True)
    one = complete(client, search, max_tokens=8, logprobs=0)
    assert one.choices[0].text == greedy.choices[0].text
    four = complete(client, search, max_tokens=8, n=4, logprobs=0)
    sums = [math.fsum(c.logprobs.token_logprobs) for c in four.choices]
    assert len(sums) == 4 and sums == sorted(sums, reverse=True)
    assert sums[0] >= math.fsum(greedy.choices[0].logprobs.token_logprobs) - 1e-4
    assert len({c.text for c in four.choices}) > 1
    # The likelihood of each beam is what the model says of it as a prompt.
    again = complete(client, search, max_tokens=8, n=4, logprobs=0)
    assert [c.text for c in again.choices] == [c.text for c in four.choices]


def test_token_ids_of_prompt_and_answer(client):
    answer = complete(client, {"return_token_ids": True}, prompt=[100, 101], max_tokens=5)
    choice = answer.choices[0]
    assert choice.prompt_token_ids == [100, 101] and len(choice.token_ids) == 5
    chunks = list(complete(client, {"return_token_ids": True}, prompt=[100, 101], max_tokens=5,
                           stream=True))
    assert [i for chunk in chunks for i in chunk.choices[0].token_ids] == choice.token_ids


def test_request_id_and_truncation(client):
    answer = complete(client, {"request_id": "mine-1", "truncate_prompt_tokens": 3,
                               "return_token_ids": True}, prompt=list(range(100, 120)))
    assert answer.id == "cmpl-mine-1"
    assert answer.choices[0].prompt_token_ids == [117, 118, 119]
    assert answer.usage.prompt_tokens == 3


BAD_VALUES = (
    ("min_p", 1e9), ("min_p", "x"), ("presence_penalty", 2.1), ("frequency_penalty", [1]),
    ("repetition_penalty", 0), ("repetition_penalty", -1e9), ("logit_bias", {"a": 1}),
    ("logit_bias", {"5": 1e9}), ("logit_bias", {str(10**9): 1}), ("logit_bias", [1]),
    ("allowed_token_ids", []), ("allowed_token_ids", [-1]), ("allowed_token_ids", [10**9]),
    ("bad_words", [5]), ("bad_words", ["a"] * 1000), ("min_tokens", 10**9), ("min_tokens", -1),
    ("min_tokens", 41), ("prompt_logprobs", -1), ("prompt_logprobs", 10**9), ("priority", "high"),
    ("priority", 10**9), ("truncate_prompt_tokens", 0), ("request_id", "a b"),
    ("use_beam_search", 1), ("length_penalty", "x"), ("best_of", 0), ("best_of", 10**9),
    ("suffix", "end"), ("return_token_ids", "yes"),
)


@pytest.mark.parametrize("field, value", BAD_VALUES, ids=lambda v: str(v)[:24].replace(" ", ""))
def test_bad_value_is_400_and_named(server, field, value):
    status, body = http_post(server.url + "/v1/completions", GREEDY | {field: value})
    assert status == 400, body
    error = json.loads(body)["error"]
    assert error["param"] == field and field in error["message"], error


def test_not_a_number_is_400(server):
    for number in ("NaN", "Infinity", "1e999"):
        body = f'{{"model": "{MODEL}", "prompt": "x", "presence_penalty": {number}}}'
        assert http_post(server.url + "/v1/completions", body.encode())[0] == 400


def test_bad_search_width_is_400(client):
    with pytest.raises(openai.BadRequestError) as failure:
        complete(client, {"use_beam_search": True}, n=17)
    assert failure.value.body["param"] == "n"


# ---- the same tokens whatever happens ----

RULES = dict(repetition_penalty=1.2, min_p=0.02, bad_words=["the", "fox"], min_tokens=30,
             ignore_eos=True)


def ruled_requests(n_tokens=950):
    return [dict(prompt=PROMPT, max_tokens=n_tokens, temperature=1.0, seed=seed,
                 presence_penalty=0.4, frequency_penalty=0.1, logit_bias={"100": -5, "200": 1},
                 extra_body=RULES) for seed in range(3)]


@pytest.fixture(scope="module")
def undisturbed(server):
    client = make_client(server)
    return [client.completions.create(model=MODEL, **request).choices[0].text
            for request in ruled_requests()]


def test_streams_with_rules_survive_kills(start_server, surroundings, undisturbed):
    server = start_server("--tp", 2, "--pp", 2)
    streams = start_streams(server, ruled_requests())
    wait_until_flowing(streams, n_pieces=50)
    # By its own fault, so that all is computed again; then from outside.
    for killed_by in (signal.SIGSEGV, signal.SIGKILL):
        ranks = server.rank_pids()
        os.kill(ranks[-1], killed_by)
        server.wait_for_new_ranks(ranks)
    join(streams)
    assert [stream.error for stream in streams] == [None] * len(streams)
    assert [stream.text() for stream in streams] == undisturbed
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


def test_streams_with_rules_survive_preemption(start_server, undisturbed):
    """Room for little more than one of the three sequences."""
    server = start_server("--kv-gib", 0.004)
    streams = start_streams(server, ruled_requests())
    join(streams)
    assert [stream.text() for stream in streams] == undisturbed
    assert server.metric("vllm:num_preemptions_total") > 0
