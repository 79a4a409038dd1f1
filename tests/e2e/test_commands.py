"""The commands that look inside and the one that talks on a terminal."""

import json
import os
import pty
import subprocess

import pytest
from trireme_process import (
    BINARY, COMMAND_DEADLINE_S, REPO, free_port, http_get, run_command, wait_until)

LLAMA = REPO / "tests" / "golden" / "llama"


@pytest.mark.parametrize("other", ("2x1", "1x2", "2x2", "3x3"))
def test_diff_finds_no_difference(surroundings, other):
    result = run_command(surroundings, "diff", "demo", "--a", "1x1", "--b", other)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("no difference"), result.stdout
    surroundings.assert_nothing_left()


def test_diff_over_mpirun(surroundings):
    result = run_command(surroundings, "diff", LLAMA, "--b", "2x2", "--launcher", "mpirun")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("no difference"), result.stdout


@pytest.mark.parametrize("other, operator", (
    ("2x2:float32", "query"),                # bfloat16 weights are exact in float32: what differs
    ("1x1:bfloat16:portable", "query"),      # is the rounding of a product's input, and its sum
))
def test_diff_names_what_differs(surroundings, other, operator):
    result = run_command(surroundings, "diff", "demo", "--a", "1x1", "--b", other)
    assert result.returncode == 1, result.stderr
    assert f"step 1, layer 0, operator {operator}, unit 0, rank 0 of {other}" in result.stdout


def test_inspect(surroundings):
    result = run_command(surroundings, "inspect", "demo", "--tp", 2, "--pp", 3)
    assert result.returncode == 0, result.stderr
    for text in ("LlamaForCausalLM", "5770496", "attention 8, MLP 16", "largest --tp      8"):
        assert text in result.stdout
    report = json.loads(
        run_command(surroundings, "inspect", "demo", "--tp", 2, "--pp", 3, "--json").stdout)
    assert len(report["plan"]["ranks"]) == 6
    too_many = run_command(surroundings, "inspect", "demo", "--tp", 9)
    assert too_many.returncode == 1
    assert "--tp 1 to 8" in too_many.stderr


def test_run_completes_a_prompt_the_same_on_every_layout(surroundings):
    texts = set()
    for options in ((), ("--tp", 2, "--pp", 2), ("--tp", 2, "--launcher", "mpirun")):
        result = run_command(surroundings, "run", "demo", "-p", "Once upon a time",
                             "--max-tokens", 40, "--seed", 7, *options)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("Once upon a time")
        assert "40 out" in result.stderr
        texts.add(result.stdout)
    assert len(texts) == 1


def test_run_reads_a_prompt_from_standard_input(surroundings):
    result = run_command(surroundings, "run", "demo", "--max-tokens", 5, "--temperature", 0,
                         stdin="Once upon a time")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > len("Once upon a time\n")


def test_run_chats_on_a_terminal(surroundings):
    terminal, end = pty.openpty()
    port = free_port()
    process = subprocess.Popen(
        [str(BINARY), "run", "demo", "--max-tokens", "30", "--seed", "1", "--port", str(port)],
        env=surroundings.environment, stdin=end, stdout=end, stderr=end, start_new_session=True)
    os.close(end)
    shown = b""

    def shows(text):
        nonlocal shown
        shown += os.read(terminal, 4096)
        return text in shown

    wait_until(lambda: shows(b"\n> "), COMMAND_DEADLINE_S, "a prompt for the first message")
    os.write(terminal, b"Tell me a tale about a fox.\n")
    wait_until(lambda: shows(b"tokens/s"), COMMAND_DEADLINE_S, "an answer")
    status, body = http_get(f"http://127.0.0.1:{port}/v1/models")  # served meanwhile
    assert status == 200 and "demo" in body
    os.write(terminal, b"\n")  # an empty line ends
    assert process.wait(timeout=COMMAND_DEADLINE_S) == 0
    os.close(terminal)
    assert b"30 out" in shown or b" out," in shown
    surroundings.assert_nothing_left()
