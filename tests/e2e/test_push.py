"""trireme push: new weights under open streams, on every rank or on none."""

import re
import shutil
import signal
import subprocess

import pytest
from event_streams import get_answer, join_streams, start_event_streams, wait_until_events
from faults import kill
from requests_under_test import (MODEL, join, long_requests, start_streams, wait_until_flowing)
from trireme_process import (BINARY, READY_DEADLINE_S, REPO, Server, Surroundings, read_bytes,
                             run_command, wait_until)

LAYOUTS = (("--tp", 2), ("--pp", 2), ("--replicas", 2), ("--tp", 2, "--launcher", "mpirun"))
NAMES = ("tp2", "pp2", "replicas", "mpirun")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    """The demo model with every 16th weight changed a little."""
    folder = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(REPO / "demo" / "model", folder)
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    low_bytes = slice(begin, None, 32)  # of bfloat16 numbers
    data[low_bytes] = bytes(byte ^ 0x38 for byte in data[low_bytes])
    file.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def on_old(server):
    return long_requests(server)


@pytest.fixture(scope="module")
def on_new(cache_folder, other_model, on_old):
    surroundings = Surroundings(cache_folder)
    server = Server(surroundings, "--served-model-name", MODEL, model=other_model).wait_ready()
    try:
        answers = long_requests(server)
        assert server.stop() == 0
    finally:
        server.process.kill()
        server.log.unlink()
        surroundings.clean_up()
    assert all(a[1] != b[1] for a, b in zip(answers, on_old)), "the models answer alike"
    return answers


def push(server, model, *options):
    return run_command(server.surroundings, "push", model, *options)


def start_push(server, model):
    return subprocess.Popen([str(BINARY), "push", str(model)], text=True,
                            env=server.surroundings.environment, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def pushed(server, model):
    result = push(server, model)
    assert result.returncode == 0, result.stderr + server.output()
    assert re.search(r"new requests are answered with .* \(weights [0-9a-f]{16}, ", result.stdout)
    return result


def refusal(server, model):
    result = push(server, model)
    assert result.returncode == 1, result.stdout
    return refusal_in(result.stderr)


def refusal_in(errors):
    """The one line, after those that tell how far it got."""
    lines = [line for line in errors.splitlines() if line.startswith("trireme: ")]
    assert len(lines) == 1, errors
    return lines[0]


def mapped(server):
    """The packed files that each rank maps."""
    return [set(re.findall(r"/\S+\.trireme", read_bytes(f"/proc/{pid}/maps").decode()))
            for pid in server.rank_pids()]


def one_file(server):
    """The packed file that every rank maps, once it is the only one."""
    def only():
        files = mapped(server)
        return len(set.union(*files)) == 1 and all(files) and files[0]
    return next(iter(wait_until(only, READY_DEADLINE_S, "one file on each rank")))


def begin(server, answers):
    streams = start_streams(server, [request for request, _ in answers])
    wait_until_flowing(streams)
    return streams


def assert_answers(streams, answers):
    join(streams)
    assert [stream.error for stream in streams] == [None] * len(streams)
    assert [stream.text() for stream in streams] == [text for _, text in answers]


def end(server, surroundings):
    assert server.stop() == 0, server.output()
    surroundings.assert_nothing_left()


@pytest.mark.parametrize("options", LAYOUTS, ids=NAMES)
def test_streams_end_on_the_weights_they_began_with(start_server, surroundings, other_model, on_old,
                                                    on_new, options):
    server = start_server(*options)
    before = one_file(server)
    on_old = on_old * 2  # so that they take long enough
    old = begin(server, on_old)
    pushed(server, other_model)
    assert all(len(files) == 2 for files in mapped(server))
    new = begin(server, on_new)
    assert any(stream.is_alive() for stream in old), "not at the same time"
    assert_answers(old, on_old)
    assert_answers(new, on_new)
    assert one_file(server) != before
    assert server.metric("trireme_pushes_total") == 1
    assert server.metric("trireme_weights_generation") == 2
    assert server.metric("trireme_group_restarts_total") == 0
    end(server, surroundings)


@pytest.mark.parametrize("options", LAYOUTS, ids=NAMES)
def test_a_rank_killed_while_both_are_needed(start_server, surroundings, other_model, on_old,
                                             on_new, options):
    server = start_server(*options)
    on_old = on_old * 3  # so that they take long enough
    old = begin(server, on_old)
    pushed(server, other_model)
    new = begin(server, on_new)
    kill(server.rank_pids()[-1:])
    assert any(stream.is_alive() for stream in old)
    assert_answers(old, on_old)
    assert_answers(new, on_new)
    assert server.metric("trireme_group_restarts_total") == 1
    wait_until(server.is_ready, READY_DEADLINE_S, "ready again")
    one_file(server)
    # A relaunch loads the new ones alone.
    kill(server.rank_pids()[:1])
    wait_until(lambda: server.metric("trireme_group_restarts_total") == 2, READY_DEADLINE_S, "loss")
    assert_answers(start_streams(server, [request for request, _ in on_new]), on_new)
    end(server, surroundings)


def test_there_and_back(start_server, surroundings, other_model, on_old, on_new):
    server = start_server("--tp", 2)
    files = [one_file(server)]
    for model, answers in (("demo", on_old), (other_model, on_new), ("demo", on_old)):
        streams = begin(server, answers[:2])
        model_next = other_model if model == "demo" else "demo"
        pushed(server, model_next)
        assert "requests still run on the weights before" in refusal(server, model)
        assert_answers(streams, answers[:2])
        files.append(one_file(server))
    assert files[0] == files[2] != files[1] == files[3]
    end(server, surroundings)


@pytest.fixture
def packed(surroundings, tmp_path, other_model):
    out = tmp_path / "packed"
    assert run_command(surroundings, "pack", other_model, out).returncode == 0
    return out


@pytest.mark.parametrize("options", LAYOUTS[:3], ids=NAMES[:3])
@pytest.mark.parametrize("part", (0.3, 0.9))
def test_damage_that_one_rank_finds_changes_nothing(start_server, surroundings, packed, on_old,
                                                    options, part):
    """At 0.3 of the file, of the first layers; at 0.9, of the last."""
    with open(packed / "weights.trireme", "r+b") as file:
        at = int(part * (packed / "weights.trireme").stat().st_size)
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 8]))
    server = start_server(*options)
    before = one_file(server)
    streams = begin(server, on_old)
    said = refusal(server, packed)
    assert re.search(r'rank \d .*: .*weights\.trireme: at byte \d+: .* is damaged', said), said
    assert one_file(server) == before
    assert_answers(streams, on_old)
    assert server.metric("trireme_group_restarts_total") == 0
    end(server, surroundings)


