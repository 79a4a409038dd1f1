"""The clients' side of a measurement, in a process of its own: one thread that waits for all
sockets. Reads a specification as JSON from standard input:

  port, model, vocab_size, seed
  clients: a list of {"first": template or null, "requests": [template, ...], "loop": bool}: each
    sends its templates in order, the next when one has ended; those of `requests` over and over if
    it loops
  begin: "first_token" (of every client) or "first_end": what is before is thrown away
  end: {"seconds": s}, {"requests_each": n} since the beginning, {"late": true}, or {"done": true}:
    no request is left, where no client loops
  late: null, or a template that one more client sends after_s behind the beginning; an end "late"
    is tail_s behind its first token
  keep_times: whether the moments of all tokens are told, or the first and the last only
  deadline_s: of the whole

A template is {"kind", "path", "body", "prompt_tokens", "prefix", "cancel"}: prompt_tokens random
ids (a number, or [least, most]) are put behind the ids of `prefix` as the body's prompt; a body's
max_tokens may be [least, most], too; `cancel` is the probability of hanging up in mid-answer.

Prints {"event": "begin"} and {"event": "end"} as lines of JSON at those moments, then the result:
{"event": "result", "begin", "end", "requests": [...]}; moments are of CLOCK_MONOTONIC.
"""

import json
import random
import selectors
import socket
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))

from event_stream import AnswerReader, Broken  # noqa: E402
from runner import random_ids  # noqa: E402

HOST = "127.0.0.1"
CONNECT_DEADLINE_S = 60
RECEIVE_BYTES = 1 << 16
TICK_S = 0.05  # how late an end by time may come


def chosen(value, dice):
    return dice.randint(*value) if isinstance(value, list) else value


def made(template, spec, dice):
    """(bytes to send, tokens that must come or None) of a template."""
    body = dict(template["body"], model=spec["model"], stream=True,
                stream_options={"include_usage": True})
    if template.get("prompt_tokens") is not None:
        more = random_ids(chosen(template["prompt_tokens"], dice), spec["vocab_size"], dice)
        body["prompt"] = template.get("prefix", []) + more
    body["max_tokens"] = chosen(body["max_tokens"], dice)
    wanted = body["max_tokens"] * body.get("n", 1) if body.get("ignore_eos") else None
    data = json.dumps(body).encode()
    head = (f"POST {template['path']} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n")
    return head.encode() + data, wanted


