"""What scripts/bench_serving reads from servers and makes of it; the servers here are stubs."""

import importlib.machinery
import importlib.util
import json
import math
import os
import socket
import sys
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path[:0] = [str(SCRIPTS / "peers"), str(SCRIPTS / "serving")]

import chart  # noqa: E402
import figures  # noqa: E402
import load  # noqa: E402
import mixed_load  # noqa: E402
import report  # noqa: E402
import servers  # noqa: E402
from event_stream import AnswerReader, Broken  # noqa: E402
from shell import Failed  # noqa: E402

loader = importlib.machinery.SourceFileLoader("bench_serving", str(SCRIPTS / "bench_serving"))
bench_serving = importlib.util.module_from_spec(
    importlib.util.spec_from_loader("bench_serving", loader))
sys.modules["bench_serving"] = bench_serving  # where its dataclass looks for its types
loader.exec_module(bench_serving)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def in_chunks(*parts):
    return HEAD + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def payloads_of(data, n_bytes):
    """What a reader finds that is fed with so many bytes at a time."""
    reader, found = AnswerReader(), []
    for at in range(0, len(data), n_bytes):
        found += reader.feed(data[at:at + n_bytes])
    return reader, found


@pytest.mark.parametrize("n_bytes", (1, 2, 3, 7, 64, 4096))
def test_events_are_found_wherever_the_bytes_are_cut(n_bytes):
    answer = in_chunks(b'data: {"a":1}\n\n', b"da", b'ta: {"b":"\r\n2"}\n', b"\n: still here\n\n",
                       b"id: 7\ndata: {}\n\ndata: [DONE]\n\n")
    reader, found = payloads_of(answer, n_bytes)
    assert found == [b'{"a":1}', b'{"b":"\r\n2"}', b"{}", b"[DONE]"]
    assert reader.status == 200 and reader.ended


@pytest.mark.parametrize("n_bytes", (1, 4096))
def test_an_answer_that_is_no_stream_is_kept_as_text(n_bytes):
    reader, found = payloads_of(
        b"HTTP/1.1 400 Bad Request\r\ncontent-length: 12\r\n\r\n{\"error\": 1}", n_bytes)
    assert (reader.status, reader.body, reader.ended, found) == (400, b'{"error": 1}', True, [])


def test_an_answer_without_its_end_has_not_ended():
    reader, found = payloads_of(in_chunks(b"data: 1\n\n")[:-3], 5)
    assert found == [b"1"] and not reader.ended


def test_bytes_that_are_no_answer():
    with pytest.raises(Broken, match="no HTTP answer: SSH-2.0"):
        AnswerReader().feed(b"SSH-2.0\r\n\r\n")
    with pytest.raises(Broken, match="without an end"):
        AnswerReader().feed(b"x" * 100000)


def test_percentiles_lie_between_the_nearest_values():
    assert figures.percentile([4, 1, 3, 2], 50) == 2.5
    assert figures.percentile(range(101), 95) == 95
    assert figures.percentile([7], 95) == 7
    assert math.isnan(figures.percentile([], 50))


def test_a_line_through_points():
    slope, start = figures.linear_fit([(x, 3 + 0.5 * x) for x in range(10)])
    assert abs(slope - 0.5) < 1e-12 and abs(start - 3) < 1e-12
    slope, _ = figures.linear_fit([(0, 0), (1, 2), (2, 1), (3, 3)])
    assert abs(slope - 0.8) < 1e-12
    assert figures.linear_fit([(1, 5), (1, 7)]) == (0.0, 6)


def test_gaps_lie_within_a_time_or_across_its_edges():
    moments = [0, 1, 3, 6, 10, 15]
    assert figures.gaps_within(moments, 1, 10) == [2, 3, 4]
    assert figures.gaps_across(moments, 2, 7) == [2, 3, 4]
    assert figures.gaps_across(moments, 3, 6) == [3]
    assert figures.gaps_within(moments, 4, 5) == []
    assert figures.gaps_across(moments, 4, 5) == [3]


def test_first_tokens_count_for_requests_that_were_sent_in_the_time():
    requests = [{"begin": begin, "times": times} for begin, times in (
        (0, [1, 2]), (5, [7, 8, 9, 30]), (6, []), (20, [21]))]
    assert figures.first_token_times(requests, 4, 20) == [2]
    assert figures.n_tokens(requests, 2, 9) == 3
    assert figures.of_all(figures.gaps_within, requests, 0, 9) == [1, 1, 1]