def test_a_rank_killed_meanwhile_changes_nothing(start_server, surroundings, tmp_path, other_model,
                                                 packed, on_old):
    config = tmp_path / "deadlines.yaml"
    config.write_text("deadlines:\n  heartbeat_ms: 60000\n")
    server = start_server("--tp", 2, "--config", config)
    before = one_file(server)
    pids = server.rank_pids()
    kill(pids[1:], signal.SIGSTOP)
    client = start_push(server, packed)
    wait_until(lambda: len(mapped(server)[0]) == 2, READY_DEADLINE_S, "the other rank's part")
    streams = start_streams(server, [request for request, _ in on_old])
    wait_until(lambda: server.metric("vllm:num_requests_running") == len(streams),
               READY_DEADLINE_S, "requests that wait for the stopped rank")
    kill(pids[1:])
    output, errors = client.communicate(timeout=READY_DEADLINE_S)
    assert client.returncode == 1, output
    assert "replica 0 was lost meanwhile: " in refusal_in(errors)
    assert_answers(streams, on_old)
    assert one_file(server) == before
    assert server.metric("trireme_group_restarts_total") == 1
    pushed(server, other_model)
    end(server, surroundings)


def test_what_does_not_fit_is_refused_by_name(start_server, surroundings, tmp_path, other_model):
    server = start_server()
    assert "architecture is" in refusal(server, REPO / "tests" / "golden" / "qwen2")
    assert "hidden_size is" in refusal(server, REPO / "tests" / "golden" / "llama")
    assert "is already served" in refusal(server, "demo")
    assert "no such folder" in refusal(server, "nowhere")

    words = tmp_path / "words"
    shutil.copytree(other_model, words)
    tokenizer = words / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    assert "its tokenizer.json is not that of the model that is served" in refusal(server, words)

    int8 = tmp_path / "int8"
    assert run_command(surroundings, "pack", other_model, int8, "--format", "int8").returncode == 0
    assert "has int8/256 weights, the server bfloat16" in refusal(server, int8)

    assert server.metric("trireme_pushes_total") == 5
    assert "no server with the process id 1 of this user" in push(server, "demo", "--pid", 1).stderr
    assert push(server, other_model, "--pid", server.process.pid).returncode == 0
    assert server.stop() == 0
    assert "no server of this user listens in" in refusal(server, "demo")


def test_the_journal_knows_each_answers_weights(start_server, surroundings, tmp_path, other_model,
                                                on_old, on_new):
    path = "/v1/completions"
    journal = ("--journal", tmp_path / "journal")

    def bodies(answers):
        return [(path, {key: value for key, value in request.items() if key != "extra_body"}
                 | request["extra_body"] | {"model": MODEL}) for request, _ in answers[:2]]

    server = start_server(*journal)
    done = start_event_streams(server, [(path, {"prompt": "x", "max_tokens": 3})])
    join_streams(done)
    old = start_event_streams(server, bodies(on_old))
    wait_until_events(old)
    pushed(server, other_model)
    new = start_event_streams(server, bodies(on_new))
    wait_until_events(new)
    # One that has ended is read by the same text layer.
    assert get_answer(server.port, path, done[0].answer_id)[1].status == 200
    server.process.kill()
    server.process.wait()
    join_streams(old + new)
    again = start_server(*journal, port=server.port)
    def status_of(stream):
        connection, response = get_answer(again.port, path, stream.answer_id, streams=False)
        connection.close()
        return response.status

    wait_until(lambda: {status_of(stream) for stream in new} == {500}, READY_DEADLINE_S,
               "the end of what cannot go on")
    for stream in old + new:
        stream.go_on()
    join_streams(old + new)
    assert [stream.texts() for stream in old] == [[text] for _, text in on_old[:2]]
    for stream in new:
        assert "begun with other weights" in str(stream.failed)
    assert again.stop() == 0


def test_another_coordinator_goes_on_with_pushed_weights(start_server, surroundings, other_model,
                                                         on_old, on_new):
    server = start_server("--tp", 2)
    old_streams = begin(server, on_old)
    pushed(server, other_model)
    refused = run_command(surroundings, "upgrade")
    if refused.returncode != 0:  # else the streams had ended
        assert "requests still run on the weights before the last push" in refused.stderr
    assert_answers(old_streams, on_old)
    new = one_file(server)
    new_streams = begin(server, on_new)
    upgraded = run_command(surroundings, "upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    assert_answers(new_streams, on_new)
    kill(server.rank_pids()[1:])
    assert_answers(begin(server, on_new), on_new)
    assert one_file(server) == new
    pushed(server, REPO / "demo" / "model")
    assert_answers(begin(server, on_old), on_old)
    end(server, surroundings)
