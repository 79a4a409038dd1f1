"""/sleep and /wake_up: the ranks and their memory go, and what was to be answered stays."""

import json
import os
from pathlib import Path

from requests_under_test import MODEL, join, long_requests, start_streams, wait_until_flowing
from trireme_process import (READY_DEADLINE_S, http_get, http_post, run_command, status_bytes,
                             wait_until)

MIB = 1 << 20


def resident_bytes(pids):
    return sum(status_bytes(pid, "VmRSS") for pid in pids)


def kv_memories(server):
    """Of the ranks' KV pools, which the coordinator holds."""
    return [fd.name for fd in Path(f"/proc/{server.process.pid}/fd").iterdir()
            if "trireme-kv" in target_of(fd)]


def target_of(fd):
    try:
        return os.readlink(fd)
    except FileNotFoundError:  # closed since it was listed
        return ""


def post(server, path):
    status, body = http_post(server.url + path, b"")
    return status, json.loads(body)


def begin(server, answers):
    streams = start_streams(server, [request for request, _ in answers])
    wait_until_flowing(streams)
    return streams


def fall_asleep(server, query):
    ranks = server.rank_pids()
    held = resident_bytes(ranks)
    assert held > MIB and kv_memories(server)
    wait_until(lambda: server.metric("trireme_memory_bytes") > 0, READY_DEADLINE_S, "figures")
    assert post(server, "/sleep" + query) == (200, {"is_sleeping": True})
    assert resident_bytes(ranks) + resident_bytes(server.rank_pids()) <= held / 10
    assert not kv_memories(server)
    wait_until(lambda: server.metric("trireme_memory_bytes") == 0, READY_DEADLINE_S, "figures")
    assert server.metric("trireme_sleep_state") == 1
    assert http_get(server.url + "/health")[0] == 200
    status, why = http_get(server.url + "/ready")
    assert status == 503 and "the server sleeps" in why
    status, refusal = http_post(server.url + "/v1/completions", {"model": MODEL, "prompt": "x"})
    assert status == 503 and json.loads(refusal)["error"]["code"] == "sleeping"


def wake_up(server):
    assert post(server, "/wake_up") == (200, {"is_sleeping": False})
    assert server.is_ready() and len(server.rank_pids()) == 2


def test_the_same_tokens_after_a_sleep(start_server, surroundings):
    server = start_server("--tp", 2, "--enable-sleep-mode")
    answers = long_requests(server, n_wanted=2)

    kept = begin(server, answers)
    fall_asleep(server, "?mode=keep")
    refused = run_command(surroundings, "upgrade")
    assert refused.returncode == 1 and "wake it up first" in refused.stderr
    assert all(stream.is_alive() for stream in kept)
    wake_up(server)
    join(kept)
    assert [stream.text() for stream in kept] == [text for _, text in answers]

    aborted = begin(server, answers)
    fall_asleep(server, "?level=2")
    join(aborted)
    for stream in aborted:
        assert "the server was put to sleep" in str(stream.error)
    wake_up(server)
    fall_asleep(server, "?mode=wait")
    assert server.metric("trireme_group_restarts_total") == 0

    # A server that ends does not keep what nobody can wake.
    wake_up(server)
    kept = begin(server, answers)
    fall_asleep(server, "?mode=keep")
    assert server.stop() == 0, server.output()
    join(kept)
    surroundings.assert_nothing_left()
