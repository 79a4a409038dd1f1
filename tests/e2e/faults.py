"""Faults to put into a running server, and what is seen of them from outside."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

from trireme_process import http_get, wait_until

FREEZE_DEADLINE_S = 10
BUILD_DEADLINE_S = 60
POISON_IDS = [2001] * 12  # in no other prompt
N_DEADLY = 3  # of them in one plan: a prompt may be computed in parts
PTRACE_CONT, PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 7, 17, 0x4206, 0x4207
WAIT_ALL = 0x40000000  # __WALL


@contextlib.contextmanager
def frozen_thread(tid):
    """One thread of a process stands still, the others go on; a debugger's hold on it. It stands
    in code of its own: inside a system call it may hold what the others wait for."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def ptrace(request):
        if libc.ptrace(request, tid, None, None) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def stop():
        ptrace(PTRACE_INTERRUPT)
        os.waitpid(tid, WAIT_ALL)
        in_no_system_call = Path(f"/proc/{tid}/syscall").read_text().startswith("-1 ")
        if not in_no_system_call:
            ptrace(PTRACE_CONT)
        return in_no_system_call

    ptrace(PTRACE_SEIZE)
    wait_until(stop, FREEZE_DEADLINE_S, "the thread in code of its own")
    try:
        yield
    finally:
        # It is gone when the group was killed meanwhile.
        with contextlib.suppress(OSError):
            ptrace(PTRACE_DETACH)


def as_sent(ids):
    """The bytes of token ids in a plan: protobuf's packed sint32, here of two bytes each."""
    assert all(64 <= i < 8192 for i in ids)
    return b"".join(bytes((2 * i & 0x7F | 0x80, 2 * i >> 7)) for i in ids)


def poison_ranks(surroundings, folder):
    """Every rank started from now on crashes when it is told to compute POISON_IDS. False where
    there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return False
    library = Path(folder) / "poison.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library,
                    Path(__file__).parent / "poison.c"], check=True, timeout=BUILD_DEADLINE_S)
    surroundings.environment["LD_PRELOAD"] = str(library)
    surroundings.environment["TRIREME_TEST_POISON"] = os.fsdecode(as_sent(POISON_IDS[:N_DEADLY]))
    return True


class ReadyWatch(threading.Thread):
    """Asks /ready without pause: when did it first say 503, when 200 again?"""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server = server
        self.first_503 = None
        self.back_at = None
        self.stopped = threading.Event()
        self.start()

    def run(self):
        while not self.stopped.is_set():
            try:
                status = http_get(self.server.url + "/ready")[0]
            except ConnectionError:
                continue
            if status == 503 and self.first_503 is None:
                self.first_503 = time.monotonic()
            if status == 200 and self.first_503 is not None and self.back_at is None:
                self.back_at = time.monotonic()

    def stop(self):
        self.stopped.set()
        self.join()


def kill(pids, with_signal=signal.SIGKILL):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, with_signal)
