"""The HTTP surface, as the openai Python client and plain HTTP see it, on one rank."""

import array
import json
import math

import openai
import pytest
from requests_under_test import CHAT, MODEL, PROMPT, make_client
from trireme_process import REPO, http_get, http_post

CONTEXT_LENGTH = json.loads(
    (REPO / "demo/model/config.json").read_text())["max_position_embeddings"]
GREEDY = dict(model=MODEL, prompt=PROMPT, max_tokens=40, temperature=0)
SAMPLED = dict(model=MODEL, prompt=PROMPT, max_tokens=40, temperature=1.0)


def complete(client, **options):
    return client.completions.create(**options)


def streamed_text(chunks):
    return "".join(choice.text for chunk in chunks for choice in chunk.choices)


def test_models_are_listed(client):
    models = client.models.list().data
    assert [model.id for model in models] == [MODEL]
    assert models[0].object == "model"
    assert models[0].max_model_len == CONTEXT_LENGTH
    assert client.models.retrieve(MODEL).id == MODEL


def test_completion(client):
    answer = complete(client, **GREEDY)
    assert answer.object == "text_completion" and answer.model == MODEL and answer.id
    choice = answer.choices[0]
    assert choice.index == 0 and choice.finish_reason == "length" and choice.text
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens == 40
    assert usage.total_tokens == usage.prompt_tokens + 40


def test_completion_of_token_ids(client):
    golden = json.loads((REPO / "demo/model/golden.json").read_text())["prompts"][0]
    of_text = complete(client, **GREEDY | dict(prompt=golden["prompt"]))
    of_ids = complete(client, **GREEDY | dict(prompt=golden["input_ids"]))
    assert of_ids.choices[0].text == of_text.choices[0].text
    assert of_ids.usage.prompt_tokens == len(golden["input_ids"])


def test_completion_of_several_prompts(client):
    prompts = [PROMPT, "The fox said to the old king that"]
    together = complete(client, **GREEDY | dict(prompt=prompts)).choices
    alone = [complete(client, **GREEDY | dict(prompt=prompt)).choices[0].text
             for prompt in prompts]
    assert [c.text for c in sorted(together, key=lambda c: c.index)] == alone


def test_embeddings(client, server):
    texts = [PROMPT, "The fox said to the old king that"]
    # Without a format the client asks for base64, and reads it.
    answers = [client.embeddings.create(model=MODEL, input=texts, **options)
               for options in ({}, dict(encoding_format="float"))]
    by_base64, by_text = ([array.array("f", each.embedding) for each in answer.data]
                          for answer in answers)
    assert by_base64 == by_text and by_text[0] != by_text[1]
    assert [each.index for each in answers[0].data] == [0, 1]
    assert answers[0].usage.prompt_tokens == answers[0].usage.total_tokens > 0
    assert math.isclose(sum(v * v for v in by_text[0]), 1, rel_tol=1e-5)
    short = client.embeddings.create(model=MODEL, input=texts[0], dimensions=8).data[0].embedding
    assert len(short) == 8 and math.isclose(sum(v * v for v in short), 1, rel_tol=1e-5)
    status, body = http_post(server.url + "/rerank", dict(query=PROMPT, documents=texts[::-1]))
    best = json.loads(body)["results"][0]
    assert status == 200 and best["index"] == 1 and best["document"]["text"] == PROMPT
    assert math.isclose(best["relevance_score"], 1)


def test_chat(client):
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=40,
                                            temperature=0)
    assert answer.object == "chat.completion"
    message = answer.choices[0].message
    assert message.role == "assistant" and message.content
    assert "<|" not in message.content


def test_streamed_completion_equals_whole_one(client):
    whole = complete(client, **GREEDY)
    chunks = list(complete(client, **GREEDY, stream=True))
    assert len(chunks) > 10, "the text came in one piece"
    assert streamed_text(chunks) == whole.choices[0].text
    reasons = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert reasons == ["length"]
    assert all(chunk.usage is None for chunk in chunks)


def test_streamed_chat_equals_whole_one(client):
    options = dict(model=MODEL, messages=CHAT, max_tokens=40, temperature=0)
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
    assert text == whole.choices[0].message.content


