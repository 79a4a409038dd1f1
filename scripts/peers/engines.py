"""The engines that are compared: how each is installed, what it reads, how it is started."""

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from shell import Failed, run

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
INSTALL_DEADLINE_S = 1800
BUILD_DEADLINE_S = 5400  # llama.cpp from source on two cores
MODEL_DEADLINE_S = 1800
RUN_DEADLINE_S = 1800

@dataclass(frozen=True)
class Packages:
    """Packages of PyPI in one virtual environment."""

    name: str
    names: tuple  # the first is the one whose version is reported
    cmake_args: str = ""  # not empty: the first is built here, with these


# llama.cpp is built for this processor, with its RPC backend, with the program llama-server (which
# would fetch pages for browsers otherwise), and without what nobody needs here.
LLAMA = Packages("llama.cpp", ("llama-cpp-python==0.3.*", "gguf"),
                 "-DGGML_NATIVE=ON -DGGML_RPC=ON -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=ON "
                 "-DLLAMA_BUILD_SERVER=ON -DLLAMA_TOOLS_INSTALL=ON -DLLAMA_USE_PREBUILT_UI=OFF")
OPENVINO = Packages("openvino", ("openvino-genai", "openvino-tokenizers"))
CTRANSLATE2 = Packages("ctranslate2", ("ctranslate2", "numpy"))
TRANSFORMERS = Packages("transformers", ("transformers", "torch", "accelerate"))


@dataclass(frozen=True)
class Engine:
    name: str
    packages: Packages
    runner: str
    models: dict = field(default_factory=dict)  # --dtype of trireme -> name for make_model()


ENGINES = {engine.name: engine for engine in (
    Engine("llama.cpp", LLAMA, "run_llama_cpp.py",
           {"bfloat16": "bf16.gguf", "int8": "q8_0.gguf", "int4": "q4_0.gguf"}),
    Engine("openvino", OPENVINO, "run_openvino.py", {"int8": "q8_0.gguf", "int4": "q4_0.gguf"}),
    Engine("ctranslate2", CTRANSLATE2, "run_ctranslate2.py", {"int8": "ct2-int8"}),
    Engine("transformers", TRANSFORMERS, "run_transformers.py", {"bfloat16": "hf"}),
)}

# Over two processes with half of the threads each: trireme by these options, and another engine.
LAYOUTS = {"tp2": ("--tp", 2), "pp2": ("--pp", 2)}
LAYOUT_ENGINES = {"llama.cpp-rpc": Engine("llama.cpp-rpc", LLAMA, "run_llama_cpp_rpc.py",
                                          {"int8": "q8_0.gguf", "int4": "q4_0.gguf"})}


class Cache:
    """Everything that is installed or made, outside of the repository."""

    def __init__(self, folder, shape):
        self.folder = folder
        self.models = folder / "models" / shape
        self.shape = shape
        self.log = folder / "log.txt"
        self.models.mkdir(parents=True, exist_ok=True)

    def python(self, packages):
        return self.folder / f"venv-{packages.name}" / "bin" / "python"

    def run(self, command, deadline_s, environment=None):
        return run(command, deadline_s, self.log, environment)


def install(cache, packages, say):
    """Makes the virtual environment; nothing where it is there already."""
    python = cache.python(packages)
    stamp = python.parents[1] / "installed.json"
    wanted = [*packages.names, *filter(None, [packages.cmake_args])]
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return
    say(f"installing {packages.name}" + (", built here: up to an hour" if packages.cmake_args
                                         else ""))
    cache.run([sys.executable, "-m", "venv", "--clear", python.parents[1]], INSTALL_DEADLINE_S)
    options = []
    if packages.cmake_args:
        built, wheels = package_of(packages.names[0]), cache.folder / "wheels"
        # pip's own cache does not know what a wheel was built with.
        cache.run([python, "-m", "pip", "wheel", "--no-cache-dir", "--no-deps", "--no-binary",
                   built, "-w", wheels, packages.names[0]], BUILD_DEADLINE_S,
                  {"CMAKE_ARGS": packages.cmake_args})
        options = ["--no-cache-dir", "--find-links", wheels, "--only-binary", built]
    cache.run([python, "-m", "pip", "install", "--quiet", *options, *packages.names],
              INSTALL_DEADLINE_S)
    stamp.write_text(json.dumps(wanted))


