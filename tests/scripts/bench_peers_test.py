"""What scripts/bench_peers makes of its runs, and how it runs commands."""

import importlib.machinery
import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS / "peers"))

import comparison  # noqa: E402
import engines  # noqa: E402
import rpc_servers  # noqa: E402
from shell import Failed, run  # noqa: E402

loader = importlib.machinery.SourceFileLoader("bench_peers", str(SCRIPTS / "bench_peers"))
bench_peers = importlib.util.module_from_spec(
    importlib.util.spec_from_loader("bench_peers", loader))
sys.modules["bench_peers"] = bench_peers  # where its dataclass looks for its types
loader.exec_module(bench_peers)

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


def engine_section(names):
    columns = comparison.engine_columns(names)
    return comparison.Section("int8", "int8", [PREFILL, WORK], columns, True)


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


def test_the_state_is_that_around_the_work_where_it_was_probed():
    far = {"probes": {"decode 1": [probe(FAR), probe(FAR)]}}
    mixed = {"probes": {"decode 1": [probe(FAR), probe(NEAR)]}}
    ours = run_of("trireme", 0, 20, NEAR, FAR, **far)
    assert ratios([ours, run_of("other", 0, 10, **far)]) == [2]
    assert ratios([run_of("trireme", 0, 20, **far), run_of("other", 0, 10)]) == []
    assert ratios([run_of("trireme", 0, 20, **mixed), run_of("other", 0, 10, **mixed)]) == []


def test_of_memory_and_start_less_is_better():
    runs = [run_of("trireme", 0, 1, resident_bytes=2e9, start_to_first_token_s=1),
            run_of("other", 0, 1, resident_bytes=5e9, start_to_first_token_s=4)]
    assert ratios(runs, "resident_bytes", less_is_better=True) == [2.5]
    assert ratios(runs, "start_to_first_token_s", less_is_better=True) == [4]


def test_memory_is_the_same_in_every_state():
    runs = [run_of("trireme", 0, 1, NEAR, FAR, resident_bytes=2e9),
            run_of("other", 0, 1, FAR, FAR, resident_bytes=5e9)]
    assert ratios(runs, "resident_bytes", less_is_better=True) == [2.5]


def test_the_document_names_what_is_missing():
    runs = [run_of("trireme", 0, 20, weight_bytes=2e9), run_of("other", 0, 10),
            {**run_of("third", 0, 0), "result": {"error": "exit status 1: no such processor"}}]
    section = engine_section(["trireme", "other", "third"])
    text = comparison.document(["# Title"], [(section, runs)], CONFIG)
    assert text.startswith("# Title\n\n## int8\n")
    assert "| decode 1, tokens/s | 20.0 | 10.0 | 2.00 n=1 | - | - |" in text
    assert "- not measured: third: exit status 1: no such processor" in text
    assert "Bandwidth state: near; DRAM read, all threads: 80" in text
    assert comparison.FOOTNOTE not in text


def test_without_a_pair_in_one_state_the_ratio_of_the_medians_is_marked():
    runs = [run_of("trireme", number, rate, weight_bytes=2e9, start_to_first_token_s=1)
            for number, rate in enumerate((20, 40, 60))]
    runs += [run_of("other", 0, 10, FAR, FAR, start_to_first_token_s=3),
             run_of("other", 1, 16, NEAR, FAR)]
    text = comparison.document(["# Title"], [(engine_section(["trireme", "other"]), runs)], CONFIG)
    assert "| decode 1, tokens/s | 40.0 (20.0-60.0) | 13.0 (10.0-16.0) | 3.08* |" in text
    assert "| process start to first token, s | 1.00 (1.00-1.00) | 3.00 | 3.00* |" in text
    assert text.count(comparison.FOOTNOTE) == 1 and text.endswith(f"\n{comparison.FOOTNOTE}\n")


def test_a_work_that_nobody_did_has_no_row():
    text = "\n".join(comparison.table([run_of("trireme", 0, 20)], engine_section(["trireme"])))
    assert "decode 1" in text
    assert "prefill 512" not in text and "resident memory" not in text


