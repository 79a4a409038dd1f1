"""Tensor and pipeline parallelism across two hosts, and what happens when the network between them
fails."""

import json
import signal
import time

import pytest
from faults import ReadyWatch, kill
from requests_under_test import join, long_requests, start_streams, wait_until_flowing
from trireme_process import READY_DEADLINE_S, REPO, run_command, wait_until
from two_hosts import blip, cluster_file, inside, let_through, two_hosts

subnet = pytest.fixture(two_hosts)
BLIP_S = 0.2
PAUSE_S = 0.6  # until TCP has caught up
N_BLIPS = 4
CUT_S = 3.0
FAST = dict(launch_ms=6000, comm_ms=2000, backoff_max_ms=500, max_crashes=100)


def test_two_hosts_give_the_bytes_of_one_rank(surroundings, subnet, tmp_path):
    prompts = json.loads((REPO / "demo/model/golden.json").read_text())["prompts"]
    stdin = "".join(json.dumps({"input_ids": p["input_ids"]}) + "\n" for p in prompts)
    one_rank = run_command(surroundings, "logits", "demo", "--max-new", 32, stdin=stdin)
    assert one_rank.returncode == 0, one_rank.stderr

    config = cluster_file(tmp_path / "cluster.yaml", subnet)
    spread = run_command(
        surroundings, "logits", "demo", "--max-new", 32, "--tp", 2, "--pp", 2,
        "--config", config, stdin=stdin)
    assert spread.returncode == 0, spread.stderr
    assert len(one_rank.stdout.splitlines()) == len(prompts)
    assert spread.stdout == one_rank.stdout
    surroundings.assert_nothing_left()


@pytest.fixture(scope="module")
def undisturbed(server):
    return long_requests(server)


@pytest.fixture
def start_disturbed(start_server, subnet, tmp_path, undisturbed):
    """A function that starts TP 2 x PP 2 over two hosts, and streams that flow."""
    def start(**deadlines):
        config = cluster_file(tmp_path / "cluster.yaml", subnet, **deadlines)
        server = start_server("--tp", 2, "--pp", 2, "--config", config)
        streams = start_streams(server, [request for request, _ in undisturbed])
        wait_until_flowing(streams)
        return server, streams
    return start


def assert_undisturbed(server, streams, undisturbed):
    join(streams)
    assert [stream.error for stream in streams] == [None] * len(streams)
    assert [stream.text() for stream in streams] == [text for _, text in undisturbed]
    wait_until(server.is_ready, READY_DEADLINE_S, "ready again")


def test_short_blips_cost_nothing(start_disturbed, undisturbed, subnet, surroundings):
    # TCP sends again after 200 to 235 ms, and when that is lost too, after as much again or, on the
    # connection that carries results, twice as much: now and then more than the usual limit. The
    # heartbeats that come in datagrams wait for nothing.
    server, streams = start_disturbed()
    for i in range(N_BLIPS):
        assert any(stream.is_alive() for stream in streams), f"only {i} blips hit a stream"
        blip(subnet, 2, BLIP_S)
        time.sleep(PAUSE_S)
    assert_undisturbed(server, streams, undisturbed)
    assert server.metric("trireme_group_restarts_total") == 0, server.output()
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


@pytest.mark.parametrize("one_way", (False, True))
def test_a_cut_link(start_disturbed, undisturbed, subnet, surroundings, one_way):
    """Found on both sides; what was on the far host ends by itself, and the streams go on when the
    link is back."""
    server, streams = start_disturbed(**FAST)
    ranks = set(server.rank_pids())
    watch = ReadyWatch(server)
    cut_at = time.monotonic()
    if one_way:
        inside(subnet, 2, "ip", "route", "add", "blackhole", f"{subnet}.254/32")
    else:
        let_through(subnet, 2, False)
    time.sleep(CUT_S)
    assert not ranks & set(server.rank_pids()), "ranks of the lost group are still there"
    if one_way:
        inside(subnet, 2, "ip", "route", "delete", "blackhole", f"{subnet}.254/32")
    else:
        let_through(subnet, 2, True)
    assert_undisturbed(server, streams, undisturbed)
    watch.stop()
    print(f"found after {watch.first_503 - cut_at:.3f} s")
    assert watch.first_503 - cut_at < 1.0, "half a second, and this machine's noise"
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


def test_ranks_that_are_cut_off_end_by_themselves(start_disturbed, undisturbed, surroundings):
    """On this machine the coordinator could reach them to kill them; so it is stopped."""
    server, streams = start_disturbed(**FAST)
    ranks = set(server.rank_pids())
    server.process.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    try:
        wait_until(lambda: not ranks & set(server.rank_pids()), CUT_S, "the end of the ranks")
        gone_at = time.monotonic()
    finally:
        server.process.send_signal(signal.SIGCONT)
    print(f"gone after {gone_at - stopped_at:.3f} s")
    assert gone_at - stopped_at < 2.0, "one second, and this machine's noise"
    assert_undisturbed(server, streams, undisturbed)
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


def test_a_killed_daemon_of_mpirun(start_disturbed, undisturbed, surroundings):
    server, streams = start_disturbed(**FAST)
    daemons = [pid for pid, words in surroundings.processes().items() if words[0].endswith("orted")]
    assert len(daemons) == 2
    kill(daemons[:1])
    assert_undisturbed(server, streams, undisturbed)
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()
