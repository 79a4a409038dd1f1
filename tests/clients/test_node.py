"""The openai package for JavaScript, and compatcanary, which probes servers that say they are
compatible."""

import json
import shutil

import pytest
from conftest import REPO
from trireme_process import http_get

SOURCES = REPO / "tests" / "clients" / "node"


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """The client with its packages, as the lock file says."""
    made = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "client.js"):
        shutil.copy(SOURCES / name, made)
    run("npm", "ci", "--no-audit", "--no-fund", cwd=made)
    return made


def test_openai_for_javascript(run, folder, spec, expected):
    assert json.loads(run("node", "client.js", stdin=json.dumps(spec), cwd=folder)) == expected


def test_compatcanary(run, folder, server, spec):
    described = http_get(server.url + "/openapi.yaml")[1]
    profile = "modern" if "\n  /v1/responses:" in described else "chat"
    report = json.loads(run(
        "npm", "exec", "--no", "--", "compatcanary", "scan", "--base-url", spec["base_url"],
        "--model", spec["model"], "--profile", profile, "--format", "json", "--fail-on", "any",
        "--timeout", "120", cwd=folder))
    assert report["results"] and {one["status"] for one in report["results"]} == {"pass"}
