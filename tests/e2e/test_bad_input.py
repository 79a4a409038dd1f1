"""What cannot work ends within its deadline with one line that names cause and mend, a non-zero
exit, and nothing left behind."""

import json
import re
import shutil
import socket

import pytest
from trireme_process import REPO, free_port, run_command

GOLDEN = REPO / "tests" / "golden"
BASE = GOLDEN / "storage-float32"     # 4 heads, 2 KV heads, 3 layers, 3 MLP leaves
REQUEST = '{"input_ids": [1, 5, 9]}\n'
DEADLINE_S = 120


def assert_refused(surroundings, result, *named):
    """One line on standard error, naming each of `named` (regular expressions)."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode > 0, f"exit {result.returncode}: {result.stderr}"
    assert len(lines) == 1, result.stderr
    for pattern in named:
        assert re.search(pattern, lines[0], re.IGNORECASE), f"{pattern!r} not in: {lines[0]}"
    assert result.stdout == ""
    surroundings.assert_nothing_left()


@pytest.fixture
def model(tmp_path):
    """A copy of a golden model, to be broken."""
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    return folder


def logits(surroundings, model, *options, stdin=REQUEST):
    return run_command(surroundings, "logits", model, *options, stdin=stdin, deadline_s=DEADLINE_S)


def test_the_unbroken_model_works(surroundings, model):
    result = logits(surroundings, model)
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["last_logits"]) == 320


# Files

def test_missing_folder(surroundings, tmp_path):
    result = logits(surroundings, tmp_path / "no-such-model")
    assert_refused(surroundings, result, "no-such-model")


@pytest.mark.parametrize("name", ("config.json", "model.safetensors"))
def test_missing_file(surroundings, model, name):
    (model / name).unlink()
    assert_refused(surroundings, logits(surroundings, model), re.escape(name))


def test_missing_tokenizer(surroundings, model):
    result = run_command(surroundings, "serve", model, "--port", free_port(),
                         deadline_s=DEADLINE_S)
    assert_refused(surroundings, result, "tokenizer.json")


def test_missing_shard(surroundings, tmp_path):
    folder = tmp_path / "sharded"
    shutil.copytree(GOLDEN / "storage-sharded", folder)
    shard = "model-00002-of-00004.safetensors"
    (folder / shard).unlink()
    assert_refused(surroundings, logits(surroundings, folder), shard)


def test_index_that_lies(surroundings, tmp_path):
    folder = tmp_path / "sharded"
    shutil.copytree(GOLDEN / "storage-sharded", folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = sorted(set(index["weight_map"].values()))
    at = files.index(index["weight_map"]["model.norm.weight"])
    index["weight_map"]["model.norm.weight"] = files[(at + 1) % len(files)]
    path.write_text(json.dumps(index))
    assert_refused(surroundings, logits(surroundings, folder), "model.norm.weight")


@pytest.mark.parametrize("file_name", ("../../etc/passwd", "/etc/passwd", "sub/../../x"))
def test_index_that_points_outside(surroundings, tmp_path, file_name):
    folder = tmp_path / "sharded"
    shutil.copytree(GOLDEN / "storage-sharded", folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = file_name
    path.write_text(json.dumps(index))
    assert_refused(surroundings, logits(surroundings, folder), re.escape(file_name))


# Safetensors

def rewrite_header(path, change):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    change(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data[8 + size:])


def move(name, begin, end):
    """Shifts a tensor's offsets."""
    def change(header):
        offsets = header[name]["data_offsets"]
        header[name]["data_offsets"] = [offsets[0] + begin, offsets[1] + end]
    return change


def put(name, key, value):
    def change(header):
        header[name][key] = value
    return change


