"""Ten times the load that a server can take, for as long as asked: what becomes of every request,
and of the memory. `overload.py [--seconds S]` by hand; test_overload.py runs a short one."""

import argparse
import json
import threading
import time
from dataclasses import dataclass, field

from raw_http import dial, post, read_to_end, status_of

MIB = 1 << 20
SAMPLE_S = 0.25


@dataclass
class Outcome:
    n_finished: int = 0
    n_refused: int = 0           # 429 with Retry-After
    n_unavailable: int = 0       # 503 with Retry-After: a rank was lost meanwhile
    wrong: list = field(default_factory=list)
    memory: list = field(default_factory=list)  # (seconds, bytes resident in the coordinator)

    def growth_bytes(self):
        """Of the last quarter's mean over that of the second: what is not yet warm is left out."""
        end = self.memory[-1][0]

        def mean(low, high):
            part = [size for at, size in self.memory if low * end <= at <= high * end]
            return sum(part) / len(part)

        return mean(0.75, 1) - mean(0.25, 0.5)

    def __str__(self):
        sizes = [size for _, size in self.memory]
        return (f"{self.n_finished} finished, {self.n_refused} refused with 429 and Retry-After, "
                f"{self.n_unavailable} with 503, {len(self.wrong)} otherwise; coordinator "
                f"{sizes[0] / MIB:.1f} MiB at first, {max(sizes) / MIB:.1f} MiB at most, "
                f"last quarter over second {self.growth_bytes() / MIB:+.2f} MiB")


def judge(answer, request):
    """None for a request that finished, 429 or 503 for a proper refusal, else what is wrong."""
    status = status_of(answer)
    if status in (429, 503):
        head = answer.split(b"\r\n\r\n")[0].lower()
        return status if b"\r\nretry-after: " in head else f"no Retry-After: {answer}"
    if status != 200:
        return f"{status}: {answer[:300]}"
    if not request["stream"]:
        usage = json.loads(answer.split(b"\r\n\r\n", 1)[1])["usage"]
        if usage["completion_tokens"] == request["max_tokens"]:
            return None
    elif b"data: [DONE]" in answer and b'"finish_reason":"length"' in answer:
        return None
    return f"an answer cut short: {answer[-300:]}"


def overload(server, seconds, n_clients, n_tokens=64):
    """`n_clients` that ask again as soon as they have an answer, or after a refusal's pause."""
    outcome = Outcome()
    lock = threading.Lock()
    begin = time.monotonic()
    ended = threading.Event()

    def client(number):
        n_asked = 0
        while not ended.is_set():
            n_asked += 1
            request = dict(model="demo", prompt=f"Client {number} asks {n_asked}",
                           max_tokens=n_tokens, ignore_eos=True, stream=n_asked % 2 == 0,
                           seed=number)
            try:
                with dial(server) as connection:
                    connection.settimeout(600)
                    connection.sendall(post("/v1/completions", request))
                    result = judge(read_to_end(connection), request)
            except OSError as error:
                result = f"connection: {error}"
            with lock:
                outcome.n_finished += result is None
                outcome.n_refused += result == 429
                outcome.n_unavailable += result == 503
                if result not in (None, 429, 503):
                    outcome.wrong.append(result)
            if result in (429, 503):
                ended.wait(0.1)  # a tenth of what Retry-After asks for

    clients = [threading.Thread(target=client, args=(n,), daemon=True) for n in range(n_clients)]
    for one in clients:
        one.start()
    while time.monotonic() < begin + seconds:
        outcome.memory.append((time.monotonic() - begin, server.resident_bytes()))
        time.sleep(SAMPLE_S)
    ended.set()
    for one in clients:
        one.join(600)
        assert not one.is_alive(), "a client waits for ever"
    return outcome


def main():
    from pathlib import Path

    from trireme_process import Server, Surroundings

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    seconds = parser.parse_args().seconds
    surroundings = Surroundings(Path.home() / ".cache")
    server = Server(surroundings, "--tp", 2, "--max-sequences", 8, "--max-waiting", 8)
    try:
        server.wait_ready()
        # 16 fit: 8 are computed and 8 wait.
        outcome = overload(server, seconds, n_clients=160)
        print(outcome)
        for wrong in outcome.wrong[:5]:
            print(wrong)
        assert server.stop() == 0
        print(server.output())
    finally:
        server.process.kill()
        surroundings.clean_up()
        server.log.unlink()


if __name__ == "__main__":
    main()
