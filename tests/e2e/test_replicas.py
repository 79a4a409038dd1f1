"""Replicas join and leave while streams go on."""

import os
import signal

import pytest

from requests_under_test import join, long_requests, start_streams, wait_until_flowing
from trireme_process import READY_DEADLINE_S, run_command, wait_until


def replicas(surroundings, *arguments):
    done = run_command(surroundings, "replicas", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def listed(surroundings):
    return [line.split()[1] for line in replicas(surroundings, "list").splitlines()]


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_streams_go_on_while_replicas_come_and_go(start_server, surroundings, launcher):
    server = start_server("--replicas", 2, "--launcher", launcher)
    answers = long_requests(server, n_wanted=2)

    def begin():
        streams = start_streams(server, [request for request, _ in answers])
        wait_until_flowing(streams)
        return streams

    def check(streams):
        join(streams)
        assert [stream.text() for stream in streams] == [text for _, text in answers]

    assert listed(surroundings) == ["0", "1"]
    first = set(server.rank_pids())
    streams = begin()
    assert "has left" in replicas(surroundings, "remove", "0", "--within", 0)
    assert listed(surroundings) == ["1"]
    left = set(server.rank_pids())
    assert len(left) == 1 and left < first
    check(streams)
    refused = run_command(surroundings, "replicas", "remove", "1")
    assert refused.returncode == 1 and "add one first" in refused.stderr

    streams = begin()
    assert replicas(surroundings, "add") == "replica 0 serves"
    assert replicas(surroundings, "add") == "replica 2 serves"
    assert listed(surroundings) == ["0", "1", "2"]
    check(streams)

    # The next coordinator has them, too; and one that joined is started again like any other.
    streams = begin()
    upgraded = run_command(surroundings, "upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    check(streams)
    streams = begin()
    joined = set(server.rank_pids()) - first
    os.kill(max(joined), signal.SIGKILL)
    check(streams)
    wait_until(lambda: len(server.rank_pids()) == 3, READY_DEADLINE_S, "three ranks")
    assert "has left" in replicas(surroundings, "remove", "2")
    assert listed(surroundings) == ["0", "1"]


def test_what_cannot_be_is_refused(start_server, surroundings):
    start_server()
    for arguments, why in ((("remove", "0"), "no other replica serves"),
                           (("remove", "7"), "there is no replica 7"),
                           (("add", "--hosts", "a,b"), "leave --hosts out")):
        refused = run_command(surroundings, "replicas", *arguments)
        assert refused.returncode == 1 and why in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
