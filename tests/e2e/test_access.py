"""API keys, TLS, and what the logs hold."""

import contextlib
import json
import os
import re
import signal
import ssl
import subprocess

import openai
import pytest
from raw_http import dial, read_to_end, send_while_taken
from requests_under_test import MODEL, PROMPT, Stream, start_streams, wait_until_flowing
from trireme_process import (READY_DEADLINE_S, free_port, http_get, http_post, run_command,
                             wait_until)

KEY, OTHER_KEY = "the-key-of-alice-1", "the-key-of-bob-22"
REQUEST = dict(model=MODEL, prompt=PROMPT, max_tokens=12, temperature=0)
MARKER = "xyzzy-plugh-marker"


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# two clients\nalice:{KEY}\nbob:{OTHER_KEY}\n")
    path.chmod(0o600)
    return path


def make_certificate(folder, name="server"):
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True)
    key.chmod(0o600)
    return certificate, key


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """(certificate, key) that every client of this test trusts."""
    made = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made[0]))
    return made


def client_with(server, key):
    return openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0, timeout=60)


def test_api_keys(start_server, surroundings, key_file):
    surroundings.environment["TRIREME_API_KEY"] = "the-key-of-the-environment"
    server = start_server("--api-keys", key_file, "--protect-metrics")
    for key in (KEY, OTHER_KEY, "the-key-of-the-environment"):
        answer = client_with(server, key).completions.create(**REQUEST)
        assert answer.usage.completion_tokens == 12
    for key in ("none", KEY[:-1], KEY + "x", "alice"):
        with pytest.raises(openai.AuthenticationError) as failure:
            client_with(server, key).completions.create(**REQUEST)
        assert failure.value.body["code"] == "invalid_api_key"
        assert "Bearer" in failure.value.response.headers["www-authenticate"]
    assert http_get(server.url + "/v1/models")[0] == 401
    assert http_get(server.url + "/metrics")[0] == 401
    for path in ("/health", "/ready", "/ping", "/version"):
        assert http_get(server.url + path)[0] == 200
    for rank in server.rank_pids():
        with open(f"/proc/{rank}/environ", "rb") as environment:
            assert b"TRIREME_API_KEY" not in environment.read()
    output = server.output()
    assert not any(key in output for key in (KEY, OTHER_KEY, "the-key-of-the-environment"))


def test_an_answer_is_of_its_key(start_server, key_file, tmp_path):
    options = ("--api-keys", key_file, "--journal", tmp_path / "journal")
    server = start_server(*options)
    stream = client_with(server, KEY).completions.create(**REQUEST, stream=True)
    answer_id = [chunk.id for chunk in stream][0]

    def status_for(key):
        try:
            client_with(server, key).get(f"/completions/{answer_id}", cast_to=object)
            return 200
        except openai.APIStatusError as failure:
            return failure.status_code

    for _ in range(2):
        assert [status_for(key) for key in ("none", OTHER_KEY, KEY)] == [401, 404, 200]
        assert server.stop() == 0
        server = start_server(*options)


def test_clients_that_do_not_shake_hands_are_cut(start_server, certificate):
    server = start_server("--tls-cert", certificate[0], "--tls-key", certificate[1],
                          "--request-timeout-ms", 1000, scheme="https")
    hello = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    client_side = context.wrap_bio(ssl.MemoryBIO(), hello)
    with pytest.raises(ssl.SSLWantReadError):
        client_side.do_handshake()
    client_hello = hello.read()
    beginnings = (b"", b"GET / HTTP/1.1\r\n\r\n", client_hello[:50], client_hello,
                  client_hello + b"\0" * 20000, b"\x16\x03\x01\xff\xff" + b"x" * 70000)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(server)) for _ in beginnings for _ in range(20)]
        for client, beginning in zip(clients, beginnings * 20):
            send_while_taken(client, (beginning,))
        assert http_get(server.url + "/ready")[0] == 200
        for client in clients:
            read_to_end(client)
    assert http_post(server.url + "/v1/completions", REQUEST)[0] == 200


def test_keys_and_certificate_are_read_again_on_sighup(start_server, certificate, key_file,
                                                       tmp_path):
    server = start_server("--tls-cert", certificate[0], "--tls-key", certificate[1],
                          "--api-keys", key_file, scheme="https")
    client_with(server, KEY).models.list()
    new_certificate, new_key = make_certificate(tmp_path, "new")
    new_certificate.replace(certificate[0])
    new_key.replace(certificate[1])
    key_file.write_text("carol:the-key-of-carol-3\n")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "again" in server.output(), 30, "the line that says so")
    # SSL_CERT_FILE now holds the new certificate, which is the only one that the client trusts.
    client_with(server, "the-key-of-carol-3").models.list()
    with pytest.raises(openai.AuthenticationError):
        client_with(server, KEY).models.list()
    key_file.write_text("carol\n")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "stay as they were" in server.output(), 30, "the line that says why not")
    client_with(server, "the-key-of-carol-3").models.list()
    assert server.stop() == 0


