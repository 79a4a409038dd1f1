import pytest
from requests_under_test import make_client
from trireme_process import BINARY, Server, Surroundings


def pytest_sessionstart(session):
    if not BINARY.exists():
        pytest.exit(f"{BINARY} is not there: build it with scripts/build, or set TRIREME_BIN",
                    returncode=2)


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    """One for the session: the demo model is packed once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def surroundings(cache_folder):
    made = Surroundings(cache_folder)
    yield made
    made.clean_up()


@pytest.fixture
def start_server(surroundings):
    """A function that starts a server and waits until it serves; one a test."""
    servers = []

    def start(*options, **keywords):
        servers.append(Server(surroundings, *options, **keywords))
        return servers[-1].wait_ready()

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        print(server.output())  # pytest shows it when the test failed
        server.log.unlink()


@pytest.fixture(scope="module")
def server(cache_folder):
    """One plain server for all tests of a module."""
    made = Surroundings(cache_folder)
    running = Server(made)
    try:
        yield running.wait_ready()
        assert running.stop() == 0, running.output()
        made.assert_nothing_left()
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
        running.log.unlink()
        made.clean_up()


@pytest.fixture
def client(server):
    return make_client(server)