def site_packages(cache, packages):
    """Where the packages' files are; programs are in its folder bin, libraries in lib."""
    script = "import sysconfig; print(sysconfig.get_path('platlib'))"
    return Path(cache.run([cache.python(packages), "-c", script], 60).strip())


def package_of(requirement):
    return re.split("[=<>]", requirement)[0]


def version_of(cache, packages):
    package = package_of(packages.names[0])
    script = f"import importlib.metadata as m; print(m.version({package!r}))"
    return f"{package} {cache.run([cache.python(packages), '-c', script], 60).strip()}"


def make_model(cache, name, say):
    """The file or folder `name` of the cache's shape, made where it is not there."""
    path = cache.models / name
    if path.exists():
        return path
    say(f"making {cache.shape} as {name}")
    partial = cache.models / f"partial-{name}"
    llama = cache.python(LLAMA)
    if name == "hf":
        command = [REPO / "scripts" / "random_model", partial, "--shape", cache.shape, "--force"]
    elif name == "bf16.gguf":
        command = [llama, HERE / "make_gguf.py", make_model(cache, "hf", say), partial]
    elif name.endswith(".gguf"):
        command = [llama, HERE / "quantize_gguf.py", make_model(cache, "bf16.gguf", say), partial,
                   name.removesuffix(".gguf").upper()]
    else:
        command = [cache.python(CTRANSLATE2), HERE / "make_ctranslate2.py",
                   make_model(cache, "hf", say), partial, "int8"]
    cache.run(command, MODEL_DEADLINE_S)
    partial.rename(path)
    return path


def prepare(cache, engine, dtypes, say):
    """Installs the engine and makes its models."""
    if any(engine.models.get(dtype, "").endswith(".gguf") for dtype in dtypes):
        install(cache, LLAMA, say)  # its converter and quantizer write GGUF files
    install(cache, engine.packages, say)
    for dtype in dtypes:
        if dtype in engine.models:
            make_model(cache, engine.models[dtype], say)


def run_engine(cache, engine, dtype, n_threads, works, probe):
    """The runner's JSON: rates by work and the probes around each, start to first token, peak
    memory."""
    output = cache.run(
        [cache.python(engine.packages), HERE / engine.runner,
         "--model", cache.models / engine.models[dtype], "--threads", n_threads,
         "--works", json.dumps(works), "--probe", json.dumps(probe.command)], RUN_DEADLINE_S,
        {"OMP_NUM_THREADS": str(n_threads)})
    return json.loads(output.strip().splitlines()[-1])


def pack_trireme(cache, binary, dtype):
    """Makes the packed weights, so that no timed run does."""
    cache.run([binary, "bench", cache.models / "hf", "--dtype", dtype, "--prompt", 1, "--generate",
               1, "--repeat", 1], MODEL_DEADLINE_S)


def run_trireme(cache, binary, dtype, n_threads, works, probe, options=()):
    """The same of `trireme bench`, a process for each work."""
    results = {"rates": {}, "unsupported": {}, "probes": {}}
    after = probe()
    for work in works:
        before = after
        try:
            output = cache.run(
                [binary, "bench", cache.models / "hf", "--dtype", dtype, "--json",
                 "--repeat", 1, "--prompt", work["prompt"], "--streams", work["streams"],
                 "--context", work["context"], "--generate", work["generate"],
                 "--threads", n_threads, *options],
                RUN_DEADLINE_S)
        except Failed as failure:
            results["unsupported"][work["name"]] = str(failure)
            continue
        after = probe()
        results["probes"][work["name"]] = [before, after]
        report = json.loads(output)
        results["rates"][work["name"]] = report["rows"][0][work["kind"]]["median"]
        results.setdefault("start_to_first_token_s", report["start_to_first_token_s"])
        results["weight_bytes"] = sum(rank["weight_bytes"] for rank in report["ranks"])
        resident = sum(rank["resident_bytes"] for rank in report["ranks"])
        results["resident_bytes"] = max(results.get("resident_bytes", 0), resident)
    return results
