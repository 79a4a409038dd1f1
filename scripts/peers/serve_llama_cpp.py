"""serve_llama_cpp.py N_THREADS HOST:PORT: what llama.cpp's program rpc-server does, on the CPU."""

import ctypes
import importlib.util
import sys
from pathlib import Path

from rpc_servers import end_with_parent

CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU


def library():
    """The library of the installed llama-cpp-python, without importing that. The functions of those
    it needs are found in it, too; their files must not be loaded by name: the package has several
    copies of each, and every copy a list of devices of its own."""
    package = Path(importlib.util.find_spec("llama_cpp").origin).parent
    return ctypes.CDLL(str(package / "lib" / "libllama.so"))


def main(n_threads, endpoint):
    end_with_parent()
    find_device = library().ggml_backend_dev_by_type
    find_device.restype = ctypes.c_void_p
    serve = library().ggml_backend_rpc_start_server
    serve.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t,
                      ctypes.POINTER(ctypes.c_void_p)]
    devices = (ctypes.c_void_p * 1)(find_device(CPU))
    serve(endpoint.encode(), None, int(n_threads), 1, devices)
    raise SystemExit(f"llama.cpp's RPC server ended on {endpoint}")


if __name__ == "__main__":
    main(*sys.argv[1:])
