"""What scripts/bench_peers makes of its runs, and how it runs commands."""

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS / "peers"))

import comparison  # noqa: E402
from shell import Failed, run  # noqa: E402

NEAR, FAR = 80e-9, 400e-9
WORK = {"name": "decode 1", "kind": "decode", "streams": 1}
PREFILL = {"name": "prefill 512", "kind": "prefill", "streams": 1, "prompt": 512}
CONFIG = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "hidden_size": 2048,
          "intermediate_size": 8192, "num_hidden_layers": 16}


def probe(round_trip_s):
    return {"round_trip_s": round_trip_s, "dram_bytes_s": {"one_thread": 4e10, "all_threads": 8e10},
            "int8_op_s": {"one_thread": 1e12, "all_threads": 2e12}}


def run_of(name, number, rate, before=NEAR, after=NEAR, **more):
    return {"name": name, "round": number, "before": probe(before), "after": probe(after),
            "result": {"rates": {"decode 1": rate}, **more}}


def ratios(runs, what="decode 1", less_is_better=False):
    return comparison.ratios(comparison.values_of(runs, "trireme", what),
                             comparison.values_of(runs, "other", what), less_is_better)


def test_ratios_are_taken_within_a_round():
    runs = [run_of("trireme", 0, 20), run_of("other", 0, 10),
            run_of("trireme", 1, 40), run_of("other", 1, 10)]
    assert sorted(ratios(runs)) == [2.0, 4.0]


def test_runs_of_different_states_are_not_compared():
    assert ratios([run_of("trireme", 0, 20), run_of("other", 0, 10, FAR, FAR)]) == []
    assert ratios([run_of("trireme", 0, 20, NEAR, FAR), run_of("other", 0, 10, NEAR, FAR)]) == []
    assert ratios([run_of("trireme", 0, 20, FAR, FAR), run_of("other", 0, 10, FAR, FAR)]) == [2.0]


def test_of_memory_and_start_less_is_better():
    runs = [run_of("trireme", 0, 1, resident_bytes=2e9), run_of("other", 0, 1, resident_bytes=5e9)]
    assert ratios(runs, "resident_bytes", less_is_better=True) == [2.5]


def test_the_document_names_what_is_missing():
    runs = [run_of("trireme", 0, 20, weight_bytes=2e9), run_of("other", 0, 10),
            {**run_of("third", 0, 0), "result": {"error": "exit status 1: no such processor"}}]
    text = comparison.document(["# Title"], {"int8": runs}, [WORK], CONFIG)
    assert text.startswith("# Title\n\n## int8\n")
    assert "| decode 1, tokens/s | 20.0 | 10.0 | 2.00 n=1 | - | - |" in text
    assert "- not measured: third: exit status 1: no such processor" in text
    assert "Bandwidth state: near; DRAM read, all threads: 80" in text


def test_shares_are_of_the_limits_around_the_run():
    runs = [run_of("trireme", 0, 20, weight_bytes=2e9)]
    runs[0]["result"]["rates"]["prefill 512"] = 500
    assert abs(comparison.operations_per_token(CONFIG, 512) - 1.98e9) < 5e6
    assert comparison.shares("int8", runs, [PREFILL, WORK], CONFIG) == [
        "- trireme, prefill 512: 49 % of the peak of int8 arithmetic",
        "- trireme, decode 1: 50 % of the DRAM read rate, counting weights only"]


def test_results_of_several_invocations_are_joined():
    one = {"int8": [run_of("trireme", 0, 20), run_of("other", 0, 10)]}
    two = {"int4": [run_of("trireme", 0, 50)],
           "int8": [run_of("trireme", 0, 30), run_of("other", 0, 10)]}
    results = comparison.joined([one, two])
    assert list(results) == ["int8", "int4"]
    assert sorted(ratios(results["int8"])) == [2.0, 3.0]


def test_spread_shows_a_range_only_of_several():
    assert comparison.spread([2.0], 1) == "2.0"
    assert comparison.spread([1.0, 2.0, 9.0], 1) == "2.0 (1.0-9.0)"


def test_a_command_is_ended_at_its_deadline(tmp_path):
    with pytest.raises(Failed, match="no end within 0.2 s"):
        run(["sleep", 600], 0.2, tmp_path / "log")


def test_a_failed_command_is_told_by_its_last_line(tmp_path):
    with pytest.raises(Failed, match="exit status 3: the cause"):
        run(["sh", "-c", "echo first; echo the cause >&2; exit 3"], 60, tmp_path / "log")
    assert "first" in (tmp_path / "log").read_text()