HEADERS = {
    "overlap": move("model.norm.weight", -4, -4),
    "past-the-end": move("model.norm.weight", 10**12, 10**12),
    "negative": put("model.norm.weight", "data_offsets", [-192, 0]),
    "backwards": put("model.norm.weight", "data_offsets", [192, 0]),
    "wrong-size": move("model.norm.weight", 0, -4),
    "wrong-shape": put("model.norm.weight", "shape", [47]),
    "huge-shape": put("model.norm.weight", "shape", [2**62, 16]),
    "negative-shape": put("model.norm.weight", "shape", [-48]),
    "text-shape": put("model.norm.weight", "shape", "48"),
    "unknown-dtype": put("model.norm.weight", "dtype", "F13"),
    "integer-dtype": put("model.norm.weight", "dtype", "I32"),
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS.keys())
def test_safetensors_header_that_lies(surroundings, model, change):
    rewrite_header(model / "model.safetensors", change)
    assert_refused(surroundings, logits(surroundings, model), "model.safetensors", "tensor|norm")


@pytest.mark.parametrize("n_bytes", (0, 5, 8, 100, -1, -1000))
def test_truncated_safetensors(surroundings, model, n_bytes):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert_refused(surroundings, logits(surroundings, model), "model.safetensors")


@pytest.mark.parametrize("start", (
    b"\xff" * 8, (2**63).to_bytes(8, "little"), (10**9).to_bytes(8, "little"),
    b"\x05\0\0\0\0\0\0\0{]{]{", b"\x02\0\0\0\0\0\0\0[]"),
    ids=("all-ones", "2^63", "1e9", "not-json", "list"))
def test_safetensors_start_that_lies(surroundings, model, start):
    path = model / "model.safetensors"
    path.write_bytes(start + path.read_bytes()[len(start):])
    assert_refused(surroundings, logits(surroundings, model), "model.safetensors")


# Configuration

CONFIGS = {
    # id: (what is changed, what the line must name)
    "wider": ({"hidden_size": 96}, "hidden_size|shape"),
    "more-layers": ({"num_hidden_layers": 9}, "layers.3"),
    "larger-vocabulary": ({"vocab_size": 1000}, "vocab_size|embed_tokens|lm_head"),
    "wider-mlp": ({"intermediate_size": 128}, "intermediate_size|mlp"),
    "kv-heads": ({"num_key_value_heads": 3}, "num_key_value_heads"),
    "more-kv-heads": ({"num_key_value_heads": 8}, "num_key_value_heads|k_proj"),
    "odd-head": ({"head_dim": 13}, "head_dim"),
    "no-heads": ({"num_attention_heads": 0}, "num_attention_heads"),
    "negative": ({"intermediate_size": -96}, "intermediate_size"),
    "huge": ({"hidden_size": 10**18}, "hidden_size"),
    "huge-layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers|layers"),
    "text": ({"hidden_size": "forty-eight"}, "hidden_size"),
    "fraction": ({"hidden_size": 48.5}, "hidden_size"),
    "architecture": ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "GPT2|gpt2"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act|gelu"),
    "no-epsilon": ({"rms_norm_eps": -1}, "rms_norm_eps"),
    "rope-type": ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
    "rope-factor": ({"rope_parameters": {"rope_type": "linear"}}, "factor"),
    "rope-zero": ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor"),
    "rope-theta": ({"rope_parameters": {"rope_type": "default", "rope_theta": -1}}, "rope_theta"),
}


@pytest.mark.parametrize("change, named", CONFIGS.values(), ids=CONFIGS.keys())
def test_config_that_lies(surroundings, model, change, named):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert_refused(surroundings, logits(surroundings, model), named)


@pytest.mark.parametrize("text", ("", "{", "[]", "null", '{"model_type": "llama"}'))
def test_config_that_is_none(surroundings, model, text):
    (model / "config.json").write_text(text)
    assert_refused(surroundings, logits(surroundings, model), "config.json|hidden_size|architect")


# Layouts, ports, hosts, options

