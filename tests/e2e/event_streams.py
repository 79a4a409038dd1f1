"""Streams read event by event, with their ids, as a client does that means to come back."""

import http.client
import json
import socket
import threading
import time

from requests_under_test import STREAM_DEADLINE_S

RECONNECT_DEADLINE_S = 120


class EventStream:
    """One streamed answer, read in a thread. After the connection's end, however it came, go_on()
    asks for what is behind the last event."""

    def __init__(self, server, path, body):
        self.port = server.port
        self.path = path
        self.body = body
        self.events = []  # (id, data)
        self.answer_id = None
        self.done = False
        self.failed = None
        self.connection = None
        self.thread = None
        self.n_before = 0  # events that came before the present connection

    def start(self):
        self.start_thread(self.post)

    def go_on(self):
        self.start_thread(self.get_rest)

    def start_thread(self, target):
        self.n_before = len(self.events)
        self.thread = threading.Thread(target=target, daemon=True)
        self.thread.start()

    def is_alive(self):
        return self.thread.is_alive()

    def post(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port,
                                                     timeout=STREAM_DEADLINE_S)
        self.connection.request("POST", self.path, json.dumps(self.body | {"stream": True}),
                                {"Content-Type": "application/json"})
        self.read(self.connection.getresponse())

    def get_rest(self):
        self.connection, response = get_answer(self.port, self.path, self.answer_id,
                                               self.events[-1][0])
        self.read(response)

    def read(self, response):
        if response.status != 200:
            self.failed = (response.status, response.read().decode())
            return
        event_id, data = None, None
        try:
            for raw in response:
                if not raw.endswith(b"\n"):
                    return  # cut inside a line
                line = raw.decode().rstrip("\n")
                if line.startswith("id: "):
                    event_id = line[4:]
                elif line.startswith("data: "):
                    data = line[6:]
                elif line == "" and data is not None:
                    self.take(event_id, data)
                    event_id, data = None, None
        except (OSError, http.client.HTTPException):
            pass  # the connection was cut
        finally:
            self.connection.close()

    def take(self, event_id, data):
        if data == "[DONE]":
            self.done = True
            return
        parsed = json.loads(data)
        if "error" in parsed:
            self.failed = (200, data)
            return
        self.answer_id = parsed["id"]
        self.events.append((event_id, parsed))

    def cut(self):
        """Loses the connection, as a client whose network fails."""
        self.connection.sock.shutdown(socket.SHUT_RDWR)

    def choices(self):
        """{choice: [every part of it]}."""
        parts = {}
        for _, event in self.events:
            for choice in event["choices"]:
                parts.setdefault(choice["index"], []).append(choice)
        return parts

    def texts(self):
        return ["".join(part["delta"].get("content", "") if "delta" in part else part["text"]
                        for part in parts)
                for _, parts in sorted(self.choices().items())]

    def usage(self):
        return [event["usage"] for _, event in self.events if event.get("usage")]


def get_answer(port, path, answer_id, last_event_id=None, streams=True):
    """(connection, response) of GET; waits for a server that is being started."""
    headers = {"Accept": "text/event-stream"} if streams else {}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    end = time.monotonic() + RECONNECT_DEADLINE_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STREAM_DEADLINE_S)
        try:
            connection.request("GET", f"{path}/{answer_id}", headers=headers)
            return connection, connection.getresponse()
        except ConnectionError:
            assert time.monotonic() < end, "nobody listens"
            time.sleep(0.01)


def start_event_streams(server, requests):
    streams = [EventStream(server, path, body) for path, body in requests]
    for stream in streams:
        stream.start()
    return streams


def wait_until_events(streams, n_events=8):
    """Until each connection brought so many events; all of them must be running then."""
    end = time.monotonic() + STREAM_DEADLINE_S
    while any(len(s.events) < s.n_before + n_events and s.is_alive() for s in streams):
        assert time.monotonic() < end, "the streams bring nothing"
        time.sleep(0.001)
    assert all(s.is_alive() and not s.done for s in streams), [s.failed for s in streams]


def join_streams(streams):
    for stream in streams:
        stream.thread.join(STREAM_DEADLINE_S)
        assert not stream.is_alive(), "a stream hangs"
