"""trireme upgrade: another program takes over ranks, clients and streams; not a byte changes."""

import json
import os
import shutil
import socket
import threading
import time

import pytest
from event_streams import join_streams, start_event_streams, wait_until_events
from faults import kill
from raw_http import dial, read_to_end
from requests_under_test import MODEL, PROMPT, make_client
from test_access import certificate, make_certificate  # noqa: F401 (a fixture)
from test_journal import COMPLETIONS, assert_same, undisturbed  # noqa: F401 (a fixture)
from trireme_process import (BINARY, READY_DEADLINE_S, http_get, http_post, run_command,
                             wait_until)

ADMIN_DEADLINE_S = 60
HANDOVER = 5  # kHandoverVersion


@pytest.fixture
def start_upgradable(start_server, tmp_path):
    """A function that starts a server that takes no slow moment of a busy machine for a fault:
    that would have an upgrade refused."""
    options = tmp_path / "patient.yaml"
    options.write_text("deadlines: {heartbeat_ms: 5000, stall_ms: 10000, silence_ms: 30000}\n")

    def start(*arguments, **keywords):
        return start_server("--config", options, *arguments, **keywords)

    return start


def upgrade(surroundings, *options):
    done = run_command(surroundings, "upgrade", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_until_more(streams):
    for stream in streams:
        stream.n_before = len(stream.events)
    wait_until_events(streams)


def ask(surroundings, **arguments):
    """What the server's admin socket says to an upgrade with these arguments."""
    folder, = surroundings.temporary.glob("trireme-run-*")
    request = {"handover": HANDOVER, "program": str(BINARY), "build": "9.9.9",
               "wait_s": 0} | arguments
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ADMIN_DEADLINE_S)
        connection.connect(str(folder / "admin"))
        connection.sendall(json.dumps({"command": "upgrade", "arguments": request}).encode()
                           + b"\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return json.loads(answer.splitlines()[-1]) if answer else {}


class WholeAnswer(threading.Thread):
    """A request without a stream."""

    def __init__(self, server, body, path=COMPLETIONS, told="choices"):
        super().__init__(daemon=True)
        self.url, self.body, self.told, self.choices = server.url + path, body, told, None
        self.start()

    def run(self):
        self.choices = whole(self.url, self.body, self.told)


def whole(url, body, told="choices"):
    return json.loads(http_post(url, body, timeout_s=ADMIN_DEADLINE_S)[1])[told]


WHOLE = dict(model=MODEL, prompt=PROMPT, max_tokens=900, temperature=1.0, seed=5, logprobs=1,
             ignore_eos=True, presence_penalty=0.3, repetition_penalty=1.1, prompt_logprobs=2)
SEARCH = dict(model=MODEL, prompt=PROMPT, max_tokens=60, n=4, use_beam_search=True,
              ignore_eos=True)
EMBEDDINGS = dict(input=[[100 + (31 * i + k) % 900 for k in range(200)] for i in range(200)],
                  encoding_format="base64")
INFER = f"/v2/models/{MODEL}/infer"
INFERENCE = dict(parameters=dict(max_tokens=900, temperature=1.0, seed=5, ignore_eos=True),
                 inputs=[dict(name="text_input", datatype="BYTES", shape=[1], data=[PROMPT])])
RESPONSE = dict(model=MODEL, input=PROMPT, max_output_tokens=900, temperature=1.0,
                extra_body=dict(seed=5, ignore_eos=True))


def test_the_prefix_cache_goes_on(start_upgradable, surroundings):
    server = start_upgradable("--tp", 2)
    body = dict(model=MODEL, prompt=[100 + 7 * i % 900 for i in range(800)], max_tokens=24, seed=3)

    def answer():
        answer = json.loads(http_post(server.url + COMPLETIONS, body, ADMIN_DEADLINE_S)[1])
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        return answer["choices"][0]["text"], cached

    text, n_cached = answer()
    assert n_cached == 0
    upgrade(surroundings)
    assert answer() == (text, 784)


# What only grows, with every token: a counter, histograms' counts and sums, ranks' own totals.
COUNTERS = ("vllm:generation_tokens_total", "vllm:inter_token_latency_seconds_count",
            "vllm:inter_token_latency_seconds_sum", "vllm:inter_token_latency_seconds_bucket",
            "trireme_stage_busy_seconds_total", "trireme_http_requests_total")


@pytest.mark.parametrize("options", (("--tp", 2), ("--pp", 2), ("--launcher", "mpirun", "--tp", 2),
                                     ("--replicas", 2), ("--control-tls", "on", "--tp", 2),
                                     ("--journal",)),
                         ids=lambda o: "".join(map(str, o)))
def test_streams_go_on_over_upgrades(start_upgradable, surroundings, server, undisturbed, options,
                                     tmp_path):
    expected = whole(server.url + COMPLETIONS, WHOLE)
    if options == ("--journal",):
        options += (tmp_path / "journal",)
    upgraded = start_upgradable(*options)
    ranks = upgraded.rank_pids()
    streams = start_event_streams(upgraded, undisturbed[0])
    other = WholeAnswer(upgraded, WHOLE)
    counted = [0] * len(COUNTERS)
    for _ in range(3):
        wait_until_more(streams)
        said = upgrade(surroundings)
        assert f"process {upgraded.process.pid}:" in said, said
        assert upgraded.rank_pids() == ranks
        before, counted = counted, [upgraded.metric(name) for name in COUNTERS]
        assert all(now > then for now, then in zip(counted, before, strict=True)), (before, counted)
    join_streams(streams)
    assert_same(streams, undisturbed)
    other.join(ADMIN_DEADLINE_S)
    assert other.choices == expected
    assert upgraded.metric("trireme_group_restarts_total") == 0
    assert upgraded.metric("vllm:kv_cache_usage_perc") == 0
    assert upgraded.stop() == 0, upgraded.output()
    surroundings.assert_nothing_left()


def test_beam_search_and_embeddings_begin_again(start_upgradable, surroundings, server):
    expected = whole(server.url + COMPLETIONS, SEARCH)
    vectors = whole(server.url + "/v1/embeddings", EMBEDDINGS, "data")
    upgraded = start_upgradable()
    search = WholeAnswer(upgraded, SEARCH)
    wait_until(lambda: upgraded.metric("vllm:generation_tokens_total") > 8, ADMIN_DEADLINE_S,
               "a search that has begun")
    embeddings = WholeAnswer(upgraded, EMBEDDINGS, "/v1/embeddings", "data")
    wait_until(lambda: upgraded.metric("vllm:num_requests_waiting") > 0, ADMIN_DEADLINE_S,
               "embeddings that have begun")
    assert "2 answers" in upgrade(surroundings)
    search.join(ADMIN_DEADLINE_S)
    assert search.choices == expected
    embeddings.join(ADMIN_DEADLINE_S)
    assert embeddings.choices == vectors
    assert upgraded.metric("vllm:num_requests_running") == 0
    assert upgraded.stop() == 0, upgraded.output()
    surroundings.assert_nothing_left()


def test_inferences_and_responses_go_on(start_upgradable, surroundings, server):
    expected = whole(server.url + INFER, INFERENCE, "outputs")
    response = make_client(server).responses.create(**RESPONSE)
    upgraded = start_upgradable()
    inference = WholeAnswer(upgraded, INFERENCE, INFER, "outputs")
    stream = iter(make_client(upgraded).responses.create(**RESPONSE, stream=True))
    events = [next(stream) for _ in range(8)]
    assert "2 answers" in upgrade(surroundings)
    events += stream
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events
                   if event.type == "response.output_text.delta") == response.output_text
    assert events[-1].response.usage == response.usage
    inference.join(ADMIN_DEADLINE_S)
    assert inference.choices == expected
    assert upgraded.stop() == 0, upgraded.output()
    surroundings.assert_nothing_left()


