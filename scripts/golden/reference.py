#!/usr/bin/env python3
"""A second oracle for the golden models: the forward pass of Llama, Mistral, Qwen2 and Qwen3 in
plain numpy, written from the formulas, in float64.

  python scripts/golden/reference.py tests/golden [--only NAME,...] [--bfloat16]

Compares with each golden.json and prints the largest error relative to the largest logit. With
--bfloat16 the inputs of every matrix product and the cached keys and values are rounded to
bfloat16, which shows how much of the permitted divergence that rounding alone costs.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np

LIMIT_FLOAT32 = 1e-5   # golden.json is float32, rounded to six digits
LIMIT_KL = 1e-3
# golden-bf16-rope.json was computed with rotary frequencies rounded to bfloat16.
EXPECTATIONS = (("golden.json", False), ("golden-bf16-rope.json", True))

DEFAULTS = {  # of transformers, where config.json lacks a key
    "llama": dict(max_position_embeddings=2048),
    "mistral": dict(max_position_embeddings=131072, num_key_value_heads=8, sliding_window=4096),
    "qwen2": dict(max_position_embeddings=32768, num_key_value_heads=32, sliding_window=4096),
    "qwen3": dict(max_position_embeddings=32768, num_key_value_heads=32, sliding_window=4096,
                  head_dim=128),
}


def round_bfloat16(x):
    """To the nearest bfloat16, ties to even; back in float64."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def read_safetensors(path):
    data = path.read_bytes()
    header_size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + header_size])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + header_size + offset for offset in entry["data_offsets"])
        raw = data[begin:end]
        if entry["dtype"] == "BF16":
            bits = np.frombuffer(raw, np.uint16).astype(np.uint32) << 16
            values = bits.view(np.float32)
        else:
            values = np.frombuffer(raw, {"F16": np.float16, "F32": np.float32}[entry["dtype"]])
        tensors[name] = values.astype(np.float64).reshape(entry["shape"])
    return tensors


