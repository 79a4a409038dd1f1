"""A host that is gone for good: with --min-ranks the streams go on on a smaller layout, with the
same tokens, and on the whole one again once the host is back."""

import shutil

import pytest
from faults import ReadyWatch, kill
from requests_under_test import join, long_requests, start_streams, wait_until_flowing
from trireme_process import BINARY, READY_DEADLINE_S, REPO, run_command, wait_until
from two_hosts import SCRIPTS, cluster_file, let_through, two_hosts

subnet = pytest.fixture(two_hosts)
RETURN_MS = 4000


@pytest.fixture(scope="module")
def undisturbed(server):
    return long_requests(server)


def flowing_streams(server, undisturbed):
    streams = start_streams(server, [request for request, _ in undisturbed])
    wait_until_flowing(streams)
    return streams


def assert_undisturbed(streams, undisturbed):
    join(streams)
    assert [stream.error for stream in streams] == [None] * len(streams)
    assert [stream.text() for stream in streams] == [text for _, text in undisturbed]


def wait_for_layout(server, tp, pp, n_ranks, n_times=1):
    line = f"replica 0 goes on with TP {tp} x PP {pp} on "
    wait_until(lambda: server.output().count(line) == n_times, READY_DEADLINE_S, line)
    wait_until(server.is_ready, READY_DEADLINE_S, "ready again")
    # The gauge is read now and then.
    wait_until(lambda: server.metric("trireme_ranks_alive") == n_ranks, READY_DEADLINE_S,
               f"{n_ranks} ranks")
    return next(said for said in server.output().splitlines() if said.startswith(line))


@pytest.mark.parametrize("gone", (1, 2))
def test_a_host_is_cut_off_for_good_and_comes_back(
        start_server, surroundings, subnet, tmp_path, undisturbed, gone):
    config = cluster_file(tmp_path / "cluster.yaml", subnet, comm_ms=2000,
                          return_ms=RETURN_MS)
    server = start_server("--pp", 2, "--min-ranks", 1, "--config", config)
    streams = flowing_streams(server, undisturbed)
    watch = ReadyWatch(server)
    let_through(subnet, gone, False)
    line = wait_for_layout(server, 1, 1, n_ranks=1)
    left = f"host-{subnet}.{3 - gone}".replace(".", "-")
    assert line.endswith(f"on {left} (1 of 2 ranks)")
    assert_undisturbed(streams, undisturbed)
    watch.stop()
    assert watch.first_503 is not None and watch.back_at is not None

    streams = flowing_streams(server, undisturbed)
    let_through(subnet, gone, True)
    wait_for_layout(server, 1, 2, n_ranks=2)
    assert_undisturbed(streams, undisturbed)
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


def test_a_host_that_refuses_its_ranks(start_server, surroundings, subnet, tmp_path, undisturbed):
    """As one that is shut down: connections end at once and nobody can log in there any more."""
    down = tmp_path / "down"
    agent = tmp_path / "agent.sh"
    agent.write_text(
        "#!/bin/sh\n"
        f'[ "$1" != "$(cat {down} 2>/dev/null)" ] || '
        '{ echo "ssh: connect to host $1 port 22: Connection refused" >&2; exit 255; }\n'
        f'exec {SCRIPTS / "rsh.sh"} "$@"\n')
    agent.chmod(0o755)
    config = cluster_file(tmp_path / "cluster.yaml", subnet, agent=agent, return_ms=RETURN_MS)
    server = start_server("--tp", 2, "--pp", 2, "--min-ranks", 2, "--config", config)
    streams = flowing_streams(server, undisturbed)
    down.write_text(f"{subnet}.2")
    kill(server.rank_pids()[-2:])
    wait_for_layout(server, 2, 1, n_ranks=2)
    assert_undisturbed(streams, undisturbed)
    down.unlink()
    wait_for_layout(server, 2, 2, n_ranks=4)
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


def test_a_second_rank_that_this_machine_cannot_start_any_more(
        start_server, surroundings, tmp_path, undisturbed):
    surroundings.environment["TRIREME_DEMO_MODEL"] = str(REPO / "demo/model")
    binary = tmp_path / BINARY.name
    shutil.copy(BINARY, binary)
    config = tmp_path / "cluster.yaml"
    config.write_text(f"tp: 2\nmin_ranks: 1\ndeadlines: {{return_ms: {RETURN_MS}}}\n")
    server = start_server("--config", config, binary=binary)
    streams = flowing_streams(server, undisturbed)

    fails = tmp_path / "fails"
    fails.touch()
    script = tmp_path / "script"
    script.write_text(f'#!/bin/bash\ncase "$*" in *"--rank 1 "*) [ ! -e {fails} ] || '
                      '{ echo "trireme: no such device" >&2; exit 1; };; esac\n'
                      f'exec -a {BINARY.name} {BINARY} "$@"\n')
    script.chmod(0o755)
    script.rename(binary)
    kill(server.rank_pids()[:1])
    wait_for_layout(server, 1, 1, n_ranks=1)
    assert_undisturbed(streams, undisturbed)

    # Without hosts that could be asked, larger layouts are tried when there is nothing to do.
    fails.unlink()
    wait_for_layout(server, 2, 1, n_ranks=2)
    assert_undisturbed(flowing_streams(server, undisturbed), undisturbed)
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


@pytest.mark.parametrize("options, said", (
    (("--tp", 2, "--min-ranks", 2), "--min-ranks 2 is out of range: use 1 to 1"),
    (("--tp", 2, "--min-ranks", -1), "--min-ranks -1 is out of range: use 1 to 1"),
    (("--min-ranks", 1), "--min-ranks: one rank is the least there is"),
    (("--tp", 2, "--min-ranks", 1, "--launcher", "external"), "--min-ranks: nobody here can start"),
))
def test_what_cannot_be(surroundings, options, said):
    result = run_command(surroundings, "serve", "demo", *options)
    assert result.returncode == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
