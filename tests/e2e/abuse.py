"""What tests of hostile clients and strangers share: a server with short deadlines, and the checks
that its other clients and its memory notice nothing."""

import contextlib

from requests_under_test import join, start_streams, wait_until_flowing
from trireme_process import Server, Surroundings, free_port

MIB = 1 << 20
SECRET = "a-secret-of-the-test"
TIMEOUT_MS = 1500


def make_server(cache_folder, *options):
    made = Surroundings(cache_folder)
    made.environment["TRIREME_SECRET"] = SECRET
    control_port = free_port()
    server = Server(made, "--tp", 2, "--control-port", control_port, "--request-timeout-ms",
                    TIMEOUT_MS, "--write-timeout-ms", TIMEOUT_MS, *options)
    server.control_port = control_port
    return server


@contextlib.contextmanager
def running(server):
    try:
        server.wait_ready()
        yield server
        assert server.stop() == 0, server.output()
        server.surroundings.assert_nothing_left()
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        print(server.output())
        server.log.unlink()
        server.surroundings.clean_up()


@contextlib.contextmanager
def streams_undisturbed(server, wanted):
    """While the body of the `with` runs: streams that must bring the same bytes, on the same
    ranks."""
    ranks = server.rank_pids()
    streams = start_streams(server, [request for request, _ in wanted])
    wait_until_flowing(streams)
    yield
    join(streams)
    assert [stream.error for stream in streams] == [None] * len(streams)
    assert [stream.text() for stream in streams] == [text for _, text in wanted]
    assert server.rank_pids() == ranks


@contextlib.contextmanager
def memory_bounded(server, limit_bytes):
    """The coordinator's resident memory does not grow past the limit at any moment."""
    before = server.resident_bytes()
    server.reset_peak()
    yield
    grown = server.peak_resident_bytes() - before
    print(f"coordinator: {before / MIB:.0f} MiB, at most {grown / MIB:.1f} MiB more")
    assert grown < limit_bytes, f"{grown / MIB:.0f} MiB more"