def test_layouts_are_compared_with_one_process_and_with_the_other_pipeline():
    runs = [run_of("trireme", 0, 20, weight_bytes=2e9, resident_bytes=2e9),
            run_of("trireme tp2", 0, 19), run_of("trireme pp2", 0, 12),
            run_of("llama.cpp-rpc", 0, 4)]
    section = comparison.Section("int8, layouts", "int8", [WORK], comparison.LAYOUT_COLUMNS, False)
    assert comparison.table(runs, section) == [
        "|  | trireme | trireme tp2 | tp2 to trireme | trireme pp2 | pp2 to trireme | "
        "llama.cpp-rpc | pp2 to it |",
        "|---|---|---|---|---|---|---|---|",
        "| decode 1, tokens/s | 20.0 | 19.0 | 0.95 n=1 | 12.0 | 0.60 n=1 | 4.0 | 3.00 n=1 |"]


def test_two_stages_are_bound_by_reading_the_weights_for_each_of_two_micro_batches():
    eight = {"name": "decode 8", "kind": "decode", "streams": 8}
    runs = [run_of("trireme", 0, 20, weight_bytes=2e9), run_of("trireme pp2", 0, 12)]
    runs[1]["result"]["rates"]["decode 8"] = 120
    assert comparison.pipeline_shares(runs, [eight]) == [
        "- trireme pp2, decode 8: 75 % of the bound that weight bytes set, 160 tokens/s: the DRAM "
        "read rate of all threads, the weights read 2 times a round"]
    assert comparison.pipeline_shares(runs[1:], [eight]) == []


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


def arguments(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["bench_peers", *words])
    return bench_peers.parse_arguments()


def names_of(works):
    return [work["name"] for work in works]


def test_the_tables_that_are_asked_for(monkeypatch):
    args = arguments(monkeypatch, "--dtype", "bfloat16", "--layouts", "int4", "--only",
                     "llama.cpp,pp2,llama.cpp-rpc", "--kv-dtype", "int8")
    engine, layout = bench_peers.tables(args)
    assert (engine.key, engine.contestants) == ("bfloat16", ["llama.cpp"])
    assert (layout.key, layout.contestants) == ("layouts int4", ["pp2", "llama.cpp-rpc"])
    assert "decode 64" not in names_of(engine.works)
    assert names_of(layout.works) == [
        "prefill 512", "prefill 2048", "decode 1", "decode 8", "decode 64"]
    assert args.options == ["--kv-dtype", "int8"]


def test_works_are_chosen_by_name_in_every_table(monkeypatch):
    args = arguments(monkeypatch, "--dtype", "int8", "--layouts", "int8", "--works",
                     "decode 2,decode 64")
    engine, layout = bench_peers.tables(args)
    assert names_of(engine.works) == ["decode 2", "decode 64"]
    assert names_of(layout.works) == ["decode 64"]
    assert bench_peers.tables(arguments(monkeypatch, "--dtype", "none", "--layouts", "none")) == []


def test_layouts_share_the_threads(monkeypatch):
    args = arguments(monkeypatch, "--layouts", "int8", "--dtype", "none", "--threads", "4",
                     "--only", "tp2")
    commands = []
    monkeypatch.setattr(
        engines, "run_trireme", lambda *words: commands.append((words[3], words[6])))
    [table] = bench_peers.tables(args)
    for _, run_once in bench_peers.runs_of(None, args, [], None, table):
        run_once()
    assert commands == [(4, []), (2, ("--tp", 2))]


def test_every_contestant_runs_once_a_round_between_two_probes(monkeypatch, tmp_path):
    args = arguments(monkeypatch, "--layouts", "none", "--dtype", "int8", "--rounds", "2",
                     "--only", "llama.cpp")
    n_probes = itertools.count()

    def broken(*_):
        raise Failed("exit status 1: a cause")

    monkeypatch.setattr(engines, "pack_trireme", lambda *_: None)
    monkeypatch.setattr(engines, "run_trireme", lambda *_: {"rates": {}})
    monkeypatch.setattr(engines, "run_engine", broken)
    raw = tmp_path / "results.json"
    results = bench_peers.measure(None, args, ["llama.cpp"], lambda: next(n_probes), raw)
    assert json.loads(raw.read_text()) == results
    seen = [(run["name"], run["round"], run["before"], run["after"]) for run in results["int8"]]
    assert seen == [("trireme", 0, 0, 1), ("llama.cpp", 0, 1, 2),
                    ("trireme", 1, 2, 3), ("llama.cpp", 1, 3, 4)]
    assert results["int8"][1]["result"] == {"error": "exit status 1: a cause"}


