"""Tensor and pipeline parallelism across two hosts (network namespaces), the coordinator outside
both."""

import json
import os
import subprocess

import pytest
from trireme_process import REPO, run_command

SCRIPTS = REPO / "scripts" / "two_hosts"
SCRIPT_DEADLINE_S = 30


def run_script(name, subnet):
    return subprocess.run([SCRIPTS / name, subnet], capture_output=True, text=True,
                          timeout=SCRIPT_DEADLINE_S)


@pytest.fixture
def subnet():
    """Two hosts at SUBNET.1 and SUBNET.2, this host at SUBNET.254; gone after the test."""
    reason = "no attempt"
    for attempt in range(20):
        # Another run on this machine has another process id, and up.sh refuses a network in use.
        candidate = f"10.77.{(os.getpid() + 37 * attempt) % 250}"
        result = run_script("up.sh", candidate)
        if result.returncode == 0:
            yield candidate
            down = run_script("down.sh", candidate)
            assert down.returncode == 0, down.stderr
            return
        reason = result.stderr.strip()
        if "in use" not in reason:
            break
    pytest.skip(f"two hosts were NOT tested, as network namespaces are not to be had: {reason}")


def test_two_hosts_give_the_bytes_of_one_rank(surroundings, subnet, tmp_path):
    prompts = json.loads((REPO / "demo/model/golden.json").read_text())["prompts"]
    stdin = "".join(json.dumps({"input_ids": p["input_ids"]}) + "\n" for p in prompts)
    one_rank = run_command(surroundings, "logits", "demo", "--max-new", 32, stdin=stdin)
    assert one_rank.returncode == 0, one_rank.stderr

    hosts = f"{subnet}.1,{subnet}.2"
    config = tmp_path / "cluster.yaml"
    config.write_text(
        "launcher:\n"
        "  kind: mpirun\n"
        f"  hosts: [{hosts.replace(',', ', ')}]\n"
        "  mpirun_args:\n"
        f"    [--mca, plm_rsh_agent, {SCRIPTS / 'rsh.sh'},\n"
        "     --mca, plm_rsh_no_tree_spawn, '1',\n"
        f"     --mca, oob_tcp_if_include, {subnet}.0/24,\n"
        f"     --mca, btl_tcp_if_include, {subnet}.0/24]\n"
        f"control_address: {subnet}.254\n")
    two_hosts = run_command(
        surroundings, "logits", "demo", "--max-new", 32, "--tp", 2, "--pp", 2,
        "--launcher", "mpirun", "--hosts", hosts, "--config", config, stdin=stdin)
    assert two_hosts.returncode == 0, two_hosts.stderr
    assert len(one_rank.stdout.splitlines()) == len(prompts)
    assert two_hosts.stdout == one_rank.stdout
    surroundings.assert_nothing_left()
