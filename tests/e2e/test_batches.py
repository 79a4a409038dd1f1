"""/v1/files and /v1/batches by the real openai client; over kills of the server too."""

import json
import random
import signal
import time

import openai
import pytest
from requests_under_test import MODEL, PROMPT, make_client
from test_batch_command import BAD_LINES, batch_lines
from trireme_process import READY_DEADLINE_S, Server, http_get, wait_until

N_LINES = 160


def completions_only(n=N_LINES, max_tokens=40):
    lines = []
    for number in range(n):
        lines.append(json.dumps({
            "custom_id": f"line {number}", "method": "POST", "url": "/v1/completions",
            "body": {"model": MODEL, "prompt": f"Once upon a time, number {number}",
                     "max_tokens": 4 + number % max_tokens}}) + "\n")
        if number % 40 == 7:
            lines.append(BAD_LINES[43] + "\n")
    return "".join(lines).encode()


def upload(client, content):
    return client.files.create(file=("in.jsonl", content), purpose="batch")


def create(client, content, endpoint="/v1/completions"):
    return client.batches.create(input_file_id=upload(client, content).id, endpoint=endpoint,
                                 completion_window="24h", metadata={"job": "nightly"})


def wait_ended(client, batch_id):
    def ended():
        batch = client.batches.retrieve(batch_id)
        return batch if batch.status in ("completed", "failed", "expired", "cancelled") else None

    return wait_until(ended, READY_DEADLINE_S, "end of the batch")


def lines_of(client, file_id):
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def without_names(lines):
    """What two batches of one file have in common: all but ids and times."""
    for line in lines:
        line.pop("id")
        line["response"].pop("request_id")
        line["response"]["body"].pop("id", None)
        line["response"]["body"].pop("created", None)
    return lines


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "batches"


def test_the_client_has_a_batch_answered(start_server, folder):
    server = start_server("--batches", folder)
    client = make_client(server)
    content = completions_only()
    batch = create(client, content)
    assert batch.status == "validating" and batch.metadata == {"job": "nightly"}
    batch = wait_ended(client, batch.id)
    assert batch.status == "completed" and batch.completed_at >= batch.in_progress_at
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (N_LINES + 4, N_LINES, 4)
    answers = lines_of(client, batch.output_file_id)
    assert [line["custom_id"] for line in answers] == [f"line {i}" for i in range(N_LINES)]
    errors = lines_of(client, batch.error_file_id)
    assert [line["response"]["status_code"] for line in errors] == [400] * 4
    assert [b.id for b in client.batches.list()] == [batch.id]
    ids = [f.id for f in client.files.list()]
    assert ids == [batch.error_file_id, batch.output_file_id, batch.input_file_id]
    assert client.files.content(batch.input_file_id).content == content
    for file_id in ids:
        assert client.files.delete(file_id).deleted
    assert list(client.files.list()) == []
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(ids[0])
    chat = wait_ended(client, create(client, batch_lines(9).encode(), "/v1/chat/completions").id)
    assert (chat.request_counts.completed, chat.request_counts.failed) == (2, 7)
    # Between the clients, a batch of a wrong kind says what is wrong.
    with pytest.raises(openai.BadRequestError, match="completion_window"):
        client.batches.create(input_file_id="x", endpoint="/v1/completions",
                              completion_window="1h")


def test_killed_in_mid_batch_it_goes_on(surroundings, start_server, folder):
    content = completions_only()
    server = start_server("--batches", folder)
    client = make_client(server)
    undisturbed = wait_ended(client, create(client, content).id)
    expected = {name: without_names(lines_of(client, getattr(undisturbed, f"{name}_file_id")))
                for name in ("output", "error")}
    batch_id = create(client, content).id
    run = folder / "runs" / batch_id
    rng = random.Random(3)
    before = b""
    for _ in range(3):
        wait_until(lambda: run.exists() and run.stat().st_size > len(before), READY_DEADLINE_S,
                   "an answer")
        time.sleep(rng.uniform(0, 0.2))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        if not run.exists():  # it was quicker
            break
        now = run.read_bytes()
        assert now.startswith(before)  # nothing was computed again
        before = now[:now.rfind(b"\n") + 1]
        server = start_server("--batches", folder)
    assert before, "it was never killed in the middle"
    if server.process.poll() is not None:
        server = start_server("--batches", folder)
    client = make_client(server)
    batch = wait_ended(client, batch_id)
    assert batch.status == "completed"
    lines = {name: lines_of(client, getattr(batch, f"{name}_file_id"))
             for name in ("output", "error")}
    names = [line["id"] for name in lines for line in lines[name]]
    assert len(set(names)) == len(names) == N_LINES + 4
    whole = b"".join(client.files.content(getattr(batch, f"{name}_file_id")).content
                     for name in ("output", "error")).splitlines()
    assert set(before.splitlines()) <= set(whole)
    assert {name: without_names(lines[name]) for name in lines} == expected


def test_live_requests_are_not_held_up(start_server, folder):
    """With more batch lines than could ever be computed meanwhile, a live one is served at once."""
    server = start_server("--batches", folder, "--max-sequences", 4)
    client = make_client(server)
    batch = create(client, completions_only(3000, max_tokens=200))
    wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed > 0,
               READY_DEADLINE_S, "an answer")
    for _ in range(4):
        client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8)
    assert client.batches.retrieve(batch.id).status == "in_progress"
    client.batches.cancel(batch.id)
    batch = wait_ended(client, batch.id)
    assert batch.status == "cancelled"
    assert len(lines_of(client, batch.output_file_id)) == batch.request_counts.completed > 0


def test_a_long_upload_takes_little_memory(start_server, folder):
    server = start_server("--batches", folder)
    client = make_client(server)
    content = b"x" * (200 << 20)
    server.reset_peak()
    before = server.resident_bytes()
    file = upload(client, content)
    assert file.bytes == len(content)
    assert client.files.content(file.id).content == content
    assert server.peak_resident_bytes() - before < 40 << 20


def test_an_upgrade_goes_on_with_the_batch(surroundings, start_server, folder):
    from trireme_process import run_command
    server = start_server("--batches", folder)
    client = make_client(server)
    batch = create(client, completions_only(600))
    wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed > 0,
               READY_DEADLINE_S, "an answer")
    result = run_command(surroundings, "upgrade", "--pid", server.process.pid)
    assert result.returncode == 0, result.stderr
    batch = wait_ended(client, batch.id)
    assert batch.status == "completed"
    assert batch.request_counts.total == 600 + 15
    assert len(lines_of(client, batch.output_file_id)) == 600


def test_without_a_folder_it_says_so(server):
    client = make_client(server)
    with pytest.raises(openai.NotFoundError, match="--batches FOLDER"):
        client.batches.list()
    status, text = http_get(server.url + "/openapi.yaml")
    assert status == 200 and "/v1/batches" in text