def test_results_of_layouts_become_a_section_of_their_own(monkeypatch):
    runs = [run_of("trireme", 0, 20), run_of("trireme pp2", 0, 10)]
    args = arguments(monkeypatch)
    section = bench_peers.section_of("layouts int8", runs, args)
    assert (section.title, section.dtype, section.costs) == ("int8, layouts", "int8", False)
    assert [one.name for one in section.columns] == ["trireme", "trireme pp2"]
    section = bench_peers.section_of("int8", runs, args)
    assert (section.title, section.costs) == ("int8", True)


class FakeCache:
    """Commands that make nothing but the folder of a virtual environment."""

    def __init__(self, folder):
        self.folder = folder
        self.commands = []

    def python(self, packages):
        return self.folder / f"venv-{packages.name}" / "bin" / "python"

    def run(self, command, _deadline_s, environment=None):
        self.commands.append((" ".join(map(str, command)), environment))
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True, exist_ok=True)
        return ""


def test_an_engine_is_built_again_when_it_was_built_otherwise(tmp_path):
    cache = FakeCache(tmp_path)
    for cmake_args, n_builds in (("-DA=1", 1), ("-DA=1", 1), ("-DA=2", 2)):
        packages = engines.Packages("one", ("a-package==1.*", "another"), cmake_args)
        engines.install(cache, packages, lambda text: None)
        builds = [environment for command, environment in cache.commands if "pip wheel" in command]
        assert len(builds) == n_builds
        assert builds[-1] == {"CMAKE_ARGS": cmake_args}
    stamp = json.loads((tmp_path / "venv-one" / "installed.json").read_text())
    assert stamp == ["a-package==1.*", "another", "-DA=2"]


SERVER = """
import socket, sys
host, port = sys.argv[1].split(":")
socket.create_server((host, int(port))).accept()
"""


def test_servers_listen_on_ports_of_their_own():
    servers = rpc_servers.start([sys.executable, "-c", SERVER], 2)
    assert len({endpoint for _, endpoint in servers}) == 2
    assert all(endpoint.startswith("127.0.0.1:") for _, endpoint in servers)
    assert [process.wait(60) for process, _ in servers] == [0, 0]


def test_what_a_server_keeps_in_memory():
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            assert 0 < rpc_servers.resident_bytes(process.pid) < 2**30
        finally:
            process.kill()


def test_a_server_that_ends_is_not_waited_for():
    with pytest.raises(rpc_servers.NotStarted, match="exit status 3"):
        rpc_servers.start([sys.executable, "-c", "raise SystemExit(3)"], 1)


def test_a_server_that_does_not_listen_is_given_up():
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            with pytest.raises(rpc_servers.NotStarted, match="nobody listens on port"):
                rpc_servers.wait_until_listening(process, rpc_servers.free_ports(1)[0], 0.1)
        finally:
            process.kill()


def test_a_server_ends_with_the_process_that_started_it():
    serve = ("import sys, time, rpc_servers; rpc_servers.end_with_parent(); "
             "print('ready', flush=True); time.sleep(600)")
    start = ("import os, subprocess, sys; server = subprocess.Popen("
             "[sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE); "
             "server.stdout.readline(); print(server.pid, flush=True); os._exit(0)")
    # Standard error stays open as long as any of them lives: communicate() waits for the server.
    with subprocess.Popen([sys.executable, "-c", start, serve], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, cwd=SCRIPTS / "peers") as starter:
        output, errors = starter.communicate(timeout=60)
    assert output.strip().isdigit() and errors == b""
