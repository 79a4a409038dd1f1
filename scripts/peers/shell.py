"""Runs commands with a deadline and keeps their output."""

import os
import signal
import subprocess


class Failed(Exception):
    """A command that failed or took too long: one line for people."""


def run(command, deadline_s, log, environment=None, cwd=None):
    """What the command prints on standard output; all of it goes to `log`, too."""
    command = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        errors.write(f"\n$ {' '.join(command)}\n".encode())
        errors.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=cwd,
            env={**os.environ, **(environment or {})}, start_new_session=True)
        try:
            output, _ = process.communicate(timeout=deadline_s)
        except BaseException as interruption:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(interruption, subprocess.TimeoutExpired):
                raise Failed(f"no end within {deadline_s} s; see {log}") from None
            raise
        errors.write(output)
    if process.returncode != 0:
        raise Failed(f"exit status {process.returncode}: {last_line(log)}; see {log}")
    return output.decode(errors="replace")


def last_line(log):
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"
