"""The openai package for Go."""

import json

from conftest import REPO

SOURCES = REPO / "tests" / "clients" / "go"


def test_openai_for_go(run, spec, expected, tmp_path):
    program = tmp_path / "client"
    run("go", "build", "-mod=readonly", "-o", program, ".", cwd=SOURCES, GOTOOLCHAIN="local",
        GOFLAGS="")
    assert json.loads(run(program, stdin=json.dumps(spec))) == expected