class StubServer:
    """Streams as many events as max_tokens asks for, less `missing`; usage behind them."""

    def __init__(self, missing=0):
        self.missing = missing
        self.vocab_size = 512
        self.bodies = []
        self.process = type("Process", (), {"pid": os.getpid()})
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(client,), daemon=True).start()

    def answer(self, client):
        with client, client.makefile("rb") as file:
            length = 0
            while (line := file.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            body = json.loads(file.read(length))
            self.bodies.append(body)
            n_tokens = body["max_tokens"] - self.missing
            usage = {"completion_tokens": n_tokens, "prompt_tokens_details": {"cached_tokens": 3}}
            events = [{"choices": [{"text": "x"}], "usage": None}] * n_tokens
            events += [{"choices": [], "usage": usage}]
            parts = [f"data: {json.dumps(event, separators=(',', ':'))}\n\n".encode()
                     for event in events]
            try:
                client.sendall(in_chunks(*parts, b"data: [DONE]\n\n"))
            except OSError:
                pass  # the client hung up


@pytest.fixture
def stub():
    made = StubServer()
    yield made
    made.listener.close()


def test_closed_loop_until_each_client_has_its_requests(stub):
    clients = [load.looping(load.completion(5, 3), load.completion(2, 1)) for _ in range(4)]
    seen = load.apply_load(stub, clients, "first_end", {"requests_each": 2}, 60)
    counted = [one for one in seen.requests if one["begin"] >= seen.begin and one["end"]]
    assert all(sum(one["client"] == client for one in counted) >= 2 for client in range(4))
    assert all(one["tokens"] == len(one["times"]) == one["n_events"] == 3 for one in counted)
    assert all(one["begin"] < one["times"][0] <= one["end"] for one in counted)
    assert counted[0]["cached_tokens"] == 3
    assert {len(body["prompt"]) for body in stub.bodies} == {2, 5}
    assert all(body["model"] == "served" and body["stream_options"] == {"include_usage": True}
               for body in stub.bodies)
    assert seen.cpu_percent >= 0


def test_requests_in_order_until_all_are_done(stub):
    requests = [load.completion(1, 2, prefix=[7, 8], kind=kind) for kind in ("first", "second")]
    client = {"first": load.completion(4, 1), "requests": requests, "loop": False}
    seen = load.apply_load(stub, [client], "first_end", {"done": True}, 60)
    assert [one["kind"] for one in seen.requests] == ["completion", "first", "second"]
    assert [body["prompt"][:2] for body in stub.bodies[1:]] == [[7, 8]] * 2


def test_a_late_request_comes_once(stub):
    late = load.completion(9, 1, after_s=0, tail_s=0)
    seen = load.apply_load(stub, [load.looping(load.completion(2, 4))] * 2, "first_token",
                           {"late": True}, 60, late=late)
    [record] = [one for one in seen.requests if one["client"] == 2]
    assert record["begin"] >= seen.begin and seen.end >= record["times"][0]
    assert [len(body["prompt"]) for body in stub.bodies].count(9) == 1


def test_clients_hang_up_where_they_are_told_to(stub):
    clients = [load.looping(load.completion([1, 9], [30, 90], cancel=0.5))] * 4
    seen = load.apply_load(stub, clients, "first_token", {"seconds": 0.3}, 60, keep_times=False)
    cancelled = [one for one in seen.requests if one["cancelled"]]
    assert cancelled and any(one["tokens"] for one in seen.requests)
    assert all(one["error"] is None and len(one["times"]) <= 2 for one in seen.requests)


def test_an_answer_with_too_few_tokens_ends_the_measurement():
    server = StubServer(missing=1)
    with pytest.raises(Failed, match="2 tokens where 3 were asked for"):
        load.apply_load(server, [load.looping(load.completion(2, 3))], "first_end",
                        {"requests_each": 2}, 60)
    server.listener.close()


def test_metrics_are_told_apart_by_name_and_labels():
    text = ('# TYPE busy_seconds_total counter\nbusy_seconds_total{model="m",stage="0"} 1.5\n'
            'busy_seconds_total{model="m",stage="1"} 4\nbusy_seconds_total_more 9\nsteps 7\n')
    assert servers.metric_of(text, "busy_seconds_total", stage="0") == 1.5
    assert servers.metric_of(text, "busy_seconds_total") == 5.5
    assert servers.metric_of(text, "steps") == 7 and servers.metric_of(text, "none") == 0


def test_samples_are_taken_until_the_end(monkeypatch):
    monkeypatch.setattr(load, "SAMPLE_S", 0.001)
    with load.Samples(lambda: (3, 4)) as samples:
        while len(samples.taken) < 3:
            pass
    n_taken = len(samples.taken)
    assert all(sample[1:] == (3, 4) for sample in samples.taken)
    second = samples.taken[1][0]
    assert len(samples.between(second, second)) == 1 and len(samples.taken) == n_taken


def test_processor_time_is_that_of_the_process():
    before = servers.cpu_seconds(os.getpid())
    while servers.cpu_seconds(os.getpid()) == before:
        sum(range(10000))


def test_growth_of_memory_is_fitted_after_the_warm_up():
    samples = [(t, (100 if t < 20 else 10) * mixed_load.MIB, (50 + t / 36) * mixed_load.MIB)
               for t in range(100)]
    slope, last = mixed_load.growth(samples, 1)
    assert abs(slope) < 1e-6 and abs(last - 10) < 1e-6
    slope, last = mixed_load.growth(samples, 2)
    assert abs(slope - 100) < 1e-6 and abs(last - 52.75) < 1e-6


def test_a_chart_shows_every_point():
    panels = [chart.Panel("one & two", "streams", "us", [(1000, 30.0), (8, 20.0), (64, 44.0)]),
              chart.Panel("other", "ranks", "us", [(2, 1.0), (64, 2.0)])]
    root = ElementTree.fromstring(chart.svg(panels))
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert tags.count("circle") == 5 and tags.count("polyline") == 2
    texts = [element.text for element in root.iter() if element.text]
    assert {"one & two", "8", "64", "1000", "60"} <= set(texts)
    heights = [float(one.get("cy")) for one in root.iter() if one.tag.endswith("circle")][:3]
    assert heights[1] < heights[2] < heights[0]  # more is higher up; in the order of x


def test_steps_of_an_axis():
    assert [chart.nice_step(most) for most in (4, 7, 19, 90, 0.3)] == [1, 2, 5, 50, 0.1]


PROBE = {"round_trip_s": 80e-9, "dram_bytes_s": {"all_threads": 4e10}}


def run_of(name, number, **result):
    return {"name": name, "round": number, "before": PROBE, "after": PROBE, "result": result}


def closed_loop_run(name, number, rate, **more):
    between = {"first_p50_s": 1.0, "first_p95_s": 2.0, "between_p50_s": 0.05,
               "between_p95_s": 0.1, "events_per_token": 1.0}
    return run_of(name, number, tokens_s=rate, **between | more)


def test_the_document_compares_servers_and_numbers_of_clients():
    results = {
        "clients-8 int8": [closed_loop_run("trireme", 0, 80, coordinator_percent=2.5),
                           closed_loop_run("llama.cpp", 0, 20, events_per_token=0.5)],
        "clients-32 int8": [closed_loop_run("trireme", 0, 120)],
        "growth-streams": [run_of("trireme", 0, **{
            "8": {"us_per_token": 20.0, "tokens_s": 1000, "idle_percent": 0.5},
            "1000": {"us_per_token": 30.0, "tokens_s": 9000, "idle_percent": 0.5}})],
        "memory": [run_of("trireme", 0, error="exit status 1: no memory")],
    }
    text = report.document(["# Title"], results, "chart.svg")
    assert text.startswith("# Title\n\n## 8 clients, int8\n")
    assert "| tokens/s | 80.0 | 20.0 | 4.00 n=1 |" in text
    assert "| between tokens, p95, ms | 100.00 | 100.00 | 1.00 n=1 |" in text
    assert "- trireme's coordinator took 2.5 % of a core" in text
    assert "- llama.cpp sent 0.50 events for a token" in text
    assert "- trireme: 1.50 n=1 times the tokens/s of clients-8" in text
    assert "| 1000 | 30.0 | 1.50 | 9000 | 0.5 |" in text and "](chart.svg)" in text
    assert "- not measured: trireme: exit status 1: no memory" in text
    assert report.growth_chart(results).startswith("<svg")
    assert report.growth_chart({}) is None


def arguments(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["bench_serving", *words])
    return bench_serving.parse_arguments()


def test_contestants_run_in_turn_between_probes(monkeypatch, tmp_path):
    args = arguments(monkeypatch, "--scenario", "clients-8,coordinator,memory", "--dtype", "int4",
                     "--pairs", "2")
    seen = []

    def run(_bench, contestant, dtype):
        seen.append((contestant, dtype))
        if contestant == "llama.cpp":
            raise Failed("exit status 1")
        return {"figure": 1.0}

    for name in args.scenario:
        old = bench_serving.SCENARIOS[name]
        monkeypatch.setitem(bench_serving.SCENARIOS, name,
                            bench_serving.Scenario(run, old.contestants, old.dtypes))
    raw = tmp_path / "raw.json"
    results = bench_serving.measure(args, None, lambda: PROBE, raw)
    assert json.loads(raw.read_text()) == results
    assert seen == [("trireme", "int4"), ("llama.cpp", "int4")] * 2 + [
        ("trireme", "int4")] * 2 + [("trireme", "")] * 2
    assert list(results) == ["clients-8 int4", "coordinator int4", "memory"]
    assert [run["result"] for run in results["clients-8 int4"][:2]] == [
        {"figure": 1.0}, {"error": "exit status 1"}]
