"""A rank keeps to its share of the weights: the packed file is mapped, and only touched where the
rank's own blocks lie."""

import json
import random
import shutil
import struct

import pytest
from trireme_process import REPO, http_post

SHAPE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8,
    "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 8192,
}
OVERHEAD_BYTES = 150 << 20       # what a rank may have besides its weights and KV pool
MIB = 1 << 20


def tensors():
    """{name: shape} of a tied Llama."""
    h, i = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    kv = h // SHAPE["num_attention_heads"] * SHAPE["num_key_value_heads"]
    yield "model.embed_tokens.weight", (SHAPE["vocab_size"], h)
    yield "model.norm.weight", (h,)
    for layer in range(SHAPE["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, shape in (
                ("input_layernorm", (h,)), ("post_attention_layernorm", (h,)),
                ("self_attn.q_proj", (h, h)), ("self_attn.k_proj", (kv, h)),
                ("self_attn.v_proj", (kv, h)), ("self_attn.o_proj", (h, h)),
                ("mlp.gate_proj", (i, h)), ("mlp.up_proj", (i, h)), ("mlp.down_proj", (h, i))):
            yield f"{prefix}{name}.weight", shape


@pytest.fixture(scope="module")
def large_model(tmp_path_factory):
    """A model of 270 MB with small random weights, and the demo model's tokenizer."""
    folder = tmp_path_factory.mktemp("large")
    config = json.loads((REPO / "demo/model/config.json").read_text()) | SHAPE | {"head_dim": 64}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(REPO / "demo/model" / name, folder)
    rng = random.Random(1)
    # bfloat16 numbers of up to 1/32, either sign
    pattern = struct.pack("<65536H", *(rng.choice((0x3C00, 0x3CC0, 0xBC40, 0xBCA0, 0x0000))
                                       for _ in range(65536)))
    header, offset = {}, 0
    for name, shape in tensors():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for begin in range(0, offset, len(pattern)):
            file.write(pattern[:min(len(pattern), offset - begin)])
    yield folder
    shutil.rmtree(folder)


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no VmRSS")


@pytest.mark.parametrize("launcher", ("local", "mpirun"))
def test_resident_memory_of_each_rank(start_server, large_model, launcher):
    tp, pp, context, sequences = 2, 2, 512, 4
    server = start_server("--tp", tp, "--pp", pp, "--launcher", launcher, "--max-sequences",
                          sequences, "--context-length", context, model=large_model)
    status, body = http_post(server.url + "/v1/completions",
                             {"model": large_model.name, "prompt": "Once upon a time " * 60,
                              "max_tokens": 8, "ignore_eos": True})
    assert status == 200, body
    file_bytes = (large_model / "model.safetensors").stat().st_size
    embedding_bytes = 2 * SHAPE["vocab_size"] * SHAPE["hidden_size"]
    layers_bytes = file_bytes - embedding_bytes
    share = (layers_bytes / pp + embedding_bytes) / tp
    kv_bytes = (sequences * context * 2 * 2 * SHAPE["num_hidden_layers"] / pp
                * 64 * SHAPE["num_key_value_heads"] / tp)
    limit = share + kv_bytes + OVERHEAD_BYTES
    # A rank that touched everything would show.
    assert file_bytes > limit
    pids = server.rank_pids()
    assert len(pids) == tp * pp
    for pid in pids:
        resident = resident_bytes(pid)
        assert share * 0.9 < resident < limit, (
            f"rank process {pid}: {resident / MIB:.0f} MiB resident, share {share / MIB:.0f}, "
            f"limit {limit / MIB:.0f}")
