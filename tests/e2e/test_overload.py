"""Far more clients than there is room for: who is accepted is served whole, the others are told to
come back, and memory does not grow."""

from overload import MIB, overload
from requests_under_test import join, long_requests, start_streams

SECONDS = 15


def test_ten_times_the_load(start_server):
    n_running, n_waiting = 8, 8
    server = start_server("--tp", 2, "--max-sequences", n_running, "--max-waiting", n_waiting)
    wanted = long_requests(server, n_wanted=1, n_tokens=200)
    streams = start_streams(server, [request for request, _ in wanted])
    outcome = overload(server, SECONDS, n_clients=10 * (n_running + n_waiting))
    print(outcome)
    join(streams)
    assert streams[0].error is None and streams[0].text() == wanted[0][1]
    assert outcome.wrong == []
    assert outcome.n_unavailable == 0 or "lost" in server.output(), "503 from a group that serves"
    assert outcome.n_finished > 0 and outcome.n_refused > outcome.n_finished
    assert outcome.growth_bytes() < 8 * MIB, outcome
    # Nothing of all that is left behind.
    server.wait_until_idle()
    assert server.stop() == 0
