"""Answers that obey a schema, a regular expression, a list of choices or a grammar, with the demo
model, whose own text is never of that form."""

import json
import re
import time

import openai
import pytest
from faults import kill
from requests_under_test import CHAT, MODEL, PROMPT, Stream, make_client, wait_until_flowing
from trireme_process import READY_DEADLINE_S, http_post, wait_until

SCHEMA = {
    "type": "object",
    "properties": {
        "animal": {"enum": ["fox", "hen", "König", "🦊"]},
        "legs": {"type": "integer", "minimum": 0, "maximum": 100},
        "tame": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
        "home": {"$ref": "#/$defs/place"},
    },
    "required": ["animal", "legs", "tame", "names", "home"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}},
                        "required": ["x"], "additionalProperties": False}},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA,
                                                 "strict": True}}
LARK = """
start: sentence+
sentence: NAME " " VERB "s. "
NAME: /[A-Z][a-z]{2,6}/
VERB: "run" | "eat" | "see"
"""
# What costs a naive engine its memory, its stack or its time.
BOMBS = (
    {"regex": "(" * 60_000 + "a" + ")" * 60_000},
    {"regex": "(" * 60_000},
    {"regex": "a{1,1000000000}"},
    {"regex": "((((a{1,99}){1,99}){1,99}){1,99}){1,99}"},
    {"json": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"},
                                             "b": {"$ref": "#/$defs/a"}}}},
    {"json": {"type": "string", "minLength": 99_999_999, "maxLength": 1_000_000_000}},
    {"json": {"allOf": [{"anyOf": [{"minLength": i + j} for i in range(20)]} for j in range(20)]}},
    {"json": {"type": "object", "properties": {f"p{i}": {"type": "string", "pattern": ".*a" * 9}
                                               for i in range(1000)}}},
    {"json": {"$ref": "http://127.0.0.1:9/schema.json"}},
    {"grammar": "start: start start"},
    {"grammar": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000},
    {"choice": ["a" * 200_000]},
)
BOUND_S = 20  # for one of them, on a busy machine


def check_animal(text):
    answer = json.loads(text)
    assert set(answer) == set(SCHEMA["required"])
    assert answer["animal"] in SCHEMA["properties"]["animal"]["enum"]
    assert type(answer["legs"]) is int and 0 <= answer["legs"] <= 100
    assert type(answer["tame"]) is bool
    assert len(answer["names"]) <= 3
    assert all(type(name) is str and len(name) <= 12 for name in answer["names"])
    assert set(answer["home"]) == {"x"} and type(answer["home"]["x"]) in (int, float)


def structured(client, outputs, **options):
    options = dict(model=MODEL, prompt=PROMPT, max_tokens=200, temperature=1.0) | options
    extra = options.pop("extra_body", {}) | {"structured_outputs": outputs}
    return client.completions.create(**options, extra_body=extra)


def test_schemas_hold_for_every_seed(client):
    n_ended = 0
    for seed in range(24):
        choice = client.chat.completions.create(model=MODEL, messages=CHAT, temperature=1.0,
                                                seed=seed, response_format=FORMAT,
                                                max_tokens=400).choices[0]
        if choice.finish_reason == "length":  # numbers have no end but this one
            continue
        assert choice.finish_reason == "stop"
        check_animal(choice.message.content)
        n_ended += 1
    assert n_ended >= 12


def test_schemas_hold_when_the_likeliest_is_taken_and_ends_are_ignored(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=CHAT, temperature=0, response_format=FORMAT, max_tokens=400,
        extra_body={"ignore_eos": True}).choices[0]
    assert answer.finish_reason in ("stop", "length")
    if answer.finish_reason == "stop":
        check_animal(answer.message.content)


def test_any_object(client):
    for seed in range(6):
        choice = client.chat.completions.create(model=MODEL, messages=CHAT, seed=seed,
                                                response_format={"type": "json_object"},
                                                max_tokens=300).choices[0]
        assert choice.message.content.startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)


def test_several_choices_differ_and_hold(client):
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, n=4, seed=3,
                                            response_format=FORMAT, max_tokens=400)
    texts = [c.message.content for c in answer.choices if c.finish_reason == "stop"]
    assert len(texts) >= 2 and len(set(texts)) > 1
    for text in texts:
        check_animal(text)


def test_streams_bring_the_same(client):
    options = dict(model=MODEL, messages=CHAT, seed=5, temperature=1.0, response_format=FORMAT,
                   max_tokens=400)
    whole = client.chat.completions.create(**options).choices[0]
    pieces = [c for chunk in client.chat.completions.create(stream=True, **options)
              for c in chunk.choices]
    assert "".join(c.delta.content or "" for c in pieces) == whole.message.content
    assert pieces[-1].finish_reason == whole.finish_reason


def test_regex(client):
    for seed in range(8):
        choice = structured(client, {"regex": r"\d{3}-[a-c]{2,5}ü?"}, seed=seed).choices[0]
        assert re.fullmatch(r"\d{3}-[a-c]{2,5}ü?", choice.text) and choice.finish_reason == "stop"


