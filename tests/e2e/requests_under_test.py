"""Requests whose answers are compared between runs, layouts and disturbances."""

import threading
import time

import openai

MODEL = "demo"
CHAT = [{"role": "user", "content": "Tell me a tale about a fox and a king."}]
PROMPT = "Once upon a time"
STREAM_DEADLINE_S = 120

# Greedy, sampled, and chat: what every layout must answer alike.
SAMPLE_REQUESTS = (
    dict(prompt=PROMPT, max_tokens=48, temperature=0),
    dict(prompt="The fox said to the old king that", max_tokens=48, temperature=1.0, seed=7),
    dict(prompt="In a dark wood", max_tokens=32, temperature=0.8, top_p=0.9, seed=11,
         extra_body={"top_k": 40}),
)


def make_client(server):
    # No retries: an error that the client would hide must fail the test.
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120)


def sample_answers(server):
    client = make_client(server)
    texts = [client.completions.create(model=MODEL, **request).choices[0].text
             for request in SAMPLE_REQUESTS]
    chat = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=48,
                                          temperature=0)
    return texts + [chat.choices[0].message.content]


def long_requests(server, n_wanted=4, n_tokens=950):
    """Requests that fill nearly the whole context, so that a busy machine cannot let them end
    before what the test does to them, with their undisturbed answers: [(request, text)]."""
    client = make_client(server)
    requests = [dict(prompt=PROMPT, max_tokens=n_tokens, temperature=1.0, seed=seed,
                     extra_body={"ignore_eos": True}) for seed in range(n_wanted)]
    answers = [client.completions.create(model=MODEL, **request) for request in requests]
    assert [answer.usage.completion_tokens for answer in answers] == [n_tokens] * n_wanted
    return [(request, answer.choices[0].text) for request, answer in zip(requests, answers)]


class Stream(threading.Thread):
    """One streamed completion in its own thread, as one client would read it."""

    def __init__(self, server, request):
        super().__init__(daemon=True)
        self.client = make_client(server)
        self.request = request
        self.pieces = []
        self.times = []  # when each came
        self.finish_reason = None
        self.error = None

    def run(self):
        try:
            for chunk in self.client.completions.create(model=MODEL, stream=True, **self.request):
                for choice in chunk.choices:
                    self.times.append(time.monotonic())
                    self.pieces.append(choice.text)
                    self.finish_reason = choice.finish_reason or self.finish_reason
        except Exception as error:  # any failure the client sees is the test's finding
            self.error = error

    def text(self):
        return "".join(self.pieces)


def start_streams(server, requests):
    streams = [Stream(server, request) for request in requests]
    for stream in streams:
        stream.start()
    return streams


def wait_until_flowing(streams, n_pieces=5):
    """Until each stream has brought text. All of them must still be running then."""
    end = time.monotonic() + STREAM_DEADLINE_S
    while any(len(s.pieces) < n_pieces and s.is_alive() for s in streams):
        assert time.monotonic() < end, "the streams bring nothing"
        time.sleep(0.001)
    assert all(s.is_alive() for s in streams), [s.error or "ended too soon" for s in streams]


def join(streams):
    for stream in streams:
        stream.join(STREAM_DEADLINE_S)
        assert not stream.is_alive(), "a stream hangs"
