"""HTTP by hand, for clients that no library would be."""

import json
import socket

READ_DEADLINE_S = 60


def dial(server, receive_buffer_bytes=None):
    client = socket.socket()
    if receive_buffer_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    client.settimeout(READ_DEADLINE_S)
    client.connect(("127.0.0.1", server.port))
    return client


def read_to_end(client):
    """Everything until the server ends the connection."""
    parts = []
    while True:
        try:
            part = client.recv(1 << 16)
        except ConnectionResetError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def send_while_taken(client, pieces):
    """Bytes that went out before the server ended the connection."""
    n_sent = 0
    try:
        for piece in pieces:
            client.sendall(piece)
            n_sent += len(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return n_sent


def exchange(server, data):
    """What a server says to some bytes, to the end of the connection."""
    with dial(server) as client:
        client.sendall(data)
        return read_to_end(client)


def status_of(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


def post_head(path="/v1/completions", *fields):
    lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def post(path, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return post_head(path, f"Content-Length: {len(data)}", "Connection: close") + data
