"""scripts/random_model: the folder it writes, read by the format's own rules."""

import json
import math
import struct
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "random_model"


def run(*arguments):
    done = subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True,
                          timeout=120)
    return done.returncode, done.stdout, done.stderr


def write(folder, *options):
    status, _, errors = run(folder, "--shape", "tiny", *options)
    assert status == 0, errors
    return folder


def read_tensors(folder):
    """name -> (dtype, shape, bytes), after checking that the header leaves no gap."""
    content = (folder / "model.safetensors").read_bytes()
    header_bytes = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + header_bytes])
    values = content[8 + header_bytes:]
    end = 0
    for entry in header.values():
        assert entry["data_offsets"][0] == end
        end = entry["data_offsets"][1]
    assert end == len(values) and (8 + header_bytes) % 8 == 0
    return {name: (entry["dtype"], entry["shape"], values[slice(*entry["data_offsets"])])
            for name, entry in header.items()}


def bfloat16_values(content):
    for (half,) in struct.iter_unpack("<H", content):
        yield struct.unpack("<f", struct.pack("<I", half << 16))[0]


def test_the_tensors_fit_the_config(tmp_path):
    folder = write(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    tensors = read_tensors(folder)
    assert len(tensors) == 2 + 9 * config["num_hidden_layers"]  # the head is tied
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    assert tensors["model.layers.1.mlp.down_proj.weight"][:2] == ("BF16", [hidden, mlp])
    kv = config["num_key_value_heads"] * config["head_dim"]
    assert tensors["model.layers.0.self_attn.k_proj.weight"][1] == [kv, hidden]
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json"]


def test_the_tokenizer_has_a_text_for_every_id(tmp_path):
    folder = write(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = sorted(tokenizer["model"]["vocab"].values())
    assert ids == list(range(config["vocab_size"]))
    contents = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    named = json.loads((folder / "tokenizer_config.json").read_text())
    assert contents[named["bos_token"]] == config["bos_token_id"]
    assert contents[named["eos_token"]] == config["eos_token_id"]


def test_weights_are_spread_about_zero_and_norms_about_one(tmp_path):
    tensors = read_tensors(write(tmp_path / "model"))
    for name, mean in (("model.embed_tokens.weight", 0), ("model.norm.weight", 1)):
        values = list(bfloat16_values(tensors[name][2]))
        found = sum(values) / len(values)
        spread = math.sqrt(sum((value - found) ** 2 for value in values) / len(values))
        assert abs(found - mean) < 0.01
        assert 0.01 < spread < 0.03


def test_the_seed_decides_the_bytes(tmp_path):
    first = read_tensors(write(tmp_path / "a"))
    again = read_tensors(write(tmp_path / "b"))
    other = read_tensors(write(tmp_path / "c", "--seed", 1))
    assert first == again
    assert first["model.norm.weight"] != other["model.norm.weight"]


@pytest.mark.parametrize("dtype, name, value_bytes", [("float32", "F32", 4), ("float16", "F16", 2)])
def test_other_dtypes(tmp_path, dtype, name, value_bytes):
    tensors = read_tensors(write(tmp_path / "model", "--dtype", dtype))
    found, shape, content = tensors["model.embed_tokens.weight"]
    assert found == name and len(content) == shape[0] * shape[1] * value_bytes


def test_a_folder_in_use_is_left_alone_unless_forced(tmp_path):
    (tmp_path / "note").write_text("mine")
    status, _, errors = run(tmp_path, "--shape", "tiny")
    assert status == 1 and "--force" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    write(tmp_path, "--force")
    assert (tmp_path / "note").read_text() == "mine"
    assert read_tensors(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    status, _, errors = run(tmp_path / "file", "--shape", "tiny")
    assert status == 1 and str(tmp_path / "file") in errors and len(errors.splitlines()) == 1


def test_the_list_names_the_shapes():
    status, output, _ = run("--list")
    assert status == 0
    assert "llama-1b" in output and "1.236 B" in output and "llama-8b" in output
