#!/usr/bin/env python3
"""Stands in for the trireme binary: `stub_server.py serve ... --port P`. $STUB_MODE picks what goes
wrong: nothing (""), "dies" at start, "cuts" the stream, or "fails" at the end."""

import http.server
import json
import os
import signal
import sys
import threading

MODE = os.environ.get("STUB_MODE", "")
N_WORDS = 5


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        for i in range(N_WORDS):
            if MODE == "cuts" and i == 2:
                return
            self.event({"choices": [{"text": f" word{i}"}]})
        self.event({"choices": [], "usage": {"completion_tokens": N_WORDS}})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value):
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())


def main():
    if MODE == "dies":
        sys.exit("error: the port is taken; choose another with --port")
    port = int(sys.argv[sys.argv.index("--port") + 1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    stop = threading.Thread(target=server.shutdown)
    signal.signal(signal.SIGTERM, lambda *_: stop.start())
    server.serve_forever()
    sys.exit(9 if MODE == "fails" else 0)


main()
