"""schemathesis makes requests of all kinds from the server's own description of its interface. None
of them may be answered with 5xx."""

from conftest import TOOLS
from trireme_process import http_get

SEED = 1
EXAMPLES = 25  # of each operation in each phase


def test_no_request_is_answered_with_5xx(run, server, tmp_path):
    print(run(TOOLS / "schemathesis", "run", server.url + "/openapi.yaml", "--url", server.url,
              "--checks", "not_a_server_error", "--max-examples", EXAMPLES, "--seed", SEED,
              "--request-timeout", "120", "--no-color", cwd=tmp_path))  # it leaves its notes there
    assert http_get(server.url + "/ready")[0] == 200
