"""Starts trireme, finds its processes, and tells what it left behind."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
BINARY = Path(os.environ.get("TRIREME_BIN", REPO / "build" / "release" / "trireme")).absolute()
MARK = "TRIREME_TEST_MARK"     # an environment variable that every process of one test carries
READY_DEADLINE_S = 120
STOP_DEADLINE_S = 60
COMMAND_DEADLINE_S = 180
GONE_DEADLINE_S = 20
SHARED_MEMORY = Path("/dev/shm")


def wait_until(condition, deadline_s, what):
    """The first true value of condition(); fails with `what` past the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline_s} s")
        time.sleep(0.01)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def http_get(url, timeout_s=10):
    """(status, body). ConnectionError where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (urllib.error.URLError, OSError) as error:
        raise ConnectionError(f"{url}: {error}") from error


def http_post(url, body, timeout_s=60):
    """(status, body) of a POST of bytes, or of anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def read_bytes(path):
    try:
        return Path(path).read_bytes()
    except OSError:  # the process ended meanwhile
        return b""


class Surroundings:
    """What one test's processes may touch: an environment, a temporary folder, shared memory."""

    def __init__(self, cache_folder):
        self.mark = uuid.uuid4().hex
        # Short, because OpenMPI keeps sockets under it.
        self.temporary = Path(tempfile.mkdtemp(prefix="tt", dir="/tmp"))
        self.shared_before = self.shared_memory()
        self.environment = os.environ | {
            MARK: self.mark,
            "TMPDIR": str(self.temporary),
            "XDG_CACHE_HOME": str(cache_folder),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }

    @staticmethod
    def shared_memory():
        """Entries that trireme or OpenMPI may have made."""
        return {entry.name for entry in SHARED_MEMORY.iterdir()
                if re.search("trireme|vader|ompi|pmix|sem\\.", entry.name)}

    def processes(self):
        """{pid: command line} of all living processes that carry the mark, zombies left out."""
        needle = f"{MARK}={self.mark}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and needle in read_bytes(entry / "environ").split(b"\0"):
                words = read_bytes(entry / "cmdline").decode(errors="replace").split("\0")
                if words != [""]:
                    found[int(entry.name)] = words[:-1]
        return found

    def trireme_processes(self):
        return {pid: words for pid, words in self.processes().items()
                if Path(words[0]).name == BINARY.name}

    def assert_nothing_left(self):
        wait_until(lambda: not self.processes(), GONE_DEADLINE_S,
                   f"end of every process, still there: {self.processes()}")
        left = self.shared_memory() - self.shared_before
        assert not left, f"left in {SHARED_MEMORY}: {sorted(left)}"
        files = [str(path) for path in self.temporary.rglob("*") if not path.is_dir()]
        assert not files, f"left in the temporary folder: {files}"

    def clean_up(self):
        """Ends what a failed test left, so that it cannot disturb the next."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.temporary, ignore_errors=True)


def run_command(surroundings, *arguments, stdin="", deadline_s=COMMAND_DEADLINE_S, binary=BINARY):
    """A trireme command that ends by itself: subprocess.CompletedProcess with text."""
    command = [str(binary), *(str(argument) for argument in arguments)]
    process = subprocess.Popen(
        command, env=surroundings.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        output, errors = process.communicate(stdin, timeout=deadline_s)
    except subprocess.TimeoutExpired:
        for pid in surroundings.processes():
            os.kill(pid, signal.SIGKILL)
        process.communicate()
        raise AssertionError(f"no end within {deadline_s} s: {' '.join(command)}") from None
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def status_bytes(pid, name):
    """VmRSS, VmHWM or the like of a process; 0 once it has ended."""
    match = re.search(rf"{name}:\s+(\d+) kB", read_bytes(f"/proc/{pid}/status").decode())
    return int(match.group(1)) * 1024 if match else 0


class Server:
    """`trireme serve` (or any command line that starts one) on a free port, or a given one."""

    def __init__(self, surroundings, *options, model="demo", prefix=(), port=None,
                 scheme="http", binary=BINARY):
        self.surroundings = surroundings
        self.port = port or free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        name = f"{surroundings.temporary.name}-{uuid.uuid4().hex[:8]}.log"
        self.log = surroundings.temporary.parent / name
        command = [*prefix, str(binary), "serve", str(model), "--port", str(self.port),
                   *(str(option) for option in options)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=surroundings.environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)

    def is_ready(self):
        try:
            return http_get(self.url + "/ready")[0] == 200
        except ConnectionError:
            return False

    def is_listening(self):
        try:
            return http_get(self.url + "/ping")[0] == 200
        except ConnectionError:
            return False

    def wait_ready(self):
        def ready_or_ended():
            if self.process.poll() is not None:
                raise AssertionError(
                    f"serve ended with {self.process.returncode}:\n{self.output()}")
            return self.is_ready()

        wait_until(ready_or_ended, READY_DEADLINE_S, "serving")
        return self

    def output(self):
        return self.log.read_text(errors="replace")

    def rank_pids(self):
        """The ranks, oldest first: every trireme process but the coordinator."""
        others = {pid: words for pid, words in self.surroundings.trireme_processes().items()
                  if pid != self.process.pid}
        workers = [pid for pid, words in others.items() if "worker" in words[1:2]]
        return sorted(workers or others)

    def wait_until_idle(self):
        """No request, and no KV held: gauges may be read a moment after an answer's last byte."""
        def is_idle():
            return all(self.metric("vllm:" + name) == 0 for name in (
                "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"))
        wait_until(is_idle, READY_DEADLINE_S, "an idle server")

    def wait_for_new_ranks(self, before):
        """Until it serves with ranks of which none is in `before`."""
        def serves_with_others():
            ranks = self.rank_pids()
            return ranks and set(ranks).isdisjoint(before) and self.is_ready()

        wait_until(serves_with_others, READY_DEADLINE_S, "new ranks that serve")

    def children(self):
        """Of the coordinator, the ended ones that it has not taken note of too."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return sorted(pid for task in tasks for pid in read_bytes(task).split())

    def resident_bytes(self):
        """Of the coordinator."""
        return self._status_bytes("VmRSS")

    def peak_resident_bytes(self):
        """Of the coordinator since reset_peak()."""
        return self._status_bytes("VmHWM")

    def reset_peak(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _status_bytes(self, name):
        return status_bytes(self.process.pid, name)

    def metric(self, name):
        """The sum of a metric's samples over all labels; 0 where it has none."""
        total = 0.0
        for line in http_get(self.url + "/metrics")[1].splitlines():
            match = re.match(r"([\w:]+)(?:\{.*\})? (\S+)", line)
            if match and match.group(1) == name:
                total += float(match.group(2))
        return total

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait_ended(self):
        """The exit status."""
        return self.process.wait(timeout=STOP_DEADLINE_S)

    def stop(self):
        self.terminate()
        return self.wait_ended()
