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

# What llama-cpp-python is built with: for this processor, and only the library.
LLAMA_CMAKE_ARGS = "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"


@dataclass(frozen=True)
class Engine:
    """An engine of PyPI."""

    name: str
    packages: tuple  # the first is the one whose version is reported
    runner: str
    from_source: tuple = ()  # packages that are built here
    models: dict = field(default_factory=dict)  # --dtype of trireme -> name for make_model()


ENGINES = {engine.name: engine for engine in (
    Engine("llama.cpp", ("llama-cpp-python==0.3.*", "gguf"), "run_llama_cpp.py",
           ("llama-cpp-python",),
           {"bfloat16": "bf16.gguf", "int8": "q8_0.gguf", "int4": "q4_0.gguf"}),
    Engine("openvino", ("openvino-genai", "openvino-tokenizers"), "run_openvino.py", (),
           {"int8": "q8_0.gguf", "int4": "q4_0.gguf"}),
    Engine("ctranslate2", ("ctranslate2", "numpy"), "run_ctranslate2.py", (),
           {"int8": "ct2-int8"}),
    Engine("transformers", ("transformers", "torch", "accelerate"), "run_transformers.py", (),
           {"bfloat16": "hf"}),
)}

# Trireme itself on other layouts, as a contestant: the options that make it.
LAYOUTS = {
    "tp2": ("--tp", "2", "--threads", "1"),
    "pp2": ("--pp", "2", "--threads", "1"),
}


class Cache:
    """Everything that is installed or made, outside of the repository."""

    def __init__(self, folder, shape):
        self.folder = folder
        self.models = folder / "models" / shape
        self.shape = shape
        self.log = folder / "log.txt"
        self.models.mkdir(parents=True, exist_ok=True)

    def python(self, engine):
        return self.folder / f"venv-{engine.name}" / "bin" / "python"

    def run(self, command, deadline_s, environment=None):
        return run(command, deadline_s, self.log, environment)


def install(cache, engine, say):
    """Makes the engine's virtual environment; nothing where it is there already."""
    stamp = cache.folder / f"venv-{engine.name}" / "installed.json"
    if stamp.exists() and json.loads(stamp.read_text()) == list(engine.packages):
        return
    python = cache.python(engine)
    say(f"installing {engine.name}" + (", built here: up to an hour" if engine.from_source else ""))
    cache.run([sys.executable, "-m", "venv", "--clear", python.parent.parent], INSTALL_DEADLINE_S)
    wheels = cache.folder / "wheels"
    for package in engine.from_source:
        if any(wheels.glob(package.replace("-", "_") + "-*.whl")):
            continue
        wanted = next(name for name in engine.packages if name.startswith(package))
        cache.run(
            [python, "-m", "pip", "wheel", "--no-deps", "--no-binary", package, "-w", wheels,
             wanted], BUILD_DEADLINE_S, {"CMAKE_ARGS": LLAMA_CMAKE_ARGS})
    cache.run([python, "-m", "pip", "install", "--quiet", "--find-links", wheels,
               *(word for package in engine.from_source for word in ("--only-binary", package)),
               *engine.packages], INSTALL_DEADLINE_S)
    stamp.write_text(json.dumps(list(engine.packages)))


def version_of(cache, engine):
    package = re.split("[=<>]", engine.packages[0])[0]
    script = f"import importlib.metadata as m; print(m.version({package!r}))"
    return f"{package} {cache.run([cache.python(engine), '-c', script], 60).strip()}"


def make_model(cache, name, say):
    """The file or folder `name` of the cache's shape, made where it is not there."""
    path = cache.models / name
    if path.exists():
        return path
    say(f"making {cache.shape} as {name}")
    partial = cache.models / f"partial-{name}"
    llama = cache.python(ENGINES["llama.cpp"])
    if name == "hf":
        command = [REPO / "scripts" / "random_model", partial, "--shape", cache.shape, "--force"]
    elif name == "bf16.gguf":
        command = [llama, HERE / "make_gguf.py", make_model(cache, "hf", say), partial]
    elif name.endswith(".gguf"):
        command = [llama, HERE / "quantize_gguf.py", make_model(cache, "bf16.gguf", say), partial,
                   name.removesuffix(".gguf").upper()]
    else:
        command = [cache.python(ENGINES["ctranslate2"]), HERE / "make_ctranslate2.py",
                   make_model(cache, "hf", say), partial, "int8"]
    cache.run(command, MODEL_DEADLINE_S)
    partial.rename(path)
    return path


def prepare(cache, engine, dtypes, say):
    """Installs the engine and makes its models."""
    needed = [engine]
    if any(engine.models.get(dtype, "").endswith(".gguf") for dtype in dtypes):
        needed.append(ENGINES["llama.cpp"])  # its converter and quantizer write GGUF files
    for one in needed:
        install(cache, one, say)
    for dtype in dtypes:
        if dtype in engine.models:
            make_model(cache, engine.models[dtype], say)


def run_engine(cache, engine, dtype, n_threads, works):
    """The runner's JSON: rates by work, start to first token, peak memory."""
    output = cache.run(
        [cache.python(engine), HERE / engine.runner, "--model", cache.models / engine.models[dtype],
         "--threads", n_threads, "--works", json.dumps(works)], RUN_DEADLINE_S,
        {"OMP_NUM_THREADS": str(n_threads)})
    return json.loads(output.strip().splitlines()[-1])


def pack_trireme(cache, binary, dtype):
    """Makes the packed weights, so that no timed run does."""
    cache.run([binary, "bench", cache.models / "hf", "--dtype", dtype, "--prompt", 1, "--generate",
               1, "--repeat", 1], MODEL_DEADLINE_S)


def run_trireme(cache, binary, dtype, n_threads, works, options=()):
    """The same of `trireme bench`, a process for each work."""
    results = {"rates": {}, "unsupported": {}}
    threads = () if "--threads" in options else ("--threads", n_threads)
    for work in works:
        try:
            output = cache.run(
                [binary, "bench", cache.models / "hf", "--dtype", dtype, "--json",
                 "--repeat", 1, "--prompt", work["prompt"], "--streams", work["streams"],
                 "--context", work["context"], "--generate", work["generate"], *threads, *options],
                RUN_DEADLINE_S)
        except Failed as failure:
            results["unsupported"][work["name"]] = str(failure)
            continue
        report = json.loads(output)
        results["rates"][work["name"]] = report["rows"][0][work["kind"]]["median"]
        results.setdefault("start_to_first_token_s", report["start_to_first_token_s"])
        results["weight_bytes"] = sum(rank["weight_bytes"] for rank in report["ranks"])
        resident = sum(rank["resident_bytes"] for rank in report["ranks"])
        results["resident_bytes"] = max(results.get("resident_bytes", 0), resident)
    return results
