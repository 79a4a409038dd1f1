"""What machine this is, and what its memory does at the moment."""

import json
import os
import platform
import re
from pathlib import Path


def describe():
    """One line: processor, cores, memory, kernel."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", text)
    flags = re.search(r"flags\s*:\s*(.*)", text)
    known = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"]
    there = [flag for flag in known if flags and flag in flags.group(1).split()]
    memory_kib = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text()).group(1))
    return (f"{model.group(1) if model else platform.machine()} ({', '.join(there)}), "
            f"{len(os.sched_getaffinity(0))} cores, {memory_kib / 2**20:.0f} GiB of memory, "
            f"Linux {platform.release().split('-')[0]}")


class Probe:
    """Bandwidth and round trip now, as `trireme_bench --peaks --json` gives them."""

    def __init__(self, cache, bench_binary):
        self.cache = cache
        self.command = [str(bench_binary), "--peaks", "--json"]

    def __call__(self):
        return json.loads(self.cache.run(self.command, 120))
