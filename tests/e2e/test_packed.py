"""Packed weights: trireme pack, verify, and what is refused, remade or found out while serving."""

import re

import pytest
from trireme_process import REPO, run_command

LLAMA = REPO / "tests" / "golden" / "llama"
PROMPT = '{"input_ids":[1,2,3,4,5,6,7]}\n'
REMAKE = "trireme pack MODEL {} --format"


def ok(result):
    assert result.returncode == 0, result.stderr
    return result.stdout


def logits(surroundings, model, *options):
    return ok(run_command(surroundings, "logits", model, "--max-new", 4, *options, stdin=PROMPT))


@pytest.fixture
def packed(surroundings):
    """The demo model as a packed folder in bfloat16."""
    out = surroundings.temporary / "packed"
    ok(run_command(surroundings, "pack", "demo", out, "--format", "bf16"))
    return out


def damage(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 8]))


def test_a_packed_model_gives_the_same_bytes(surroundings, packed):
    expected = logits(surroundings, "demo")
    assert logits(surroundings, packed) == expected
    assert logits(surroundings, packed / "weights.trireme", "--tp", 2) == expected
    text = ok(run_command(surroundings, "run", packed, "-p", "Once", "--max-tokens", 5))
    assert text.startswith("Once")
    assert "every checksum fits" in ok(run_command(surroundings, "verify", packed))


@pytest.mark.parametrize("name, formats, ratio", (
    ("fp16", "float16", 1.00), ("int8", "int8", 0.51), ("int4", "int4", 0.29)))
def test_pack_says_what_it_made(surroundings, name, formats, ratio):
    out = surroundings.temporary / "x.trireme"
    said = ok(run_command(surroundings, "pack", "demo", out, "--format", name))
    match = re.search(r"as (\w+): .* of .* \(([\d.]+)x\) in [\d.]+ s", said)
    assert match.group(1) == formats
    assert abs(float(match.group(2)) - ratio) <= 0.01
    assert formats in ok(run_command(surroundings, "verify", out))
    assert f"as {formats}" in ok(run_command(surroundings, "inspect", out))


@pytest.mark.parametrize("arguments, said", (
    (("pack", "demo", "/proc/none", "--format", "int8"), "/proc/none: cannot be made"),
    (("pack", "demo", "x.trireme", "--format", "int3"),
     "--format int3 is unknown: use bfloat16, float16, int8, int4 or float32"),
    (("pack", "nowhere", "x.trireme"), "nowhere: no such folder"),
    (("verify", "nowhere"), "nowhere: no such folder"),
    (("verify", LLAMA, "--dtype", "float16"), "the cache holds no float16 weights"),
))
def test_refusals(surroundings, arguments, said):
    result = run_command(surroundings, *arguments)
    assert result.returncode == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


def test_another_format_than_the_packed_one_is_refused(surroundings, packed):
    result = run_command(surroundings, "run", packed, "-p", "x", "--dtype", "float32")
    assert result.returncode == 1
    assert "holds bfloat16 weights, not float32" in result.stderr
    assert "trireme pack MODEL OUT --format float32" in result.stderr


@pytest.mark.parametrize("spoil, said", (
    (lambda file: damage(file, 8), "packed version"),
    (lambda file: damage(file, 100), "the header is damaged"),
    (lambda file: file.write_bytes(file.read_bytes()[:5_000_000]), "its head says"),
))
def test_a_bad_file_is_refused_with_the_command_that_remakes_it(surroundings, packed, spoil, said):
    spoil(packed / "weights.trireme")
    for command in (("logits",), ("verify",), ("inspect",)):
        result = run_command(surroundings, *command, packed, stdin=PROMPT)
        assert result.returncode == 1
        assert str(packed / "weights.trireme") in result.stderr
        assert said in result.stderr
        assert REMAKE.format(packed) in result.stderr


def test_damage_is_found_by_verify_and_while_serving(surroundings, packed):
    damage(packed / "weights.trireme", 5_000_001)
    said = r'weights\.trireme: at byte \d+: leaf \d+ of "layers\.1\.\w+" is damaged'
    result = run_command(surroundings, "verify", packed)
    assert result.returncode == 1
    assert re.search(said, result.stderr), result.stderr
    # Served by two ranks: the one that holds it finds it, and the group is not started again.
    result = run_command(surroundings, "serve", packed, "--tp", 2, "--port", 0)
    assert result.returncode == 1
    assert re.search(said, result.stderr.splitlines()[-1]), result.stderr
    assert REMAKE.format(packed) in result.stderr.splitlines()[-1]
    assert "starting it again" not in result.stderr


def test_a_bad_file_in_the_cache_is_made_again(surroundings, tmp_path):
    surroundings.environment["TRIREME_CACHE"] = str(tmp_path)
    expected = logits(surroundings, LLAMA)
    cached = next(tmp_path.rglob("*.trireme"))
    damage(cached, 8)
    result = run_command(surroundings, "logits", LLAMA, "--max-new", 4, stdin=PROMPT)
    assert result.stdout == expected
    assert result.stderr.count("\n") == 1
    assert "made again" in result.stderr
    assert "every checksum fits" in ok(run_command(surroundings, "verify", LLAMA))


def test_a_cache_that_cannot_be_written_falls_back(surroundings):
    expected = logits(surroundings, LLAMA)
    surroundings.environment["TRIREME_CACHE"] = "/proc/none"
    result = run_command(surroundings, "logits", LLAMA, "--max-new", 4, "--tp", 2, stdin=PROMPT)
    assert result.returncode == 0, result.stderr
    assert result.stdout == expected
    assert result.stderr.count("\n") == 1
    assert "/proc/none: cannot be written" in result.stderr
    assert str(surroundings.temporary) in result.stderr
    surroundings.assert_nothing_left()
