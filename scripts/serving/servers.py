"""The servers that are measured: started on a free loopback port, and what they use."""

import contextlib
import http.client
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import engines
import rpc_servers
from bench_common import TRIREME
from shell import Failed, last_line

READY_DEADLINE_S = 600  # a model may be packed first
STOP_DEADLINE_S = 60
MODEL_NAME = "served"  # in requests; llama-server takes any
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """Of a process's own threads, ended ones too; not of its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def metric_of(text, name, **labels):
    """The sum of a metric's samples with these labels, in Prometheus's text format."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    total = 0.0
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name and all(word in series for word in wanted):
            total += float(value)
    return total


class Server:
    """A process that serves a model; of ours, the coordinator."""

    def __init__(self, process, port, vocab_size):
        self.process, self.port, self.vocab_size = process, port, vocab_size

    def get(self, path):
        """(status, text)"""
        try:
            with urllib.request.urlopen(f"http://{rpc_servers.HOST}:{self.port}{path}",
                                        timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except (OSError, http.client.HTTPException):
            return 0, ""

    def busy_and_steps(self):
        """Seconds that the first stage has computed, and steps: of ours."""
        text = self.get("/metrics")[1]
        return (metric_of(text, "trireme_stage_busy_seconds_total", stage="0"),
                metric_of(text, "vllm:iteration_tokens_total_count"))

    def children(self):
        """Of ours, the ranks; while it answers, short-lived helpers too."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that ended meanwhile
                found += map(int, (task / "children").read_text().split())
        return found


def wait_until_ready(server, path, log):
    end = time.monotonic() + READY_DEADLINE_S
    while server.get(path)[0] != 200:
        if server.process.poll() is not None:
            raise Failed(f"exit status {server.process.returncode} of the server: "
                         f"{last_line(log.read_bytes()[-4096:])}")
        if time.monotonic() > end:
            raise Failed(f"the server is not ready after {READY_DEADLINE_S} s: see {log}")
        time.sleep(0.05)


@contextlib.contextmanager
def running(command, log, path, vocab_size, environment=None):
    """Starts `command` with a port behind it, waits until `path` answers, and stops it."""
    port = rpc_servers.free_ports(1)[0]
    command = [str(word) for word in (*command, "--port", port)]
    with log.open("ab") as file:
        file.write(f"\n$ {' '.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})}, start_new_session=True,
            preexec_fn=rpc_servers.end_with_parent)
    try:
        server = Server(process, port, vocab_size)
        wait_until_ready(server, path, log)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def trireme(cache, model, vocab_size, n_streams, context, options=()):
    """For so many requests at once of so many tokens, prompt and answer."""
    command = [TRIREME, "serve", model, "--served-model-name", MODEL_NAME, "--max-sequences",
               n_streams, "--context-length", context, *options]
    return running(command, cache.log, "/ready", vocab_size)


def llama_cpp(cache, dtype, vocab_size, n_streams, context, n_threads):
    """A slot for each request; everything else as llama-server has it without options."""
    installed = engines.site_packages(cache, engines.LLAMA)
    command = [installed / "bin" / "llama-server", "--offline", "--model",
               cache.models / engines.ENGINES["llama.cpp"].models[dtype], "--parallel", n_streams,
               "--ctx-size", n_streams * context, "--threads", n_threads, "--threads-batch",
               n_threads]
    return running(command, cache.log, "/health", vocab_size,
                   {"LD_LIBRARY_PATH": str(installed / "lib")})
