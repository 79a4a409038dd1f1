"""Reads a model folder of scripts/random_model: its config and, one at a time, its tensors."""

import json
import struct
from pathlib import Path

import numpy as np


class ModelFolder:
    def __init__(self, folder):
        self.config = json.loads((Path(folder) / "config.json").read_text())
        self.file = Path(folder) / "model.safetensors"
        with self.file.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            self.entries = json.loads(file.read(length))
        self.begin = 8 + length

    def raw(self, name):
        """(dtype, values as unsigned integers of its width, shaped)."""
        entry = self.entries[name]
        begin, end = entry["data_offsets"]
        width = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}[entry["dtype"]]
        values = np.memmap(self.file, width, "r", self.begin + begin,
                           ((end - begin) // np.dtype(width).itemsize,))
        return entry["dtype"], values.reshape(entry["shape"])

    def float32(self, name):
        dtype, values = self.raw(name)
        if dtype == "BF16":
            return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return values.view(np.float16 if dtype == "F16" else np.float32).astype(np.float32)
