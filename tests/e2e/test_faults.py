"""Faults under open streams: every stream ends with the bytes of an undisturbed run, or the server
says why it cannot."""

import os
import re
import signal
import time

import openai
import pytest
from abuse import MIB, memory_bounded
from faults import ReadyWatch, frozen_thread, kill
from raw_http import exchange, post, status_of
from requests_under_test import (MODEL, Stream, join, long_requests, make_client,
                                 start_streams, wait_until_flowing)
from trireme_process import READY_DEADLINE_S, http_get, wait_until

DETECTED_S = 0.5   # a rank that stands still
NOT_READY_S = 1.0  # a rank that is gone


@pytest.fixture(scope="module")
def undisturbed(server):
    return long_requests(server)


@pytest.fixture
def deadlines(tmp_path):
    """A function that writes a cluster file with deadlines, and gives the options for it."""
    def write(**values):
        path = tmp_path / "deadlines.yaml"
        lines = [f"  {key}: {value}\n" for key, value in values.items()]
        path.write_text("deadlines:\n" + "".join(lines))
        return "--config", path
    return write


def start(server, undisturbed):
    streams = start_streams(server, [request for request, _ in undisturbed])
    wait_until_flowing(streams)
    return streams


def assert_undisturbed(server, streams, undisturbed, n_restarts=1):
    join(streams)
    assert [stream.error for stream in streams] == [None] * len(streams)
    assert [stream.text() for stream in streams] == [text for _, text in undisturbed]
    wait_until(server.is_ready, READY_DEADLINE_S, "ready again")
    if n_restarts is not None:
        assert server.metric("trireme_group_restarts_total") == n_restarts


def end(server, surroundings):
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_killed_during_prefill(start_server, surroundings, server, launcher):
    requests = [dict(prompt=[(7 * i + 13 * k) % 900 + 3 for k in range(900)], max_tokens=60,
                     temperature=0.9, seed=i, extra_body={"ignore_eos": True}) for i in range(6)]
    client = make_client(server)
    texts = [client.completions.create(model=MODEL, **r).choices[0].text for r in requests]
    disturbed = start_server("--tp", 2, "--launcher", launcher)
    streams = start_streams(disturbed, requests)
    wait_until(lambda: disturbed.metric("vllm:num_requests_running") > 0, READY_DEADLINE_S,
               "a request that runs")
    kill(disturbed.rank_pids()[:1])
    assert_undisturbed(disturbed, streams, list(zip(requests, texts)))
    end(disturbed, surroundings)


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_all_ranks_killed(start_server, surroundings, undisturbed, launcher):
    server = start_server("--tp", 2, "--pp", 2, "--launcher", launcher)
    streams = start(server, undisturbed)
    kill(server.rank_pids())
    assert_undisturbed(server, streams, undisturbed)
    end(server, surroundings)


def test_mpirun_killed(start_server, surroundings, undisturbed):
    server = start_server("--tp", 2, "--launcher", "mpirun")
    streams = start(server, undisturbed)
    launchers = [pid for pid, words in surroundings.processes().items()
                 if os.path.basename(words[0]) == "mpirun"]
    assert len(launchers) == 1
    kill(launchers)
    assert_undisturbed(server, streams, undisturbed)
    end(server, surroundings)


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_stopped_rank_is_found_and_fenced(start_server, surroundings, undisturbed, launcher):
    server = start_server("--tp", 2, "--launcher", launcher)
    streams = start(server, undisturbed)
    watch = ReadyWatch(server)
    stopped = server.rank_pids()[1]
    stopped_at = time.monotonic()
    kill([stopped], signal.SIGSTOP)
    assert_undisturbed(server, streams, undisturbed)
    kill([stopped], signal.SIGCONT)  # if it were still there
    watch.stop()
    # Heartbeats of 50 ms, a limit of 400 ms: the rest is this machine's noise.
    assert watch.first_503 - stopped_at < DETECTED_S + 0.5
    end(server, surroundings)


def test_stuck_step_is_ended_by_its_deadline(start_server, surroundings, undisturbed, deadlines):
    """Its heartbeats go on, as a rank's do that computes for ever."""
    server = start_server("--tp", 2, *deadlines(step_ms=1500))
    streams = start(server, undisturbed)
    with frozen_thread(server.rank_pids()[1]):
        wait_until(lambda: not server.is_ready(), READY_DEADLINE_S, "the step's deadline")
    assert_undisturbed(server, streams, undisturbed)
    # By the step's deadline, or as a deadlock where the rank was just waiting for the other.
    assert re.search("no progress in a step for 1.5 s|all ranks wait for each other",
                     server.output()), server.output()
    end(server, surroundings)