def read_weights(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= read_safetensors(path)
    return tensors


def yarn_attention_factor(parameters, factor):
    def mscale(weight):
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if parameters.get("attention_factor") is not None:
        return parameters["attention_factor"]
    if parameters.get("mscale") and parameters.get("mscale_all_dim"):
        return mscale(parameters["mscale"]) / mscale(parameters["mscale_all_dim"])
    return mscale(1.0)


def yarn_ramp(parameters, head_dim, theta, original_length):
    """0 where a dimension keeps its frequency, 1 where the factor divides it. [head_dim / 2]"""
    def dimension_of(n_rotations):
        return (head_dim * math.log(original_length / (n_rotations * 2 * math.pi))
                / (2 * math.log(theta)))

    low = dimension_of(parameters.get("beta_fast") or 32)
    high = dimension_of(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    return np.clip((np.arange(head_dim // 2) - low) / (high - low), 0, 1)


def llama3_frequencies(parameters, frequency, original_length):
    factor = parameters["factor"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    wavelength = 2 * math.pi / frequency
    smooth = (original_length / wavelength - low) / (high - low)
    blended = (1 - smooth) * frequency / factor + smooth * frequency
    result = np.where(wavelength > original_length / low, frequency / factor, blended)
    return np.where(wavelength < original_length / high, frequency, result)


def rope_frequencies(config, head_dim, context_length):
    """Radians per position [head_dim / 2], and what cos and sin are multiplied by."""
    parameters = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    theta = parameters.get("rope_theta") or config.get("rope_theta") or 10000.0
    exponents = np.arange(0, head_dim, 2) / head_dim
    frequency = theta ** -exponents
    trained_length = config["max_position_embeddings"]
    original_length = (config.get("original_max_position_embeddings")
                       or parameters.get("original_max_position_embeddings") or trained_length)
    factor = parameters.get("factor")

    if kind == "default":
        return frequency, 1.0
    if kind == "linear":
        return frequency / factor, 1.0
    if kind == "dynamic":
        length = max(context_length, trained_length)
        stretch = factor * length / trained_length - (factor - 1)
        return (theta * stretch ** (head_dim / (head_dim - 2))) ** -exponents, 1.0
    if kind == "llama3":
        return llama3_frequencies(parameters, frequency, original_length), 1.0
    if kind == "yarn":
        factor = factor or trained_length / original_length
        ramp = yarn_ramp(parameters, head_dim, theta, original_length)
        return (frequency / factor * ramp + frequency * (1 - ramp),
                yarn_attention_factor(parameters, factor))
    raise SystemExit(f"unknown rope scaling {kind}")


def layer_windows(config):
    """The sliding window of each layer, or None."""
    n_layers, family = config["num_hidden_layers"], config["model_type"]
    if family == "llama":
        return [None] * n_layers
    window = config["sliding_window"]
    if family == "mistral":
        return [window] * n_layers
    if not config.get("use_sliding_window"):
        return [None] * n_layers
    kinds = config.get("layer_types")
    if kinds:
        return [window if kind == "sliding_attention" else None for kind in kinds]
    return [window if i >= config.get("max_window_layers", 28) else None for i in range(n_layers)]


class Reference:
    def __init__(self, folder, context_length, bfloat16=False, bfloat16_rope=False):
        config = json.loads((folder / "config.json").read_text())
        self.config = config = DEFAULTS[config["model_type"]] | config
        self.n_heads = config["num_attention_heads"]
        self.n_kv_heads = config.get("num_key_value_heads") or self.n_heads
        self.head_dim = config.get("head_dim") or config["hidden_size"] // self.n_heads
        self.eps = config.get("rms_norm_eps", 1e-6)
        self.windows = layer_windows(config)
        frequency, self.rope_factor = rope_frequencies(config, self.head_dim, context_length)
        self.frequency = round_bfloat16(frequency) if bfloat16_rope else frequency
        self.round = round_bfloat16 if bfloat16 else lambda x: x
        self.weights = read_weights(folder)
        if config.get("tie_word_embeddings"):
            self.weights["lm_head.weight"] = self.weights["model.embed_tokens.weight"]

    def norm(self, x, name):
        scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps)
        return x * scale * self.weights[name + ".weight"]

    def linear(self, x, name):
        y = self.round(x) @ self.round(self.weights[name + ".weight"]).T
        return y + self.weights.get(name + ".bias", 0.0)

    def rotate(self, x):  # [n_heads, n_tokens, head_dim]
        angles = np.outer(np.arange(x.shape[1]), self.frequency)
        cos, sin = (np.tile(f(angles), 2) * self.rope_factor for f in (np.cos, np.sin))
        half = self.head_dim // 2
        turned = np.concatenate([-x[..., half:], x[..., :half]], -1)
        return x * cos + turned * sin

    def heads(self, x, name, n_heads, norm_name=None):
        y = self.linear(x, name).reshape(len(x), n_heads, self.head_dim)
        if norm_name and norm_name + ".weight" in self.weights:
            y = self.norm(y, norm_name)
        return y.transpose(1, 0, 2)

    def attention(self, x, layer, window):
        at = f"model.layers.{layer}.self_attn."
        q = self.rotate(self.heads(x, at + "q_proj", self.n_heads, at + "q_norm"))
        k = self.rotate(self.heads(x, at + "k_proj", self.n_kv_heads, at + "k_norm"))
        v = self.heads(x, at + "v_proj", self.n_kv_heads)
        group = self.n_heads // self.n_kv_heads
        k, v = (np.repeat(self.round(t), group, axis=0) for t in (k, v))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(self.head_dim)
        query, key = np.arange(len(x))[:, None], np.arange(len(x))[None, :]
        visible = key <= query
        if window is not None:
            visible &= key > query - window
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        return self.linear(mixed.transpose(1, 0, 2).reshape(len(x), -1), at + "o_proj")

    def mlp(self, x, layer):
        at = f"model.layers.{layer}.mlp."
        gate = self.linear(x, at + "gate_proj")
        return self.linear(gate / (1 + np.exp(-gate)) * self.linear(x, at + "up_proj"),
                           at + "down_proj")

    def logits(self, input_ids):  # [n_tokens, vocab_size]
        x = self.weights["model.embed_tokens.weight"][input_ids]
        for layer, window in enumerate(self.windows):
            at = f"model.layers.{layer}."
            x = x + self.attention(self.norm(x, at + "input_layernorm"), layer, window)
            x = x + self.mlp(self.norm(x, at + "post_attention_layernorm"), layer)
        return self.linear(self.norm(x, "model.norm"), "lm_head")


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def compare(reference, prompts):
    """(largest logit error relative to the prompt's largest logit, largest error of a log p,
    mean KL of the next-token distributions, greedy continuations agree)"""
    worst_logit = worst_logprob = kl = 0.0
    greedy_agrees = True
    for prompt in prompts:
        ids, expected = prompt["input_ids"], np.array(prompt["last_logits"])
        continued = reference.logits(ids + prompt["greedy"])
        logprobs = log_softmax(continued)
        error = np.abs(continued[len(ids) - 1] - expected).max()
        worst_logit = max(worst_logit, error / np.abs(expected).max())
        for i, value in enumerate(prompt["logprobs"]):
            worst_logprob = max(worst_logprob, abs(logprobs[i, ids[i + 1]] - value))
        best = continued[len(ids) - 1:-1].argmax(-1) if prompt["greedy"] else np.array([])
        greedy_agrees &= best.tolist() == prompt["greedy"]
        target = log_softmax(expected)
        kl += (np.exp(target) * (target - logprobs[len(ids) - 1])).sum() / len(prompts)
    return worst_logit, worst_logprob, kl, greedy_agrees


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--bfloat16", action="store_true")
    args = parser.parse_args()
    only = set(filter(None, args.only.split(",")))
    n_passed = n_failed = 0
    for folder in sorted(path.parent for path in args.folder.glob("*/golden.json")):
        if only and folder.name not in only:
            continue
        for file_name, bfloat16_rope in EXPECTATIONS:
            if not (folder / file_name).exists():
                continue
            golden = json.loads((folder / file_name).read_text())
            reference = Reference(folder, golden.get("context_length", 0), args.bfloat16,
                                  bfloat16_rope)
            logit, logprob, kl, greedy = compare(reference, golden["prompts"])
            passed = kl < LIMIT_KL if args.bfloat16 else logit < LIMIT_FLOAT32 and greedy
            n_passed, n_failed = n_passed + passed, n_failed + (not passed)
            print(f"{'ok  ' if passed else 'FAIL'} {folder.name:20} {file_name:22} logits "
                  f"{logit:.1e}  log p {logprob:.1e}  KL {kl:.1e}  greedy {bool(greedy)}")
    print(f"{n_passed} passed, {n_failed} failed")
    sys.exit(n_failed > 0 or n_passed == 0)


if __name__ == "__main__":
    main()
