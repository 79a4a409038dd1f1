"""Starts the demo model on four ranks, streams a tale, stops it. Called by scripts/demo."""

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

PROMPT = "Once upon a time there was a fox who"
MAX_TOKENS = 200
DEFAULT_PORT = 8080
READY_DEADLINE_S = 120
READ_TIMEOUT_S = 60
STOP_DEADLINE_S = 30


class DemoFailed(Exception):
    """What went wrong, for the user."""


class Server:
    """`trireme serve demo` in a process group of its own; its output is shown until hush()."""

    def __init__(self, binary, port):
        self.port = port
        command = [binary, "serve", "demo", "--tp", "2", "--pp", "2", "--launcher", "mpirun",
                   "--port", str(port)]
        print("$ " + " ".join(command), flush=True)
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True)
        self.shown = True
        self.unseen = []
        self.pump = threading.Thread(target=self._copy_output, daemon=True)
        self.pump.start()

    def _copy_output(self):
        for line in self.process.stdout:
            if self.shown:
                print("  " + line, end="", flush=True)
            else:
                self.unseen = self.unseen[-19:] + [line]

    def hush(self):
        self.shown = False

    def wait_ready(self):
        start = last_word = time.monotonic()
        while not self._is_ready():
            now = time.monotonic()
            if self.process.poll() is not None:
                self.pump.join(timeout=1)
                raise DemoFailed(f"the server ended with status {self.process.returncode} (above)")
            if now - start > READY_DEADLINE_S:
                raise DemoFailed(f"not ready after {READY_DEADLINE_S} s (its output is above)")
            if now - last_word > 5:
                print(f"  waiting for /ready: {now - start:.0f} s", flush=True)
                last_word = now
            time.sleep(0.1)
        print(f"ready after {time.monotonic() - start:.1f} s", flush=True)

    def _is_ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self):
        """True when it drained and left with status 0. A second Ctrl-C does not cut this short."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=STOP_DEADLINE_S) == 0
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return False


def choose_port(asked):
    if asked:
        return asked
    for port in (DEFAULT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise DemoFailed("no free port on 127.0.0.1")


def completion_request(**extra):
    return json.dumps({"model": "demo", "prompt": PROMPT, "max_tokens": MAX_TOKENS,
                       "temperature": 0.8, "stream": True, **extra})


def events(response):
    """The JSON of each server-sent event up to [DONE]."""
    for line in response:
        text = line.decode("utf-8").strip()
        if not text.startswith("data:"):
            continue
        data = text[len("data:"):].strip()
        if data == "[DONE]":
            return
        yield json.loads(data)
    raise DemoFailed("the stream ended before data: [DONE]")


def stream_tale(port):
    """Prints the tale as it comes; the number of tokens, seconds to the first and in all."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READ_TIMEOUT_S)
    start = time.monotonic()
    body = completion_request(seed=7, stream_options={"include_usage": True})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise DemoFailed(f"HTTP {response.status}: {response.read().decode('utf-8', 'replace')}")
    print(f"\n{PROMPT}", end="", flush=True)
    first = usage = None
    for event in events(response):
        if "error" in event:
            raise DemoFailed(f"the stream broke: {event['error'].get('message')}")
        for choice in event["choices"]:
            first = first or time.monotonic() - start
            print(choice["text"], end="", flush=True)
        usage = event.get("usage") or usage
    total = time.monotonic() - start
    connection.close()
    print("\n", flush=True)
    if first is None or usage is None:
        raise DemoFailed("the stream held no text or no usage")
    return usage["completion_tokens"], first, total


def tell(server, keep):
    server.wait_ready()
    server.hush()
    n_tokens, first_s, total_s = stream_tale(server.port)
    print(f"{n_tokens} tokens in {total_s:.2f} s: {n_tokens / total_s:.1f} tokens/s, "
          f"the first after {first_s * 1000:.0f} ms (2 tensor shards x 2 pipeline stages)\n")
    hint = "Try it" if keep else "Try it, with scripts/demo --keep running"
    print(f"{hint}:\n\n  curl -N http://127.0.0.1:{server.port}/v1/completions \\\n"
          f"    -H 'Content-Type: application/json' \\\n    -d '{completion_request()}'\n",
          flush=True)
    if keep:
        print("Serving until Ctrl-C.", flush=True)
        status = server.process.wait()
        raise DemoFailed(f"the server ended by itself with status {status}:\n"
                         + "".join(server.unseen))


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("--binary", required=True)
    parser.add_argument("--keep", action="store_true", help="leave it serving until Ctrl-C")
    parser.add_argument("--port", type=int, default=0, help="default: 8080, or any free port")
    return parser.parse_args()


def main():
    args = parse_arguments()
    # Ctrl-C ends the demo also where a shell started it in the background and had it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = None
    failed = True
    try:
        server = Server(args.binary, choose_port(args.port))
        tell(server, args.keep)
        failed = False
    except KeyboardInterrupt:
        print("\nstopping", flush=True)
        failed = not args.keep
    except (DemoFailed, OSError, http.client.HTTPException, ValueError) as failure:
        print(f"demo: {failure}", file=sys.stderr, flush=True)
    clean = server is None or server.stop()
    if clean and not failed:
        print("stopped cleanly", flush=True)
    elif not clean and not failed:
        print(f"demo: the server did not end cleanly (status {server.process.returncode})",
              file=sys.stderr)
    return 0 if clean and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