def test_long_step_is_no_fault(start_server, surroundings, undisturbed):
    server = start_server()
    streams = start(server, undisturbed)
    with frozen_thread(server.rank_pids()[0]):
        time.sleep(3)  # ten times any limit on silence
        assert server.is_ready()
    assert_undisturbed(server, streams, undisturbed, n_restarts=0)
    end(server, surroundings)


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_killed_again_while_it_comes_back(start_server, surroundings, undisturbed, launcher,
                                          deadlines):
    server = start_server("--tp", 2, "--launcher", launcher,
                          *deadlines(max_crashes=20, backoff_max_ms=200))
    streams = start(server, undisturbed)
    for _ in range(3):
        before = server.rank_pids()
        kill(before[-1:])
        # The next ones are killed as soon as they are there: dialling in, loading or replaying.
        wait_until(lambda: set(server.rank_pids()) - set(before), READY_DEADLINE_S, "new ranks")
    assert_undisturbed(server, streams, undisturbed, n_restarts=None)
    # A kill may have hit a rank that was ending anyway.
    assert server.metric("trireme_group_restarts_total") >= 2
    end(server, surroundings)


def test_clients_gone_during_replay_free_everything(start_server, surroundings, undisturbed):
    server = start_server("--tp", 2)
    streams = start(server, undisturbed)
    kill(server.rank_pids()[:1])
    for stream in streams:
        stream.client.close()
    server.wait_until_idle()
    wait_until(server.is_ready, READY_DEADLINE_S, "ready again")
    end(server, surroundings)


def test_model_damaged_on_disk_opens_the_breaker(start_server, surroundings, undisturbed,
                                                 cache_folder, tmp_path, deadlines):
    surroundings.environment["XDG_CACHE_HOME"] = str(tmp_path)
    server = start_server("--tp", 2, *deadlines(max_crashes=2, backoff_initial_ms=10))
    streams = start(server, undisturbed[:1])
    packed, = tmp_path.rglob("*.trireme")
    with packed.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 64)
    kill(server.rank_pids()[:1])
    join(streams)
    assert isinstance(streams[0].error, openai.APIError), "the stream must end with an error"
    assert server.wait_ended() == 1, "with no group left it ends, and says why"
    assert re.search(r"2 crashes within .*the header is damaged", server.output()), server.output()
    surroundings.assert_nothing_left()


def test_requests_queue_while_no_group_serves(start_server, surroundings, undisturbed, deadlines):
    server = start_server(*deadlines(backoff_initial_ms=3000))
    kill(server.rank_pids())
    wait_until(lambda: not server.is_ready(), READY_DEADLINE_S, "the loss")
    stream = Stream(server, undisturbed[0][0])
    stream.start()
    wait_until(lambda: server.metric("vllm:num_requests_waiting") == 1, READY_DEADLINE_S, "a queue")
    assert_undisturbed(server, [stream], undisturbed[:1])
    end(server, surroundings)


@pytest.mark.parametrize("replicas", (1, 2))
def test_queue_is_bounded_while_no_group_comes_up(start_server, surroundings, undisturbed, tmp_path,
                                                  deadlines, replicas):
    """As long as the ranks cannot be started, requests wait up to the bound; the rest is told at
    once to come back, and costs nothing."""
    surroundings.environment["XDG_CACHE_HOME"] = str(tmp_path)
    n_slots, n_waiting = 2, 3
    server = start_server("--replicas", replicas, "--max-sequences", n_slots, "--max-waiting",
                          n_waiting, *deadlines(max_crashes=1000, backoff_max_ms=200))
    streams = start(server, undisturbed[:n_slots])
    packed, = tmp_path.rglob("*.trireme")
    away = packed.rename(packed.with_suffix(".away"))
    kill(server.rank_pids())
    wait_until(lambda: not server.is_ready(), READY_DEADLINE_S, "the loss")

    requests = [undisturbed[i % len(undisturbed)] for i in range(replicas * n_slots + n_waiting)]
    streams += start_streams(server, [request for request, _ in requests[n_slots:]])
    wait_until(lambda: server.metric("vllm:num_requests_waiting") == len(requests),
               READY_DEADLINE_S, "a full queue")
    n_launches = server.metric("trireme_group_restarts_total")
    body = dict(model=MODEL, prompt="Once", max_tokens=4)
    with memory_bounded(server, 16 * MIB):
        for i in range(200):
            answer = exchange(server, post("/v1/completions", body | dict(stream=i % 2 == 0)))
            assert status_of(answer) == 503 and b"\r\nRetry-After: 1\r\n" in answer, answer
            assert b'"code":"queue_full"' in answer
    wait_until(lambda: server.metric("trireme_group_restarts_total") > n_launches,
               READY_DEADLINE_S, "another try to start the ranks")
    assert http_get(server.url + "/health")[0] == 200
    assert server.metric("vllm:num_requests_waiting") == len(requests)

    away.rename(packed)
    assert_undisturbed(server, streams, requests, n_restarts=None)
    assert status_of(exchange(server, post("/v1/completions", body))) == 200
    end(server, surroundings)
