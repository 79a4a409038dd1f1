"""`trireme batch`: the same bytes whoever computes them, and however often it is killed."""

import json
import os
import random
import signal
import subprocess
import time

import pytest
from requests_under_test import MODEL
from trireme_process import BINARY, COMMAND_DEADLINE_S, run_command, status_bytes, wait_until

N_LINES = 240
BAD_LINES = {
    5: "no JSON",
    6: '{"custom_id": 7}',
    40: '{"custom_id": "get", "method": "GET", "url": "/v1/completions", "body": {}}',
    41: '{"custom_id": "url", "method": "POST", "url": "/v1/embeddings", "body": {}}',
    42: '{"custom_id": "body", "method": "POST", "url": "/v1/completions"}',
    43: '{"custom_id": "prompt", "method": "POST", "url": "/v1/completions", "body": {}}',
    44: '{"custom_id": "stream", "method": "POST", "url": "/v1/completions",'
        ' "body": {"prompt": "a", "stream": true}}',
    45: '{"custom_id": "long", "method": "POST", "url": "/v1/completions",'
        ' "body": {"prompt": "a", "max_tokens": 1000000}}',
    46: '{"custom_id": "model", "method": "POST", "url": "/v1/completions",'
        ' "body": {"model": "other", "prompt": "a"}}',
}


def line_of(number):
    if number in BAD_LINES:
        return BAD_LINES[number]
    if number % 3 == 0:
        text = f"Number {number}, please: \u4f60\u597d \U0001f6a3"
        url, body = "/v1/chat/completions", {
            "messages": [{"role": "user", "content": text}], "max_tokens": 4 + number % 40}
    else:
        url, body = "/v1/completions", {
            "prompt": f"Once upon a time, number {number}", "max_tokens": 4 + number % 60,
            "n": 1 + number % 2, "logprobs": number % 3}
    return json.dumps({"custom_id": f'line "{number}"', "method": "POST", "url": url,
                       "body": body | {"model": MODEL}})


def batch_lines(n=N_LINES):
    return "".join(line_of(number) + ("\n\n" if number % 50 == 0 else "\n") for number in range(n))


@pytest.fixture
def input_file(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(batch_lines(), encoding="utf-8")
    return path


def answer(surroundings, *arguments):
    result = run_command(surroundings, "batch", *arguments)
    assert result.returncode == 0, result.stderr
    return result


def test_every_line_is_answered_in_order(surroundings, input_file, tmp_path):
    out = tmp_path / "out.jsonl"
    answer(surroundings, MODEL, input_file, out)
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(answers) == N_LINES
    for number, got in enumerate(answers):
        response = got["response"]
        assert got["error"] is None and got["id"] == response["request_id"]
        if number not in BAD_LINES:
            assert got["custom_id"] == f'line "{number}"'
            assert response["status_code"] == 200, got
            assert response["body"]["choices"][0]["finish_reason"] in ("stop", "length")
            continue
        assert response["status_code"] == (404 if number == 46 else 400), got
        assert response["body"]["error"]["message"]
    assert [answers[number]["custom_id"] for number in sorted(BAD_LINES)] == [
        None, None, "get", "url", "body", "prompt", "stream", "long", "model"]
    assert len({got["id"] for got in answers}) == N_LINES


def test_any_layout_gives_the_same_bytes(surroundings, input_file, tmp_path):
    out = [tmp_path / f"{i}.jsonl" for i in range(3)]
    answer(surroundings, MODEL, input_file, out[0])
    answer(surroundings, MODEL, input_file, out[1], "--replicas", 2, "--max-sequences", 3)
    answer(surroundings, MODEL, input_file, out[2], "--tp", 2)
    assert out[0].read_bytes() == out[1].read_bytes() == out[2].read_bytes()


def test_killed_at_any_time_it_goes_on(surroundings, input_file, tmp_path):
    undisturbed, out = tmp_path / "undisturbed.jsonl", tmp_path / "out.jsonl"
    answer(surroundings, MODEL, input_file, undisturbed)
    expected = undisturbed.read_bytes()
    rng = random.Random(6)
    command = [str(BINARY), "batch", MODEL, str(input_file), str(out), "--max-sequences", "2"]
    n_kills = 0
    grown = []
    while True:
        process = subprocess.Popen(command, env=surroundings.environment,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        before = out.stat().st_size if out.exists() else 0
        # Not before it has answered something, so that this ends.
        wait_until(lambda: process.poll() is not None or
                   (out.exists() and out.stat().st_size > before), COMMAND_DEADLINE_S, "an answer")
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        n_kills += 1
        assert expected.startswith(out.read_bytes())
        grown.append(out.stat().st_size)
        if n_kills % 2:  # as a kill in the middle of a write leaves it
            with out.open("ab") as file:
                file.write(expected[grown[-1]:grown[-1] + rng.randrange(1, 300)])
                file.truncate(max(grown[-1], out.stat().st_size))
    assert out.read_bytes() == expected
    assert n_kills >= 2, "it was too quick to be killed"
    surroundings.assert_nothing_left()


def test_refuses_what_it_did_not_write(surroundings, input_file, tmp_path):
    out = tmp_path / "out.jsonl"
    short = tmp_path / "short.jsonl"
    short.write_text(batch_lines(4), encoding="utf-8")
    answer(surroundings, MODEL, short, out)
    theirs = out.read_bytes()
    for name, arguments in {
            "another input": (MODEL, input_file, out),
            "another option": (MODEL, short, out, "--context-length", 512),
            "another type": (MODEL, short, out, "--dtype", "int8"),
            "another name": (MODEL, short, out, "--served-model-name", "x"),
    }.items():
        result = run_command(surroundings, "batch", *arguments)
        assert result.returncode == 1, name
        assert "is no answer of this batch" in result.stderr, name
        assert out.read_bytes() == theirs, name
    out.write_text("a diary, without an end")
    assert run_command(surroundings, "batch", MODEL, short, out).returncode == 1
    assert out.read_text() == "a diary, without an end"
    missing = run_command(surroundings, "batch", MODEL, tmp_path / "none.jsonl", out)
    assert missing.returncode == 1 and "none.jsonl" in missing.stderr


def test_the_whole_batch_again_changes_nothing(surroundings, input_file, tmp_path):
    out = tmp_path / "out.jsonl"
    answer(surroundings, MODEL, input_file, out)
    before = out.read_bytes()
    assert f"has the answers to {N_LINES} lines" in answer(
        surroundings, MODEL, input_file, out).stderr
    assert out.read_bytes() == before


def test_many_lines_take_little_memory(surroundings, tmp_path):
    """Far more lines than are held at once: here, of those that are refused."""
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    with path.open("w") as file:
        for number in range(200_000):
            file.write(f'{{"custom_id": "{number}", "method": "POST", "url": "/v1/completions", '
                       f'"body": {{"prompt": "a", "max_tokens": -1, "user": "{"x" * 400}"}}}}\n')
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen([str(BINARY), "batch", MODEL, str(path), str(out)],
                                   env=surroundings.environment, stderr=file)
    peak = 0
    while process.poll() is None:
        peak = max(peak, status_bytes(process.pid, "VmHWM"))
        time.sleep(0.02)
    assert process.returncode == 0, log.read_text()
    with out.open() as file:
        assert sum(1 for _ in file) == 200_000
    assert 0 < peak < 300 << 20, peak
