"""The golden models: one tiny configuration for each thing that a real checkpoint can do to the
forward pass.

Sizes are chosen to hurt: heads, KV heads, layers, MLP columns and vocabularies that divide by
nothing, prompts longer than the length a rope scaling was made for.
"""

from dataclasses import dataclass

import torch
import transformers


@dataclass
class GoldenModel:
    name: str
    config: transformers.PretrainedConfig
    prompt_lengths: tuple = (37, 90)      # random prompts after the short ones
    context_length: int | None = None     # what dynamic rope scaling is fixed at
    transformers4: dict | None = None     # written over the version 4 form of config.json
    storage: str = "bfloat16"             # bfloat16, float32, float16 or sharded
    exact_in: tuple = (torch.bfloat16,)   # types that hold the weights without loss
    short_prompts: tuple = ([1], [1, 5, 9, 200, 17])


BASE = dict(
    vocab_size=320,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    max_position_embeddings=512,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
SMALL = BASE | dict(hidden_size=48, intermediate_size=96, num_hidden_layers=3,
                    num_attention_heads=4, num_key_value_heads=2)


def llama(base=BASE, **options):
    return transformers.LlamaConfig(**base | options)


def mistral(base=BASE, **options):
    return transformers.MistralConfig(**base | options)


def qwen2(base=BASE, **options):
    return transformers.Qwen2Config(**base | options)


def qwen3(base=BASE, **options):
    return transformers.Qwen3Config(**base | options)


def rope(rope_type, theta=10000.0, **parameters):
    return dict(rope_type=rope_type, rope_theta=theta, **parameters)


def architectures():
    """One plain model of each architecture."""
    yield GoldenModel("llama", llama(tie_word_embeddings=False, rms_norm_eps=1e-5))
    yield GoldenModel("llama3-rope", llama(
        tie_word_embeddings=True, head_dim=8,
        rope_parameters=rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=64)))
    yield GoldenModel("mistral-window", mistral(sliding_window=16))
    yield GoldenModel("qwen2", qwen2(tie_word_embeddings=True))
    yield GoldenModel("qwen3", qwen3(head_dim=32, tie_word_embeddings=True))


def rope_scalings():
    """Every scaling, on prompts longer than the length it starts from."""
    yield GoldenModel("llama-linear", llama(
        SMALL, tie_word_embeddings=True, rope_parameters=rope("linear", factor=4.0)))
    yield GoldenModel("llama-dynamic", llama(
        SMALL, max_position_embeddings=64, rope_parameters=rope("dynamic", factor=4.0)),
        prompt_lengths=(37, 150), context_length=256)
    # A small theta and short lengths spread yarn's ramp over many dimensions.
    yield GoldenModel("llama-yarn", llama(
        SMALL, head_dim=32, tie_word_embeddings=True, max_position_embeddings=256,
        rope_parameters=rope("yarn", 100.0, factor=8.0, original_max_position_embeddings=32)),
        prompt_lengths=(37, 150))
    yield GoldenModel("llama-yarn-mscale", llama(
        SMALL, head_dim=32, max_position_embeddings=256,
        rope_parameters=rope("yarn", 100.0, factor=8.0, original_max_position_embeddings=32,
                             beta_fast=2.0, beta_slow=0.5, mscale=1.0, mscale_all_dim=0.6)),
        prompt_lengths=(37, 150))
    yield GoldenModel("qwen3-yarn-factor", qwen3(
        SMALL, head_dim=24, max_position_embeddings=256,
        rope_parameters=rope("yarn", 1000.0, factor=4.0, original_max_position_embeddings=64,
                             attention_factor=1.25, beta_fast=3.0, truncate=False)),
        prompt_lengths=(37, 150))
    yield GoldenModel("mistral-llama3", mistral(
        SMALL, sliding_window=40, max_position_embeddings=256,
        rope_parameters=rope("llama3", 5000.0, factor=4.0, low_freq_factor=1.0,
                             high_freq_factor=3.0, original_max_position_embeddings=48)),
        prompt_lengths=(37, 120))