@pytest.mark.parametrize("options, named", (
    (("--tp", 4), "3"),        # three blocks of MLP columns: the largest TP
    (("--tp", 100), "3"),
    (("--pp", 4), "3"),
    (("--tp", 0), "--tp"),
    (("--pp", -1), "--pp"),
    (("--tp", "two"), "--tp"),
    (("--launcher", "carrier-pigeon"), "carrier-pigeon"),
    (("--dtype", "int3"), "int3"),
), ids=lambda value: "".join(map(str, value)) if isinstance(value, tuple) else "")
def test_layout_that_cannot_be(surroundings, model, options, named):
    assert_refused(surroundings, logits(surroundings, model, *options), named)


def test_port_in_use(surroundings):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        result = run_command(surroundings, "serve", "demo", "--port", port,
                             deadline_s=DEADLINE_S)
    assert_refused(surroundings, result, str(port), "in use")


def test_unreachable_host(surroundings, model):
    host = "no-such-host.invalid"  # a name that never resolves (RFC 2606)
    result = logits(surroundings, model, "--tp", 2, "--launcher", "mpirun",
                    "--hosts", host)
    assert_refused(surroundings, result, re.escape(host))


def test_launch_that_hangs_meets_its_deadline(surroundings, model, tmp_path):
    agent = tmp_path / "agent"
    agent.write_text("#!/bin/sh\nexec sleep 1000\n")
    agent.chmod(0o755)
    config = tmp_path / "cluster.yaml"
    config.write_text(
        "launcher:\n"
        "  kind: mpirun\n"
        "  hosts: [no-such-host.invalid]\n"
        f"  mpirun_args: [--mca, plm_rsh_agent, {agent}]\n"
        "deadlines: {launch_ms: 3000}\n")
    result = logits(surroundings, model, "--tp", 2, "--config", config)
    assert_refused(surroundings, result, r"launch deadline: .* within 3\.0 s")


@pytest.mark.parametrize("deadline", ("launch_ms: 0", "launch_ms: -1", "launch_ms: 86400001",
                                      "launch_ms: soon", "launch_ms: 99999999999", "lunch_ms: 1"))
def test_deadline_that_cannot_be(surroundings, model, tmp_path, deadline):
    config = tmp_path / "cluster.yaml"
    config.write_text(f"deadlines:\n  {deadline}\n")
    assert_refused(surroundings, logits(surroundings, model, "--config", config),
                   r"deadlines\.l|line 2")


def test_unknown_option_suggests_the_nearest(surroundings):
    result = run_command(surroundings, "serve", "demo", "--prot", 1)
    assert_refused(surroundings, result, "--prot", r"--port\b")


@pytest.mark.parametrize("tokens", ("0", "-1", "1048577", "9" * 20, "many", "1.5", ""))
def test_graph_of_an_odd_number_of_tokens(surroundings, tokens):
    assert_refused(surroundings, run_command(surroundings, "inspect", "demo", "--graph", tokens),
                   "--graph")


def test_help_is_help(surroundings):
    for arguments in (("--help",), ("serve", "--help"), ("logits", "--help")):
        result = run_command(surroundings, *arguments)
        assert result.returncode == 0 and len(result.stdout.splitlines()) > 5


# Requests of `logits`

@pytest.mark.parametrize("line, named", (
    ("{", "line 2"),
    ('{"input_ids": []}', "line 2"),
    ('{"input_ids": [320]}', "320"),
    ('{"input_ids": [-1]}', "-1"),
    ('{"input_ids": "1 2 3"}', "input_ids"),
    ('{"ids": [1]}', "input_ids"),
    ('{"input_ids": [' + ", ".join(["5"] * 600) + "]}", "600"),
), ids=("not-json", "empty", "too-large", "negative", "text", "no-ids", "too-long"))
def test_bad_request_line(surroundings, model, line, named):
    result = logits(surroundings, model, stdin=REQUEST + line + "\n")
    assert result.returncode > 0
    lines = [text for text in result.stderr.splitlines() if text.strip()]
    assert len(lines) == 1 and re.search(named, lines[0]), result.stderr
    surroundings.assert_nothing_left()
