"""Servers of one run: started on loopback ports that are free, and gone with their starter."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

HOST = "127.0.0.1"
START_DEADLINE_S = 60
PR_SET_PDEATHSIG = 1


class NotStarted(Exception):
    """A server that ended or does not listen."""


def end_with_parent():
    """For a server to call: the kernel kills it when the process that started it is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_ports(n_ports):
    """So many different ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(n_ports)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_until_listening(process, port, deadline_s):
    end = time.monotonic() + deadline_s
    while True:
        try:
            socket.create_connection((HOST, port), 1).close()
            return
        except OSError:
            if process.poll() is not None:
                raise NotStarted(f"exit status {process.returncode}") from None
            if time.monotonic() > end:
                raise NotStarted(f"nobody listens on port {port} after {deadline_s} s") from None
        time.sleep(0.05)


def start(command, n_servers):
    """Runs `command HOST:PORT` so many times; (process, HOST:PORT) of each, all listening."""
    ports = free_ports(n_servers)
    processes = [subprocess.Popen([*command, f"{HOST}:{port}"], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL) for port in ports]
    for process, port in zip(processes, ports):
        wait_until_listening(process, port, START_DEADLINE_S)
    return [(process, f"{HOST}:{port}") for process, port in zip(processes, ports)]


def resident_bytes(pid):
    n_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return n_pages * os.sysconf("SC_PAGE_SIZE")