def shapes_and_options():
    """Biases, ties, windows by layer, and sizes that divide by nothing."""
    odd = SMALL | dict(hidden_size=72, intermediate_size=200, num_attention_heads=6,
                       num_key_value_heads=3)
    yield GoldenModel("llama-biases", llama(
        odd, vocab_size=1100, num_hidden_layers=7, intermediate_size=120,
        attention_bias=True, mlp_bias=True, rms_norm_eps=0.05))
    yield GoldenModel("llama-uneven", llama(
        SMALL, vocab_size=2500, hidden_size=80, intermediate_size=200, num_attention_heads=5,
        num_key_value_heads=1, tie_word_embeddings=True), prompt_lengths=(37, 300))
    yield GoldenModel("llama-many-heads", llama(
        SMALL, hidden_size=72, num_attention_heads=18, num_key_value_heads=6, head_dim=16,
        intermediate_size=560, num_hidden_layers=2))
    yield GoldenModel("mistral-full", mistral(
        odd, sliding_window=None, head_dim=24, num_hidden_layers=5, intermediate_size=110,
        tie_word_embeddings=True))
    yield GoldenModel("qwen2-window", qwen2(
        odd, use_sliding_window=True, sliding_window=20, max_window_layers=2,
        num_hidden_layers=5, intermediate_size=100))
    yield GoldenModel("qwen2-layer-types", qwen2(
        SMALL, use_sliding_window=True, sliding_window=12, head_dim=20, tie_word_embeddings=True,
        layer_types=["full_attention", "sliding_attention", "full_attention"]))
    yield GoldenModel("qwen3-window-biases", qwen3(
        odd, use_sliding_window=True, sliding_window=17, attention_bias=True, head_dim=16,
        rms_norm_eps=0.02, num_hidden_layers=4, intermediate_size=130,
        layer_types=["sliding_attention", "full_attention"] * 2), prompt_lengths=(37, 200))


def transformers4_files():
    """config.json as version 4 writes it: rope_theta beside rope_scaling, torch_dtype, traps."""
    yield GoldenModel("llama-linear-v4", llama(
        SMALL, rope_parameters=rope("linear", 20000.0, factor=2.0)),
        transformers4=dict(rope_scaling={"type": "linear", "factor": 2.0}, pretraining_tp=1))
    yield GoldenModel("llama3-rope-v4", llama(
        SMALL, tie_word_embeddings=True, max_position_embeddings=256,
        rope_parameters=rope("llama3", 500000.0, factor=32.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=64)),
        transformers4=dict(rope_scaling={
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 64, "rope_type": "llama3"}))
    # No head_dim in the file, and a theta that only the top level knows.
    yield GoldenModel("mistral-v4", mistral(
        SMALL, sliding_window=24, rope_parameters=rope("default", 1000000.0)),
        transformers4=dict(head_dim=None, rope_scaling=None))
    # A window that the file names and then switches off.
    yield GoldenModel("qwen2-yarn-v4", qwen2(
        SMALL, max_position_embeddings=256,
        rope_parameters=rope("yarn", 1000.0, factor=4.0, original_max_position_embeddings=64)),
        prompt_lengths=(37, 150),
        transformers4=dict(rope_scaling={"type": "yarn", "factor": 4.0,
                                         "original_max_position_embeddings": 64},
                           use_sliding_window=False, sliding_window=16, max_window_layers=1))
    yield GoldenModel("qwen3-dynamic-v4", qwen3(
        SMALL, head_dim=16, tie_word_embeddings=True, max_position_embeddings=64,
        rope_parameters=rope("dynamic", 50000.0, factor=3.0)),
        prompt_lengths=(37, 120), context_length=192,
        transformers4=dict(rope_scaling={"rope_type": "dynamic", "factor": 3.0}))


def storages():
    """One set of weights in three files, and float32 weights that bfloat16 cannot hold."""
    for storage in ("float32", "float16", "sharded"):
        yield GoldenModel(f"storage-{storage}", llama(SMALL), storage=storage,
                          exact_in=(torch.bfloat16, torch.float16))
    yield GoldenModel("float32-weights", qwen2(SMALL), storage="float32", exact_in=())


def all_models():
    for group in (architectures, rope_scalings, shapes_and_options, transformers4_files, storages):
        yield from group()
