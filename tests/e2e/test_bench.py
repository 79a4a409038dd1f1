"""`trireme bench`: what it reports, never how fast."""

import json

import pytest
from trireme_process import run_command

SHORT = ("--prompt", "24,40", "--streams", "1,3", "--generate", 6, "--repeat", 2)


@pytest.mark.parametrize("layout", ((), ("--tp", 2, "--pp", 2)))
def test_json_has_every_row(surroundings, layout):
    result = run_command(surroundings, "bench", "demo", *SHORT, "--json", *layout)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [(row["prompt"], row["streams"], row["context"]) for row in report["rows"]] == [
        (24, 1, 24), (24, 3, 24), (40, 1, 40), (40, 3, 40)]
    for row in report["rows"]:
        for figure in ("prefill", "decode", "first_token_s"):
            spread = row[figure]
            assert len(spread["runs"]) == 2
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    assert report["start_to_first_token_s"] > 0
    assert len(report["ranks"]) == report["tp"] * report["pp"]
    assert all(rank["resident_bytes"] > 0 for rank in report["ranks"])
    surroundings.assert_nothing_left()


def test_text_shows_the_layout_and_the_table(surroundings):
    result = run_command(surroundings, "bench", "demo", "--prompt", 16, "--generate", 4,
                         "--repeat", 1, "--context", 50)
    assert result.returncode == 0, result.stderr
    assert "model " in result.stdout and "decode tokens/s" in result.stdout
    lines = result.stdout.splitlines()
    row = lines[[line.split()[:1] == ["prompt"] for line in lines].index(True) + 1].split()
    assert row[:3] == ["16", "1", "50"] and len(row) == 6
    surroundings.assert_nothing_left()


@pytest.mark.parametrize("options, complaint", (
    (("--prompt", 100000), "the longest row takes"),
    (("--context-length", 100), "the context is 100"),
    (("--prompt", 64, "--streams", 8, "--kv-gib", 0.001), "--kv-gib"),
))
def test_rows_that_do_not_fit_are_refused(surroundings, options, complaint):
    result = run_command(surroundings, "bench", "demo", *options)
    assert result.returncode == 1
    assert complaint in result.stderr.splitlines()[-1]
    surroundings.assert_nothing_left()
