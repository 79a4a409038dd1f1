#!/usr/bin/env python3
"""Writes tests/data/rope/rope_frequencies.json: rotary frequencies as transformers computes them.

Run it where transformers (scripts/golden/requirements.txt) is installed, from the source tree.
"""

import json
import pathlib

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/rope/rope_frequencies.json"


def case(name, head_dim, max_position, rope, theta=10000.0, context_length=None):
    return {
        "name": name,
        "head_dim": head_dim,
        "max_position_embeddings": max_position,
        "context_length": context_length or max_position,
        "rope_parameters": {"rope_theta": theta, **rope},
    }


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}

CASES = [
    case("default", 128, 4096, {"rope_type": "default"}),
    case("default-small-head", 8, 512, {"rope_type": "default"}, theta=500000.0),
    case("default-two", 2, 512, {"rope_type": "default"}),
    case("linear", 64, 8192, {"rope_type": "linear", "factor": 2.5}),
    case("dynamic-short", 64, 2048, {"rope_type": "dynamic", "factor": 4.0}, context_length=100),
    case("dynamic-long", 64, 2048, {"rope_type": "dynamic", "factor": 4.0}, context_length=8192),
    case("dynamic-odd", 12, 64, {"rope_type": "dynamic", "factor": 3.0}, context_length=191),
    case("llama3", 128, 131072, LLAMA3, theta=500000.0),
    case("llama3-small", 64, 512,
         {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 64}),
    case("yarn", 128, 131072, YARN, theta=1000000.0),
    case("yarn-small-head", 8, 256, {**YARN, "original_max_position_embeddings": 64}),
    case("yarn-betas", 64, 131072, {**YARN, "beta_fast": 16.0, "beta_slow": 2.0}),
    case("yarn-no-truncation", 64, 131072, {**YARN, "truncate": False}),
    case("yarn-attention-factor", 64, 131072, {**YARN, "attention_factor": 1.25}),
    case("yarn-mscale", 64, 131072, {**YARN, "mscale": 0.707, "mscale_all_dim": 1.0}),
    case("yarn-factor-one", 64, 32768, {**YARN, "factor": 1.0}),
]


def frequencies(row):
    config = LlamaConfig(
        hidden_size=4 * row["head_dim"],
        num_attention_heads=4,
        head_dim=row["head_dim"],
        max_position_embeddings=row["max_position_embeddings"],
        rope_parameters=dict(row["rope_parameters"]),
    )
    rope_type = row["rope_parameters"]["rope_type"]
    if rope_type == "dynamic":  # the only one that depends on the length
        return ROPE_INIT_FUNCTIONS[rope_type](
            config, torch.device("cpu"), seq_len=row["context_length"]
        )
    embedding = LlamaRotaryEmbedding(config)
    return embedding.inv_freq, embedding.attention_scaling


def main():
    for row in CASES:
        inv_freq, scale = frequencies(row)
        row["inv_freq"] = [float(f"{x:.9g}") for x in inv_freq.tolist()]
        row["scale"] = float(f"{float(scale):.9g}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(CASES, indent=1) + "\n")
    print(f"wrote {len(CASES)} cases to {OUT}")


if __name__ == "__main__":
    main()