def test_a_rank_lost_after_an_upgrade_comes_back(start_upgradable, surroundings, undisturbed):
    server = start_upgradable("--tp", 2)
    streams = start_event_streams(server, undisturbed[0])
    for _ in range(2):
        wait_until_more(streams)
        upgrade(surroundings)
        before = server.rank_pids()
        kill(before[:1])
        server.wait_for_new_ranks(before)
    join_streams(streams)
    assert_same(streams, undisturbed)
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


def test_another_program_takes_over(start_upgradable, surroundings, undisturbed, tmp_path):
    server = start_upgradable("--tp", 2)
    streams = start_event_streams(server, undisturbed[0])
    wait_until_more(streams)
    copy = tmp_path / BINARY.name
    shutil.copy(BINARY, copy)
    done = run_command(surroundings, "upgrade", "--pid", server.process.pid, binary=copy)
    assert done.returncode == 0, done.stderr
    assert os.readlink(f"/proc/{server.process.pid}/exe") == str(copy)
    before = server.rank_pids()
    assert {os.readlink(f"/proc/{pid}/exe") for pid in before} == {str(BINARY)}
    kill(before[:1])
    server.wait_for_new_ranks(before)
    assert {os.readlink(f"/proc/{pid}/exe") for pid in server.rank_pids()} == {str(copy)}
    join_streams(streams)
    assert_same(streams, undisturbed)
    assert server.stop() == 0, server.output()


def test_refused_upgrades_change_nothing(start_upgradable, surroundings, undisturbed, tmp_path):
    server = start_upgradable("--tp", 2)
    streams = start_event_streams(server, undisturbed[0])
    wait_until_more(streams)
    ranks = server.rank_pids()
    refusal = ask(surroundings, handover=HANDOVER + 1)["error"]
    assert f"in form {HANDOVER + 1}, this server" in refusal, refusal
    assert f"hands over in form {HANDOVER}:" in refusal, refusal
    assert "no program" in ask(surroundings, program="/nowhere/trireme")["error"]
    assert "arguments" in ask(surroundings, program=None)["error"]
    # Found only when everything is held already.
    broken = tmp_path / "trireme"
    broken.write_text("no program of this machine\n")
    broken.chmod(0o755)
    for _ in range(2):
        assert "cannot run" in ask(surroundings, program=str(broken))["error"]
        wait_until_more(streams)
    assert server.rank_pids() == ranks
    upgrade(surroundings)
    assert server.rank_pids() == ranks
    join_streams(streams)
    assert_same(streams, undisturbed)
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


