"""Runs commands with a deadline and keeps their output."""

import os
import signal
import subprocess


class Failed(Exception):
    """A command that failed or took too long: one line for people."""


def run(command, deadline_s, log, environment=None):
    """What the command prints on standard output; that and its errors are added to `log`."""
    command = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})}, start_new_session=True)
    late = False
    try:
        output, errors = process.communicate(timeout=deadline_s)
    except BaseException as interruption:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        late = isinstance(interruption, subprocess.TimeoutExpired)
        if not late:
            raise
    with log.open("ab") as file:
        file.write(f"\n$ {' '.join(command)}\n".encode() + output + errors)
    if late:
        raise Failed(f"no end within {deadline_s} s")
    if process.returncode != 0:
        raise Failed(f"exit status {process.returncode}: {last_line(output + errors)}")
    return output.decode(errors="replace")


def last_line(output):
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"
