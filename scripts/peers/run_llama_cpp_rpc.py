"""Times llama.cpp over two of its RPC servers on this machine, each with half of the threads."""

import ctypes
import sys
from pathlib import Path

import rpc_servers
from run_llama_cpp import State, measure
from runner import run
from serve_llama_cpp import library

N_SERVERS = 2
ALL_LAYERS = 999


def register(endpoint):
    """Makes a server one of the devices over which a model's layers are spread."""
    add_server = library().ggml_backend_rpc_add_server
    add_server.restype = ctypes.c_void_p
    server = add_server(endpoint.encode())
    if not server:
        raise SystemExit(f"llama.cpp cannot use its RPC server on {endpoint}")
    library().ggml_backend_register(ctypes.c_void_p(server))


def load(args):
    n_threads = max(1, args.threads // N_SERVERS)
    serve = Path(__file__).with_name("serve_llama_cpp.py")
    try:
        servers = rpc_servers.start([sys.executable, serve, str(n_threads)], N_SERVERS)
    except rpc_servers.NotStarted as failure:
        raise SystemExit(f"llama.cpp's RPC server: {failure}") from failure
    for _, endpoint in servers:
        register(endpoint)
    # The embedding alone is computed here: more threads would only wait, and take the servers'
    # cores for that.
    state = State(args.model, 1, ALL_LAYERS)
    fair_share = Path(args.model).stat().st_size / N_SERVERS
    if any(rpc_servers.resident_bytes(process.pid) < fair_share / 2 for process, _ in servers):
        raise SystemExit("llama.cpp does not spread the model over its RPC servers")
    return state


if __name__ == "__main__":
    run(load, measure)
