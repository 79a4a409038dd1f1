"""Calls of tools and reasoning, as the openai client sees them. The demo model knows nothing of
tools: where a call is not forced, what it says is text."""

import json

import openai
import pytest
from requests_under_test import CHAT, MODEL, make_client
from trireme_process import Server, Surroundings

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city",
    "parameters": {"type": "object", "additionalProperties": False,
                   "properties": {"city": {"enum": ["Paris", "Köln"]},
                                  "days": {"type": "integer", "minimum": 1, "maximum": 9}},
                   "required": ["city", "days"]}}}
NOW = {"type": "function", "function": {"name": "now", "parameters": {
    "type": "object", "properties": {}, "additionalProperties": False}}}
TOOLS = [WEATHER, NOW]
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(scope="module", params=("hermes", "llama3_json", "mistral"))
def caller(request, cache_folder):
    """A client of a server that reads calls in one of the formats."""
    surroundings = Surroundings(cache_folder)
    server = Server(surroundings, "--tool-call-parser", request.param)
    try:
        server.wait_ready()
        yield make_client(server)
        assert server.stop() == 0, server.output()
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        server.log.unlink()
        surroundings.clean_up()


def ask(client, **options):
    return client.chat.completions.create(
        **dict(model=MODEL, messages=CHAT, tools=TOOLS, max_tokens=900, temperature=1.0) | options)


def check_call(function):
    arguments = json.loads(function.arguments)
    if function.name == "now":
        assert arguments == {}
    else:
        assert function.name == "get_weather" and set(arguments) == {"city", "days"}
        assert arguments["city"] in ("Paris", "Köln") and 1 <= arguments["days"] <= 9


def test_required_calls_are_valid(caller):
    names = set()
    most = 0
    for seed in range(10):
        choice = ask(caller, tool_choice="required", seed=seed).choices[0]
        message = choice.message
        assert choice.finish_reason == "tool_calls"
        assert message.content is None and message.tool_calls
        assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)
        for call in message.tool_calls:
            assert call.type == "function" and len(call.id) == 9
            check_call(call.function)
            names.add(call.function.name)
        most = max(most, len(message.tool_calls))
    assert names == {"get_weather", "now"} and most <= 16


def test_responses_have_calls_as_items(caller):
    tools = [{"type": "function"} | tool["function"] for tool in TOOLS]
    options = dict(model=MODEL, input=CHAT, tools=tools, tool_choice="required",
                   temperature=1.0, extra_body={"seed": 1})
    calls = caller.responses.create(**options).output
    assert calls and len({call.call_id for call in calls}) == len(calls)
    for call in calls:
        assert call.type == "function_call" and call.status == "completed"
        check_call(call)
    with caller.responses.stream(**options) as stream:
        streamed = stream.get_final_response().output
    assert [(call.name, call.arguments) for call in streamed] == \
        [(call.name, call.arguments) for call in calls]
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
               for call in calls]
    assert caller.responses.create(model=MODEL, input=CHAT + calls + results, tools=tools,
                                   max_output_tokens=4).output


def test_one_call_where_asked_for_one(caller):
    for seed in range(4):
        calls = ask(caller, tool_choice="required", parallel_tool_calls=False,
                    seed=seed).choices[0].message.tool_calls
        assert len(calls) == 1
        check_call(calls[0].function)
        calls = ask(caller, tool_choice=NAMED, seed=seed).choices[0].message.tool_calls
        assert [call.function.name for call in calls] == ["get_weather"]
        check_call(calls[0].function)


def test_streamed_calls_are_the_same(caller):
    options = dict(tool_choice="required", seed=3, n=2)
    whole = ask(caller, **options)
    calls = [{}, {}]
    finishes = [None, None]
    for chunk in ask(caller, stream=True, **options):
        for choice in chunk.choices:
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
            assert not choice.delta.content
            for delta in choice.delta.tool_calls or []:
                of_choice = calls[choice.index]
                if delta.index not in of_choice:  # the first has all but the arguments
                    assert delta.id and delta.type == "function" and delta.function.name
                    assert delta.function.arguments == ""
                    of_choice[delta.index] = [delta.id, delta.function.name, ""]
                else:
                    assert delta.id is None and delta.function.name is None
                    of_choice[delta.index][2] += delta.function.arguments
    assert finishes == ["tool_calls", "tool_calls"]
    for choice in whole.choices:
        streamed = calls[choice.index]
        assert [tuple(streamed[i][1:]) for i in sorted(streamed)] == [
            (call.function.name, call.function.arguments) for call in choice.message.tool_calls]


def test_text_stays_text_where_nothing_is_forced(caller):
    free = caller.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=30,
                                          temperature=0).choices[0]
    for choice in ("auto", "none"):
        said = ask(caller, tool_choice=choice, max_tokens=30, temperature=0).choices[0]
        assert said.message.content == free.message.content
        assert said.message.tool_calls is None
        assert said.finish_reason == free.finish_reason


def test_calls_and_results_go_on_in_the_conversation(caller):
    message = ask(caller, tool_choice=NAMED, seed=1).choices[0].message
    call = message.tool_calls[0]
    messages = CHAT + [message.model_dump(exclude_none=True),
                       {"role": "tool", "tool_call_id": call.id, "content": "17 degrees"}]
    answer = ask(caller, messages=messages, tool_choice="auto", max_tokens=20)
    assert answer.choices[0].message.content
    assert answer.usage.prompt_tokens > 20


def test_refusals_name_the_field(caller):
    bad_schema = {"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}
    for options, field in ((dict(tools=[bad_schema], tool_choice="required"), "tools"),
                           (dict(tool_choice={"type": "function", "function": {"name": "x"}}),
                            "tool_choice"),
                           (dict(tools=[], tool_choice="required"), "tool_choice"),
                           (dict(tools=[WEATHER, WEATHER]), "tools"),
                           (dict(tool_choice="required",
                                 response_format={"type": "json_object"}), "tool_choice")):
        with pytest.raises(openai.BadRequestError) as refusal:
            ask(caller, **options)
        assert refusal.value.body["param"] == field, refusal.value.body


def test_without_a_known_format_tools_are_refused(client):
    with pytest.raises(openai.BadRequestError, match="--tool-call-parser"):
        ask(client)
    assert ask(client, tool_choice="none", max_tokens=3).choices[0].message.content


def test_unknown_parsers_are_refused_at_start(surroundings):
    for option in ("--tool-call-parser", "--reasoning-parser"):
        server = Server(surroundings, option, "gpt")
        assert server.process.wait(60) == 1
        assert f"{option} 'gpt' is not known" in server.output()
        server.log.unlink()