class Request:
    """One request from sending to the end of its answer."""

    def __init__(self, client, template, spec, dice):
        data, self.wanted = made(template, spec, dice)
        self.client, self.kind = client, template.get("kind", "")
        self.cut_after = None
        if dice.random() < template.get("cancel", 0):
            self.cut_after = dice.randint(0, 20)
        self.reader = AnswerReader()
        self.times, self.n_events, self.last = [], 0, b""
        self.keep_times = spec["keep_times"]
        self.end = self.usage = self.error = None
        self.cancelled = False
        self.socket = socket.create_connection((HOST, spec["port"]), CONNECT_DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.begin = time.monotonic()
        self.socket.sendall(data)
        self.socket.setblocking(False)

    def receive(self):
        """Takes what is there; true at the end of the answer."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            return self.close(str(error))
        now = time.monotonic()
        if not data:
            return self.close("the connection ended in mid-answer")
        try:
            for payload in self.reader.feed(data):
                self.take(payload, now)
        except (Broken, ValueError) as error:
            return self.close(str(error))
        if self.cut_after is not None and self.n_events > self.cut_after:
            self.cancelled = True
            return self.close(None)
        return self.reader.ended and self.close(self.verdict())

    def take(self, payload, now):
        if payload == b"[DONE]":
            return
        if b'"usage":{' in payload or payload.startswith(b'{"error"'):
            self.last = payload  # behind the last token
            return
        self.n_events += 1
        if self.keep_times or len(self.times) < 2:
            self.times.append(now)
        else:
            self.times[1] = now

    def verdict(self):
        """What is wrong with the whole answer, or None."""
        if self.reader.status != 200:
            return f"HTTP {self.reader.status}: {self.reader.body[:300].decode(errors='replace')}"
        told = json.loads(self.last) if self.last else {}
        if "usage" not in told:
            return f"no usage: {self.last[:300].decode(errors='replace')}"
        self.usage = told["usage"]
        n_tokens = self.usage["completion_tokens"]
        if self.wanted is not None and n_tokens != self.wanted:
            return f"{n_tokens} tokens where {self.wanted} were asked for"
        return None

    def close(self, error):
        self.end, self.error = time.monotonic(), error
        self.socket.close()
        return True

    def record(self):
        details = (self.usage or {}).get("prompt_tokens_details") or {}
        return {"client": self.client, "kind": self.kind, "begin": self.begin, "end": self.end,
                "times": self.times, "n_events": self.n_events, "cancelled": self.cancelled,
                "error": self.error, "tokens": (self.usage or {}).get("completion_tokens"),
                "cached_tokens": details.get("cached_tokens")}


class Load:
    def __init__(self, spec):
        self.spec = spec
        self.dice = random.Random(spec["seed"])
        self.selector = selectors.DefaultSelector()
        self.open, self.records = {}, []
        n_clients = len(spec["clients"])
        self.n_sent, self.n_ended = [0] * n_clients, [0] * n_clients
        self.n_measured = [0] * n_clients  # sent and ended since the beginning
        self.flowing = set()
        self.late = self.begin = self.failure = None

    def send(self, client, template):
        request = Request(client, template, self.spec, self.dice)
        self.selector.register(request.socket, selectors.EVENT_READ, request)
        self.open[client] = request
        return request

    def send_next(self, client):
        script = self.spec["clients"][client]
        templates, at = script["requests"], self.n_sent[client]
        if script["first"]:
            at -= 1
        if at < 0:
            self.send(client, script["first"])
        elif script["loop"] or at < len(templates):
            self.send(client, templates[at % len(templates)])
        self.n_sent[client] += 1

    def ended(self, request):
        """After the end of an answer."""
        self.failure = self.failure or request.error
        self.records.append(request.record())
        del self.open[request.client]
        if request is self.late:
            return
        self.n_ended[request.client] += 1
        self.n_measured[request.client] += self.begin is not None and request.begin >= self.begin
        self.send_next(request.client)

    def poll(self):
        for key, _ in self.selector.select(TICK_S):
            request = key.data
            if request.receive():
                self.selector.unregister(key.fd)  # closed meanwhile: its number is still known
                self.ended(request)
            if request.times:
                self.flowing.add(request.client)

    def has_begun(self):
        n_clients = len(self.n_sent)
        if self.spec["begin"] == "first_end":
            return min(self.n_ended) > 0
        return len(self.flowing) == n_clients

    def has_ended(self, now):
        end = self.spec["end"]
        if "seconds" in end:
            return now >= self.begin + end["seconds"]
        if "requests_each" in end:
            return min(self.n_measured) >= end["requests_each"]
        if "late" in end:
            return bool(self.late and self.late.times
                        and now >= self.late.times[0] + self.spec["late"]["tail_s"])
        return not self.open

    def run(self):
        deadline = time.monotonic() + self.spec["deadline_s"]
        late = self.spec.get("late")
        for client in range(len(self.n_sent)):
            self.send_next(client)
        while True:
            now = time.monotonic()
            if self.begin is None and self.has_begun():
                self.begin = now
                tell({"event": "begin"})
            if self.begin is not None and late and not self.late:
                if now >= self.begin + late["after_s"]:
                    self.late = self.send(len(self.n_sent), late)
            if self.begin is not None and self.has_ended(now):
                break
            if self.failure or now > deadline:
                raise SystemExit(self.failure or "not done within the deadline")
            self.poll()
        end = time.monotonic()
        tell({"event": "end"})
        for request in self.open.values():
            request.socket.close()
            self.records.append(request.record())
        return {"event": "result", "begin": self.begin, "end": end, "requests": self.records}


def tell(event):
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    tell(Load(json.load(sys.stdin)).run())
