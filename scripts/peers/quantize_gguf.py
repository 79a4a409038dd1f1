"""quantize_gguf.py IN.gguf OUT.gguf Q8_0|Q4_0: llama.cpp's own quantizer with its own defaults."""

import os
import sys

import llama_cpp as llama

TYPES = {"Q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0}


def main(source, out, name):
    params = llama.llama_model_quantize_default_params()
    params.ftype = TYPES[name]
    params.nthread = len(os.sched_getaffinity(0))
    if llama.llama_model_quantize(source.encode(), out.encode(), params) != 0:
        raise SystemExit(f"llama.cpp cannot quantize {source} to {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
