"""With a journal, streams outlive the coordinator and their connections: not a token changes."""

import json
import os
import resource
import sqlite3
import stat

import pytest
from event_streams import (EventStream, get_answer, join_streams, start_event_streams,
                           wait_until_events)
from requests_under_test import CHAT, MODEL, PROMPT
from trireme_process import (READY_DEADLINE_S, STOP_DEADLINE_S, Server, http_get, http_post,
                             run_command, wait_until)

COMPLETIONS = "/v1/completions"
CHATS = "/v1/chat/completions"
LIMIT_BYTES = 16384  # a journal with answers is larger, a log is not
ENDLESS = {"type": "array", "minItems": 500, "items": {"enum": ["fox", "König", "🦊"]}}
N_LONG = 900  # tokens: nearly the whole context, so that no stream ends before it is disturbed


def completion(**fields):
    return COMPLETIONS, dict(model=MODEL, prompt=PROMPT, temperature=1.0) | fields


def chat(**fields):
    return CHATS, dict(model=MODEL, messages=CHAT, temperature=1.0) | fields


def stop_string_of(server):
    """One that an answer comes to near its end."""
    _, body = completion(max_tokens=N_LONG, seed=3, ignore_eos=True)
    text = json.loads(http_post(server.url + COMPLETIONS, body)[1])["choices"][0]["text"]
    for start in range(len(text) * 7 // 8, len(text) - 12):
        stop = text[start:start + 12]
        if text.find(stop) == start:
            return stop
    raise AssertionError("the text repeats itself")


def requests_of(stop, n_tokens):
    return [
        completion(max_tokens=n_tokens, seed=1, ignore_eos=True, logprobs=2, n=2,
                   stream_options={"include_usage": True}, frequency_penalty=0.2,
                   repetition_penalty=1.1, logit_bias={"100": 2}, bad_words=["the"], min_p=0.01),
        completion(max_tokens=n_tokens, seed=3, ignore_eos=True, stop=[stop]),
        chat(max_tokens=n_tokens, seed=2, ignore_eos=True, n=2, logprobs=True, top_logprobs=3),
        # Echo with the prompt's logprobs.
        completion(max_tokens=n_tokens, temperature=0, ignore_eos=True, logprobs=2, echo=True),
        chat(max_tokens=n_tokens, seed=6, structured_outputs={"json": ENDLESS}),
    ]


@pytest.fixture(scope="module")
def undisturbed(server):
    """The requests with what their streams bring, part by part."""
    requests = requests_of(stop_string_of(server), N_LONG)
    streams = start_event_streams(server, requests)
    join_streams(streams)
    assert all(stream.done for stream in streams), [stream.failed for stream in streams]
    finishes = [{index: parts[-1]["finish_reason"] for index, parts in stream.choices().items()}
                for stream in streams]
    assert finishes == [{0: "length", 1: "length"}, {0: "stop"}, {0: "length", 1: "length"},
                        {0: "length"}, {0: "length"}]
    assert all(event_id is None for stream in streams for event_id, _ in stream.events)
    return requests, streams


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "journal"


def assert_same(streams, undisturbed):
    assert [stream.failed for stream in streams] == [None] * len(streams)
    assert all(stream.done for stream in streams)
    for stream, expected in zip(streams, undisturbed[1]):
        assert stream.choices() == expected.choices()
        assert stream.usage() == expected.usage()


@pytest.mark.parametrize("options", (("--tp", 1), ("--tp", 2, "--pp", 2)),
                         ids=lambda o: "-".join(map(str, o)))
def test_streams_go_on_after_a_killed_coordinator(start_server, surroundings, journal, undisturbed,
                                                  options):
    server = start_server(*options, "--journal", journal)
    streams = start_event_streams(server, undisturbed[0])
    for _ in range(2):
        wait_until_events(streams)
        server.process.kill()
        server.process.wait()
        join_streams(streams)
        assert not any(stream.done for stream in streams), "a stream ended before the kill"
        server = start_server(*options, "--journal", journal, port=server.port)
        for stream in streams:
            stream.go_on()
    join_streams(streams)
    assert_same(streams, undisturbed)
    assert len(list(surroundings.temporary.glob("trireme-run-*"))) == 1, "a killed one's is left"
    assert server.stop() == 0, server.output()
    wait_until(lambda: not surroundings.processes(), STOP_DEADLINE_S, "end of every process")


def test_a_coordinator_killed_before_it_serves_loses_nothing(start_server, surroundings, journal,
                                                             undisturbed):
    server = start_server("--journal", journal)
    streams = start_event_streams(server, undisturbed[0])
    wait_until_events(streams)
    killed = [server]
    for _ in range(2):
        killed[-1].process.kill()
        killed[-1].process.wait()
        killed.append(Server(surroundings, "--journal", journal, port=server.port))
        wait_until(killed[-1].is_listening, READY_DEADLINE_S, "listening")
    killed[-1].process.kill()
    killed[-1].process.wait()
    for ended in killed[1:]:
        ended.log.unlink()
    join_streams(streams)
    start_server("--journal", journal, port=server.port)
    for stream in streams:
        stream.go_on()
    join_streams(streams)
    assert_same(streams, undisturbed)


def test_answers_end_without_their_clients_and_are_kept(start_server, journal, undisturbed):
    server = start_server("--journal", journal)
    streams = start_event_streams(server, undisturbed[0])
    wait_until_events(streams)
    server.process.kill()
    server.process.wait()
    join_streams(streams)
    server = start_server("--journal", journal, port=server.port)
    wait_until(lambda: server.metric("vllm:num_requests_running") == 0, STOP_DEADLINE_S, "the ends")
    for _ in range(2):  # from memory or the file, then surely from the file
        for stream, expected in zip(streams, undisturbed[1]):
            whole = whole_answer(server, stream)
            assert [choice["finish_reason"] for choice in whole["choices"]] == \
                [parts[-1]["finish_reason"] for _, parts in sorted(expected.choices().items())]
            key = "message" if stream.path == CHATS else None
            texts = [choice[key]["content"] if key else choice["text"]
                     for choice in whole["choices"]]
            assert texts == expected.texts()
        assert server.stop() == 0, server.output()
        server = start_server("--journal", journal, port=server.port)
    for stream in streams:
        stream.go_on()
    join_streams(streams)
    assert_same(streams, undisturbed)


def whole_answer(server, stream):
    def get():
        connection, response = get_answer(server.port, stream.path, stream.answer_id, streams=False)
        body = json.loads(response.read())
        connection.close()
        if response.status == 200:
            return body
        assert response.status in (202, 503), body
        assert response.getheader("Retry-After") == "1"
        return None

    return wait_until(get, READY_DEADLINE_S, "the whole answer")


def test_a_client_that_lost_its_connection_gets_the_rest(start_server, journal, undisturbed):
    server = start_server("--journal", journal)
    streams = start_event_streams(server, undisturbed[0])
    for _ in range(3):
        wait_until_events(streams)
        for stream in streams:
            stream.cut()
        join_streams(streams)
        for stream in streams:
            stream.go_on()
    join_streams(streams)
    assert_same(streams, undisturbed)


def test_every_event_is_a_place_to_go_on_from(start_server, journal, undisturbed):
    server = start_server("--journal", journal)
    stop = undisturbed[0][1][1]["stop"][0]
    requests = requests_of(stop, 40)
    # "in" and "the" are held back again and again before the answer shows that they go on.
    requests[1][1]["stop"] = ["the king of the", "in the old", " and he said"]
    streams = start_event_streams(server, requests)
    join_streams(streams)
    assert all(stream.done for stream in streams), [stream.failed for stream in streams]
    for stream in streams:
        for n_known in range(len(stream.events) + 1):
            again = EventStream(server, stream.path, stream.body)
            again.answer_id = stream.answer_id
            again.events = stream.events[:n_known] or [(None, None)]
            again.get_rest()
            again.events = again.events if n_known else again.events[1:]
            assert again.failed is None and again.done
            assert again.choices() == stream.choices(), stream.events[n_known - 1][0]
            assert again.usage() == stream.usage()


def test_a_client_that_stays_away_is_given_up(start_server, journal):
    server = start_server("--journal", journal, "--journal-grace", 0)
    stream, = start_event_streams(server, [completion(max_tokens=N_LONG, seed=1, ignore_eos=True)])
    wait_until_events([stream])
    stream.cut()
    join_streams([stream])
    server.wait_until_idle()  # the request is cancelled and its blocks are free

    def status():
        connection, response = get_answer(server.port, stream.path, stream.answer_id, streams=False)
        connection.close()
        return response.status

    wait_until(lambda: status() == 410, STOP_DEADLINE_S, "the answer is given up")
    stream.go_on()
    join_streams([stream])
    assert "did not come back" in stream.failed[1]


def test_other_numerics_do_not_go_on(start_server, journal):
    server = start_server("--journal", journal)
    stream, = start_event_streams(server, [completion(max_tokens=N_LONG, seed=1, ignore_eos=True)])
    wait_until_events([stream])
    server.process.kill()
    server.process.wait()
    join_streams([stream])
    server = start_server("--journal", journal, "--kv-dtype", "int8", port=server.port)
    stream.go_on()
    join_streams([stream])
    assert "its tokens so far are of numerics" in stream.failed[1]


def test_a_journal_that_cannot_be_used(start_server, surroundings, journal, tmp_path):
    def refusal(file):
        result = run_command(surroundings, "serve", "demo", "--port", 0, "--journal", file)
        assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    start_server("--journal", journal)
    assert stat.S_IMODE(os.stat(journal).st_mode) == 0o600
    assert "in use by another process: stop that one" in refusal(journal)

    text = tmp_path / "text"
    text.write_text("no journal, but a text that is longer than the header of a database" * 20)
    assert "damaged or no journal" in refusal(text)

    for name, statement, message in (
            ("other", "CREATE TABLE t(x)", "a database of another program"),
            ("newer", "PRAGMA application_id = 0x5472694A; PRAGMA user_version = 99; "
             "CREATE TABLE t(x)", "has version 99, and this build reads version 3")):
        with sqlite3.connect(tmp_path / name) as database:
            database.executescript(statement)
        database.close()
        assert message in refusal(tmp_path / name)
    assert "cannot open the journal" in refusal(tmp_path / "missing" / "journal")


def test_a_full_disk_stops_no_running_answer(start_server, journal, undisturbed):
    # A limit on the size of files stands for the full disk; the signal it comes with must not kill.
    server = start_server("--journal", journal, prefix=("env", "--ignore-signal=XFSZ"))
    streams = start_event_streams(server, undisturbed[0])
    wait_until_events(streams)
    unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (LIMIT_BYTES, unlimited[1]))
    wait_until(lambda: server.metric("trireme_journal_failing") == 1, STOP_DEADLINE_S, "the metric")
    body = undisturbed[0][0][1] | {"max_tokens": 2}
    status, answer = http_post(server.url + COMPLETIONS, body | {"stream": True})
    assert status == 503 and "journal" in answer
    assert http_post(server.url + COMPLETIONS, completion(max_tokens=2)[1])[0] == 200
    assert any(stream.is_alive() for stream in streams), "they ended before the disk was full"
    join_streams(streams)
    assert_same(streams, undisturbed)

    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
    wait_until(lambda: server.metric("trireme_journal_failing") == 0, STOP_DEADLINE_S, "the end")
    assert http_post(server.url + COMPLETIONS, body | {"stream": True})[0] == 200
    assert "cannot be written" in server.output()
    # What the disk had no room for was written since.
    server.process.kill()
    server.process.wait()
    server = start_server("--journal", journal, port=server.port)
    assert [whole_answer(server, stream)["id"] for stream in streams] == \
        [stream.answer_id for stream in streams]
    assert http_get(server.url + "/v1/completions/cmpl-unknown")[0] == 404
