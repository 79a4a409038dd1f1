"""The same text from every layout and launcher."""

import os
import signal

import pytest
from requests_under_test import sample_answers
from trireme_process import STOP_DEADLINE_S, wait_until

LAYOUTS = (
    ("--tp", 2, "--pp", 1, "--launcher", "local"),
    ("--tp", 1, "--pp", 2, "--launcher", "local"),
    ("--tp", 2, "--pp", 2, "--launcher", "local"),
    ("--tp", 3, "--pp", 2, "--launcher", "local"),
    ("--tp", 2, "--pp", 2, "--launcher", "mpirun"),
)


@pytest.fixture(scope="module")
def expected(server):
    return sample_answers(server)


@pytest.mark.parametrize("options", LAYOUTS, ids=lambda o: f"{o[1]}x{o[3]}-{o[5]}")
def test_same_text(start_server, surroundings, expected, options):
    server = start_server(*options)
    assert len(server.rank_pids()) == options[1] * options[3]
    assert sample_answers(server) == expected
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


def listener_of(port, pids):
    """The one of `pids` that listens on `port`."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}") as file:
            for fields in map(str.split, list(file)[1:]):
                if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        for name in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{name}") in inodes:
                    return pid
            except OSError:
                continue  # closed meanwhile
    raise AssertionError(f"none of {pids} listens on {port}")


def test_under_a_users_own_mpirun(start_server, surroundings, expected):
    server = start_server("--tp", 2, "--pp", 2,
                          prefix=("mpirun", "-np", "4", "--oversubscribe", "--bind-to", "none",
                                  "--mca", "mpi_yield_when_idle", "1"))
    assert sample_answers(server) == expected
    coordinator = listener_of(server.port, surroundings.trireme_processes())
    os.kill(coordinator, signal.SIGTERM)
    wait_until(lambda: server.process.poll() is not None, STOP_DEADLINE_S, "end of mpirun")
    surroundings.assert_nothing_left()