def test_response_equals_chat(client):
    options = dict(model=MODEL, max_output_tokens=40, temperature=0)
    chat = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=40, temperature=0)
    for given in (CHAT, CHAT[0]["content"]):
        answer = client.responses.create(input=given, **options)
        assert answer.object == "response" and answer.id.startswith("resp_")
        assert answer.status == "incomplete"
        assert answer.incomplete_details.reason == "max_output_tokens"
        assert answer.output_text == chat.choices[0].message.content
        assert answer.usage.input_tokens == chat.usage.prompt_tokens
        assert answer.usage.output_tokens == 40
    # An answer can be sent back as it is.
    more = client.responses.create(
        input=CHAT + answer.output + [{"role": "user", "content": "And then?"}], **options)
    assert more.usage.input_tokens > answer.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as failure:
        client.responses.create(input="And then?", previous_response_id=answer.id, **options)
    assert failure.value.param == "previous_response_id"


def test_streamed_response_equals_whole_one(client):
    schema = {"type": "object", "additionalProperties": False, "required": ["who", "age"],
              "properties": {"who": {"enum": ["fox", "König", "🦊"]},
                             "age": {"type": "integer", "minimum": 1, "maximum": 9}}}
    options = dict(model=MODEL, input=CHAT[0]["content"], temperature=0, text={
        "format": {"type": "json_schema", "name": "who", "schema": schema, "strict": True}})
    whole = client.responses.create(**options)
    assert whole.status == "completed" and set(json.loads(whole.output_text)) == {"who", "age"}
    events = list(client.responses.create(**options, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    assert "".join(event.delta for event in events
                   if event.type == "response.output_text.delta") == whole.output_text
    # The client's own helper puts the response together from its events.
    with client.responses.stream(**options) as stream:
        final = stream.get_final_response()
    assert final.output_text == events[-1].response.output_text == whole.output_text
    assert final.usage.output_tokens == whole.usage.output_tokens


@pytest.mark.parametrize("chat", (False, True))
def test_usage_chunk_comes_when_asked_for(client, chat):
    options = dict(model=MODEL, max_tokens=12, temperature=0, stream=True,
                   stream_options={"include_usage": True})
    chunks = list(client.chat.completions.create(messages=CHAT, **options) if chat
                  else client.completions.create(prompt=PROMPT, **options))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_stream_ends_with_done(server):
    status, body = http_post(server.url + "/v1/completions", GREEDY | dict(stream=True))
    assert status == 200
    events = [line for line in body.split("\n\n") if line]
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: "))["object"] == "text_completion"
               for event in events[:-1])


@pytest.mark.parametrize("stream", (False, True))
def test_stop_string_ends_the_text_before_it(client, stream):
    text = complete(client, **GREEDY).choices[0].text
    # Inside words, so that it spans tokens.
    stop = text[len(text) // 2:len(text) // 2 + 5]
    answer = complete(client, **GREEDY, stop=["never in the text", stop], stream=stream)
    chunks = list(answer) if stream else [answer]
    assert streamed_text(chunks) == text[:text.index(stop)]
    assert [c.finish_reason for chunk in chunks for c in chunk.choices][-1] == "stop"


def test_max_tokens_bounds_the_answer(client):
    answer = complete(client, **GREEDY | dict(max_tokens=1))
    assert answer.usage.completion_tokens == 1 and answer.choices[0].finish_reason == "length"


def test_same_seed_same_text(client):
    first = complete(client, **SAMPLED, seed=3).choices[0].text
    assert complete(client, **SAMPLED, seed=3).choices[0].text == first
    others = {complete(client, **SAMPLED, seed=seed).choices[0].text for seed in range(4, 8)}
    assert len(others | {first}) == 5


def test_top_k_of_one_is_greedy(client):
    greedy = complete(client, **GREEDY).choices[0].text
    assert complete(client, **SAMPLED, seed=5,
                    extra_body={"top_k": 1}).choices[0].text == greedy
    assert complete(client, **SAMPLED, seed=5, top_p=1e-6).choices[0].text == greedy


def test_unknown_model_is_404(client):
    with pytest.raises(openai.NotFoundError) as failure:
        complete(client, **GREEDY | dict(model="no-such-model"))
    assert "no-such-model" in failure.value.body["message"]


def test_too_long_a_prompt_is_refused_with_both_numbers(client):
    n_tokens = CONTEXT_LENGTH + 500
    with pytest.raises(openai.BadRequestError) as failure:
        complete(client, **GREEDY | dict(prompt=[7] * n_tokens))
    message = failure.value.body["message"]
    assert str(n_tokens) in message and str(CONTEXT_LENGTH) in message


# field, value, what the message must name beside the field
BAD_VALUES = (
    ("max_tokens", -1, "-1"),
    ("max_tokens", 1e9, None),
    ("max_tokens", "many", None),
    ("temperature", -0.5, "-0.5"),
    ("temperature", "hot", None),
    ("top_p", 1.5, "1.5"),
    ("top_k", -7, "-7"),
    ("seed", "x", None),
    ("stop", 5, None),
    ("stream", "yes", None),
    ("prompt", None, None),
    ("prompt", {"a": 1}, None),
    ("prompt", [10**9], None),
    ("prompt", [-1], None),
)


@pytest.mark.parametrize("field, value, named", BAD_VALUES,
                         ids=lambda value: str(value).replace(" ", ""))
def test_bad_value_is_400_and_named(server, field, value, named):
    status, body = http_post(server.url + "/v1/completions", GREEDY | {field: value})
    assert status == 400, body
    error = json.loads(body)["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert field in error["message"], error
    assert named is None or named in error["message"], error


@pytest.mark.parametrize("body", (
    b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": "demo"}',
    b"[" * 100000,
), ids=("empty", "cut", "list", "null", "not-utf8", "no-prompt", "deep"))
def test_malformed_body_is_400(server, body):
    status, answer = http_post(server.url + "/v1/completions", body)
    assert status == 400, answer
    assert json.loads(answer)["error"]["message"]


@pytest.mark.parametrize("messages", (
    [], "hello", [{"content": "x"}], [{"role": "user"}], [{"role": "user", "content": 7}]),
    ids=("none", "string", "no-role", "no-content", "number"))
def test_bad_messages_are_400(server, messages):
    status, body = http_post(server.url + "/v1/chat/completions",
                             dict(model=MODEL, messages=messages, max_tokens=4))
    assert status == 400, body
    assert "messages" in json.loads(body)["error"]["message"]


def test_unknown_path_and_wrong_method(server):
    assert http_get(server.url + "/v1/nothing")[0] == 404
    assert http_get(server.url + "/v1/completions")[0] == 405


def test_health_and_ready(server):
    assert http_get(server.url + "/health")[0] == 200
    assert http_get(server.url + "/ready")[0] == 200


METRICS = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:cache_config_info",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
    "vllm:e2e_request_latency_seconds_bucket",
    "vllm:request_queue_time_seconds_bucket",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket",
    "trireme_ranks_alive",
)


def test_metrics_are_there(server, client):
    complete(client, **GREEDY)
    status, body = http_get(server.url + "/metrics")
    assert status == 200
    samples = {line.split("{")[0].split(" ")[0]
               for line in body.splitlines() if not line.startswith("#")}
    assert [name for name in METRICS if name not in samples] == []
    assert f'model_name="{MODEL}"' in body


def test_metrics_count_tokens_and_requests(server, client):
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total",
             "vllm:request_success_total", "vllm:e2e_request_latency_seconds_count",
             "vllm:time_to_first_token_seconds_count")
    before = [server.metric(name) for name in names]
    usage = complete(client, **GREEDY).usage
    after = [server.metric(name) for name in names]
    assert [b - a for a, b in zip(before, after)] == [
        usage.prompt_tokens, usage.completion_tokens, 1, 1, 1]
    assert server.metric("trireme_ranks_alive") == 1
    server.wait_until_idle()


def test_echo_with_logprobs_where_the_last_prompt_token_is_computed_alone(start_server):
    """The logprobs of the prompt are then complete before the first token is drawn."""
    server = start_server("--max-sequences", 1, "--max-batch-tokens", 16)
    answer = make_client(server).completions.create(
        model=MODEL, prompt=list(range(100, 117)), max_tokens=1, echo=True, logprobs=0)
    logprobs = answer.choices[0].logprobs.token_logprobs
    assert len(logprobs) == 18 and logprobs[0] is None and None not in logprobs[1:]