def test_changed_options_are_refused(start_server, surroundings, tmp_path):
    options = tmp_path / "options.yaml"
    options.write_text("max_sequences: 4\n")
    server = start_server("--config", options)
    options.write_text("max_sequences: 8\n")
    refused = run_command(surroundings, "upgrade")
    assert refused.returncode == 1
    assert "has changed" in refused.stderr
    assert server.is_ready()


def test_a_program_that_cannot_take_over_leaves_no_rank(start_upgradable, surroundings):
    server = start_upgradable("--tp", 2)
    assert ask(surroundings, program="/bin/false") == {}
    assert server.wait_ended() == 1
    wait_until(lambda: not surroundings.processes(), READY_DEADLINE_S, "end of every process")


def test_connections_between_requests_go_on(start_upgradable, surroundings):
    server = start_upgradable()
    head = b"Host: x\r\nContent-Type: application/json\r\n"
    idle, half = dial(server), dial(server)
    for connection in (idle, half):
        connection.sendall(b"GET /ping HTTP/1.1\r\n" + head + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    half.sendall(b"POST /v1/completions HTTP/1.1\r\n" + head + b"Content-Length: 100\r\n\r\n{")
    upgrade(surroundings)
    idle.sendall(b"GET /ping HTTP/1.1\r\n" + head + b"\r\n")
    assert idle.recv(65536).startswith(b"HTTP/1.1 200")
    answer = half.recv(65536)
    assert answer.startswith(b"HTTP/1.1 503") and b"Retry-After" in answer
    assert server.stop() == 0, server.output()


def test_https_streams_are_waited_for(start_upgradable, surroundings, certificate):  # noqa: F811
    server = start_upgradable("--tls-cert", certificate[0], "--tls-key", certificate[1],
                          scheme="https")
    answer = WholeAnswer(server, WHOLE)
    wait_until(lambda: server.metric("vllm:num_requests_running") > 0, READY_DEADLINE_S,
               "a request")
    refused = run_command(surroundings, "upgrade", "--wait", 0)
    assert refused.returncode == 1 and "HTTPS" in refused.stderr, refused.stderr
    upgrade(surroundings, "--wait", ADMIN_DEADLINE_S)
    answer.join(ADMIN_DEADLINE_S)
    assert answer.choices is not None
    assert server.is_ready()
    assert server.stop() == 0, server.output()


def test_the_environments_key_is_kept(start_upgradable, surroundings):
    surroundings.environment["TRIREME_API_KEY"] = "the-key-of-the-environment"
    server = start_upgradable()
    upgrade(surroundings)
    assert http_get(server.url + "/v1/models")[0] == 401
    for name in ("environ", "cmdline"):
        with open(f"/proc/{server.process.pid}/{name}", "rb") as file:
            assert b"TRIREME_API_KEY" not in file.read() or name == "environ"
    assert server.stop() == 0, server.output()


def test_a_client_that_does_not_read_loses_nothing(start_upgradable, surroundings, server):
    """What neither it nor the system has taken (of 3 MB) is handed over."""
    body = json.dumps(dict(model=MODEL, prompt=PROMPT, max_tokens=900, temperature=1.0, seed=4, n=8,
                           logprobs=5, ignore_eos=True, stream=True)).encode()
    request = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
               b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    upgraded = start_upgradable()
    slow, quick = dial(upgraded, receive_buffer_bytes=4096), dial(server)
    slow.sendall(request)
    n_running = lambda: upgraded.metric("vllm:num_requests_running")  # noqa: E731
    wait_until(lambda: n_running() > 0, READY_DEADLINE_S, "a request that runs")
    upgrade(surroundings)
    wait_until(lambda: n_running() == 0, READY_DEADLINE_S, "its last token")
    for _ in range(2):
        upgrade(surroundings)
    quick.sendall(request)
    assert choices_of(read_to_end(slow)) == choices_of(read_to_end(quick))
    assert upgraded.stop() == 0, upgraded.output()


def choices_of(response):
    """{choice: its parts} of a stream's bytes, which must be whole."""
    head, chunks = response.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200"), head
    data = b""
    while (size := int(chunks[:chunks.index(b"\r\n")], 16)) > 0:
        begin = chunks.index(b"\r\n") + 2
        data += chunks[begin:begin + size]
        assert chunks[begin + size:begin + size + 2] == b"\r\n"
        chunks = chunks[begin + size + 2:]
    assert chunks == b"0\r\n\r\n"
    assert data.endswith(b"data: [DONE]\n\n")
    parts = {}
    for line in data.decode().splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                parts.setdefault(choice["index"], []).append(choice)
    return parts
