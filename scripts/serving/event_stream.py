"""What a server streams: an HTTP answer in chunks, with server-sent events in it. No sockets."""

MAX_HEAD_BYTES = 1 << 16


class Broken(Exception):
    """Bytes that are no such answer."""


class AnswerReader:
    """Is fed with an answer's bytes as they come, cut anywhere."""

    def __init__(self):
        self.status = None  # once the head is there
        self.ended = False
        self.body = b""  # of an answer that is no stream: an error's text
        self.buffer = b""  # not looked at yet
        self.n_left = 0  # of the present chunk, with the line end behind it
        self.in_chunks = False
        self.events = b""  # the beginning of an event that has not ended

    def feed(self, data):
        """The payloads of the events that these bytes complete."""
        self.buffer += data
        if self.status is None and not self.read_head():
            return []
        if not self.in_chunks:
            self.body += self.buffer
            self.buffer = b""
            self.ended = len(self.body) >= self.n_left
            return []
        parts = (self.events + self.take_chunks()).split(b"\n\n")
        self.events = parts.pop()
        if self.status != 200:
            self.body += b"\n\n".join(parts) + self.events
            self.events = b""
            return []
        return [payload for payload in map(payload_of, parts) if payload is not None]

    def read_head(self):
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > MAX_HEAD_BYTES:
                raise Broken("an answer without an end of its head")
            return False
        lines = self.buffer[:end].decode("latin-1").split("\r\n")
        self.buffer = self.buffer[end + 4:]
        fields = {name.strip().lower(): value.strip()
                  for name, _, value in (line.partition(":") for line in lines[1:])}
        words = lines[0].split(" ")
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise Broken(f"no HTTP answer: {lines[0][:80]}")
        self.status = int(words[1])
        self.in_chunks = fields.get("transfer-encoding", "").lower() == "chunked"
        if not self.in_chunks:
            self.n_left = int(fields.get("content-length", 0))
        return True

    def take_chunks(self):
        """The content of what is in the buffer, which keeps what cannot be told yet."""
        taken, at, buffer = [], 0, self.buffer
        while not self.ended:
            if self.n_left == 0:
                line_end = buffer.find(b"\r\n", at)
                if line_end < 0:
                    break
                size = int(buffer[at:line_end].split(b";")[0], 16)
                at = line_end + 2
                self.ended = size == 0
                self.n_left = size + 2
                continue
            part = buffer[at:at + self.n_left]
            at += len(part)
            # The last two bytes of a chunk are its line end.
            content = part[:max(0, self.n_left - 2)]
            taken.append(content)
            self.n_left -= len(part)
            if self.n_left > 0:
                break
        self.buffer = buffer[at:]
        return b"".join(taken)


def payload_of(event):
    """What is behind `data: `; None for an event without (a comment that keeps a connection)."""
    at = event.find(b"data: ")
    return event[at + 6:] if at >= 0 else None