def test_choice(client):
    choices = ["yes", "no \"or\" \\ maybe\n", "ÿes"]
    texts = {structured(client, {"choice": choices}, seed=seed).choices[0].text
             for seed in range(12)}
    assert texts <= set(choices) and len(texts) > 1


def test_lark_grammar(client):
    for seed in range(6):
        choice = structured(client, {"grammar": LARK}, seed=seed, max_tokens=60).choices[0]
        sentence = r"[A-Z][a-z]{2,6} (run|eat|see)s\. "
        if choice.finish_reason == "stop":
            assert re.fullmatch(f"({sentence})+", choice.text)
        else:
            assert re.match(sentence, choice.text)


def test_old_names(client):
    for extra in ({"guided_regex": "[ab]{3}"}, {"guided_choice": ["aba", "bab"]},
                  {"guided_grammar": 'start: "aaa" | "bbb"'}):
        answer = client.completions.create(model=MODEL, prompt=PROMPT, extra_body=extra)
        assert re.fullmatch("[ab]{3}", answer.choices[0].text)
    answer = client.completions.create(model=MODEL, prompt=PROMPT,
                                       extra_body={"guided_json": {"enum": [17]}})
    assert answer.choices[0].text == "17"


def test_stop_strings_and_length_end_it_as_ever(client):
    choice = structured(client, {"regex": "(ab|ba){200}"}, stop=["bb"]).choices[0]
    assert choice.finish_reason == "stop" and "bb" not in choice.text
    choice = structured(client, {"regex": "a{200}"}, max_tokens=5).choices[0]
    assert choice.finish_reason == "length" and set(choice.text) == {"a"}


def test_logprobs_are_of_the_model_before_the_mask(client):
    free = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=1, temperature=0,
                                     logprobs=1).choices[0].logprobs
    masked = structured(client, {"regex": "[0-9]"}, temperature=0, logprobs=1,
                        max_tokens=1).choices[0].logprobs
    likeliest = max(free.top_logprobs[0].values())
    assert max(masked.top_logprobs[0].values()) == pytest.approx(likeliest)
    assert masked.token_logprobs[0] < likeliest


def test_refusals_name_the_field(client):
    for outputs, field in (({"regex": "(("}, "structured_outputs.regex"),
                           ({"json": {"type": "x"}}, "structured_outputs.json"),
                           ({"grammar": "start: x"}, "structured_outputs.grammar"),
                           ({"regex": "a", "choice": ["a"]}, "structured_outputs.choice")):
        with pytest.raises(openai.BadRequestError) as refusal:
            structured(client, outputs)
        assert refusal.value.body["param"] == field, refusal.value.body


def test_bombs_are_refused_in_time_and_cost_other_streams_nothing(start_server):
    server = start_server()
    request = dict(prompt=PROMPT, max_tokens=900, seed=1, temperature=1.0,
                   extra_body={"ignore_eos": True})
    want = make_client(server).completions.create(model=MODEL, **request).choices[0].text
    stream = Stream(server, request)
    stream.start()
    wait_until_flowing([stream])
    for outputs in BOMBS:
        began = time.monotonic()
        status, body = http_post(server.url + "/v1/completions",
                                 {"model": MODEL, "prompt": PROMPT, "max_tokens": 3,
                                  "structured_outputs": outputs})
        took = time.monotonic() - began
        print(f"{str(outputs)[:50]:50} {status} {took * 1000:7.0f} ms {body[:80]}")
        assert took < BOUND_S
        if status == 200:
            text = json.loads(body)["choices"][0]["text"]
            assert not re.match("[A-Z][a-z]+ [a-z]+", text), text  # never free text
        else:
            assert status == 400, body
    stream.join(120)
    assert stream.error is None and stream.text() == want
    assert server.is_ready() and server.metric("trireme_group_restarts_total") == 0


@pytest.mark.parametrize("layout", ((), ("--tp", 2), ("--pp", 2)))
def test_killed_inside_a_grammar(start_server, layout):
    """FAULTS.md, row 13: among free streams, a rank is killed while an object is written."""
    server = start_server(*layout)
    client = make_client(server)
    animal = {key: value for key, value in SCHEMA.items() if key != "$defs"}
    long_array = {"type": "array", "minItems": 60, "items": {"$ref": "#/$defs/animal"},
                  "$defs": SCHEMA["$defs"] | {"animal": animal}}
    guided = dict(prompt=PROMPT, max_tokens=900, temperature=1.0, seed=4,
                  extra_body={"structured_outputs": {"json": long_array}})
    free = dict(prompt=PROMPT, max_tokens=900, temperature=1.0, seed=5,
                extra_body={"ignore_eos": True})
    wants = [client.completions.create(model=MODEL, **r).choices[0] for r in (guided, free)]
    streams = [Stream(server, request) for request in (guided, free)]
    for stream in streams:
        stream.start()
    wait_until_flowing(streams)
    kill(server.rank_pids()[-1:])
    for stream, want in zip(streams, wants):
        stream.join(120)
        assert stream.error is None
        assert stream.text() == want.text and stream.finish_reason == want.finish_reason
    wait_until(server.is_ready, READY_DEADLINE_S, "ready again")
    assert server.metric("trireme_group_restarts_total") == 1