def test_key_file_that_others_can_read_is_refused(surroundings, key_file):
    key_file.chmod(0o644)
    result = run_command(surroundings, "serve", "demo", "--port", free_port(), "--api-keys",
                         key_file)
    assert result.returncode == 1 and result.stdout == ""
    assert re.fullmatch(rf"trireme: --api-keys {key_file}: .*chmod o= .*\n", result.stderr)


def test_tls(start_server, certificate, key_file):
    server = start_server("--tls-cert", certificate[0], "--tls-key", certificate[1],
                          "--api-keys", key_file, scheme="https")
    client = client_with(server, KEY)
    whole = client.completions.create(**REQUEST).choices[0].text
    chunks = client.completions.create(**REQUEST, stream=True)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole
    # Large both ways, so that records are cut and joined.
    status, answer = http_post(server.url + "/v1/completions", dict(prompt="x" * 3_000_000))
    assert status == 401, answer
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=MODEL, prompt="x" * 3_000_000)
    with pytest.raises(ConnectionError):  # in clear
        http_get(server.url.replace("https", "http") + "/health")
    wait_until(lambda: "serving  https://" in server.output(), 10, "the line that says https")
    assert server.stop() == 0


@pytest.mark.parametrize("case", ("missing", "not-pem", "other-key", "readable", "one-only"))
def test_bad_tls_files_are_one_line(surroundings, tmp_path, case):
    certificate, key = make_certificate(tmp_path)
    if case == "missing":
        certificate.unlink()
    elif case == "not-pem":
        certificate.write_text("no certificate")
    elif case == "other-key":
        key = make_certificate(tmp_path, "other")[1]
    elif case == "readable":
        key.chmod(0o644)
    options = ("--tls-cert", certificate) if case == "one-only" else (
        "--tls-cert", certificate, "--tls-key", key)
    result = run_command(surroundings, "serve", "demo", "--port", free_port(), *options)
    assert result.returncode == 1 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and "--tls-" in result.stderr, result.stderr


def test_an_open_address_is_warned_of(start_server, key_file):
    server = start_server("--host", "0.0.0.0")
    assert re.search(r"warning: other machines can reach 0\.0\.0\.0.*--api-keys", server.output())


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_ranks_over_tls_give_the_same_bytes_and_recover(start_server, launcher):
    server = start_server("--tp", 2, "--pp", 2, "--launcher", launcher, "--control-tls", "on")
    request = dict(prompt=PROMPT, max_tokens=400, temperature=1.0, seed=5,
                   extra_body={"ignore_eos": True})
    undisturbed = Stream(server, request)
    undisturbed.run()
    assert undisturbed.error is None
    ranks = [words for words in server.surroundings.trireme_processes().values()
             if words[1:2] == ["worker"]]
    assert len(ranks) == 4
    assert all(any(word.startswith("tls://") for word in words) for words in ranks)
    streams = start_streams(server, [request])
    wait_until_flowing(streams)
    os.kill(server.rank_pids()[0], signal.SIGKILL)
    streams[0].join(120)
    assert streams[0].error is None and streams[0].text() == undisturbed.text()
    wait_until(server.is_ready, READY_DEADLINE_S, "ready again")
    assert server.stop() == 0


def test_logs_hold_nothing_of_requests(start_server, surroundings):
    """Whatever becomes of them: answered, refused, malformed, cut, replayed."""
    server = start_server("--tp", 2)
    url = server.url
    http_post(url + "/v1/completions", REQUEST | dict(prompt=MARKER))
    http_post(url + "/v1/completions", REQUEST | dict(prompt=MARKER * 5000))
    http_post(url + "/v1/completions", REQUEST | {MARKER: 1, "n": MARKER})
    http_post(url + "/v1/completions", b'{"prompt": "' + MARKER.encode() + b'\xff"')
    http_post(url + "/v1/chat/completions", dict(
        messages=[{"role": MARKER, "content": MARKER}], max_tokens=4))
    http_get(url + f"/v1/{MARKER}?{MARKER}")
    streams = start_streams(server, [dict(prompt=MARKER, max_tokens=900,
                                          extra_body={"ignore_eos": True})])
    wait_until_flowing(streams)
    os.kill(server.rank_pids()[0], signal.SIGKILL)
    streams[0].join(120)
    assert streams[0].error is None
    wait_until(server.is_ready, READY_DEADLINE_S, "ready again")
    assert server.stop() == 0
    assert MARKER not in server.output() and "fox" not in server.output()


def test_requests_are_logged_when_asked_for(start_server, key_file):
    server = start_server("--log-requests", "--api-keys", key_file)
    client_with(server, OTHER_KEY).completions.create(**REQUEST | dict(prompt=MARKER + "\n"))
    lines = [line for line in server.output().splitlines() if MARKER in line]
    assert len(lines) == 1
    assert lines[0].startswith("request  bob POST /v1/completions {")
    body = json.loads(lines[0][lines[0].index("{"):])
    assert body["prompt"] == MARKER + "\n" and OTHER_KEY not in server.output()
