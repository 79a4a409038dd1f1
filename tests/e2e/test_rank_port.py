"""Strangers on the port of the ranks: whatever they send, nobody else notices."""

import contextlib
import socket
import struct

import pytest
from abuse import MIB, SECRET, make_server, memory_bounded, running, streams_undisturbed
from raw_http import read_to_end
from requests_under_test import long_requests
from trireme_process import run_command


def frame(payload, size=None):
    return struct.pack("<I", len(payload) if size is None else size) + payload


def hello_frame(secret, epoch=1, rank=0, world=2, build=None):
    def field(number, value):
        if isinstance(value, int):
            return bytes([number << 3, value])
        return bytes([number << 3 | 2, len(value)]) + value

    hello = b"".join(field(number, value) for number, value in (
        (1, secret.encode()), (2, epoch), (3, rank), (4, world), (5, 1), (6, b"h"),
        (7, (build or "").encode())))
    return frame(b"\x0a" + bytes([len(hello)]) + hello)


def visit_rank_port(server, data):
    with socket.create_connection(("127.0.0.1", server.control_port), 10) as stranger:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stranger.sendall(data)
        return read_to_end(stranger)


def strange_frames(build):
    return (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 100_000,
        frame(b"garbage!"),
        frame(b"", size=2**32 - 1),
        frame(b"x" * 5000),                       # longer than any hello
        frame(b"\x0a\xff\xff\xff\xff\x7f"),       # a field longer than its frame
        frame(b"\x32\x00"),                       # a plan
        frame(b"\x3a\x04\x08\x01\x10\x01"),       # a result
        hello_frame("", build=build),
        hello_frame("wrong", build=build),
        hello_frame(SECRET[:-1], build=build),
        hello_frame(SECRET, epoch=0, build=build),
        hello_frame(SECRET, epoch=9, build=build),
        hello_frame(SECRET, rank=7, build=build),
        hello_frame(SECRET, world=3, build=build),
        hello_frame(SECRET, build="0.0.0"),
        hello_frame(SECRET, rank=0, build=build),  # of this launch, and connected already
        hello_frame(SECRET, rank=1, build=build),
    )


def attack_rank_port(server, wanted):
    build = run_command(server.surroundings, "--version").stdout.strip()
    with streams_undisturbed(server, wanted), memory_bounded(server, 32 * MIB):
        answers = [visit_rank_port(server, data) for data in strange_frames(build)]
        crowd = [socket.create_connection(("127.0.0.1", server.control_port)) for _ in range(200)]
        for stranger in crowd:
            stranger.close()
    return answers


@pytest.fixture(scope="module")
def undisturbed(server):
    return long_requests(server)


@pytest.mark.parametrize("tls", ("off", "on"))
def test_strangers_on_the_rank_port(cache_folder, undisturbed, tls):
    with running(make_server(cache_folder, "--control-tls", tls)) as server:
        answers = attack_rank_port(server, undisturbed)
        if tls == "off":
            assert b"TRIREME_SECRET" in answers[9]
            assert b"already connected" in answers[-1]
            assert not any(answers[:8]), "an answer to what is no hello"
        else:
            # An alert at most: in clear the right secret opens no door either.
            assert max(len(answer) for answer in answers) < 16
        assert "lost" not in server.output()
