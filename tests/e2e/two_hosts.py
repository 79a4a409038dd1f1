"""Two hosts on this machine: network namespaces on a bridge, the coordinator outside both."""

import os
import subprocess
import time

import pytest
from trireme_process import REPO

SCRIPTS = REPO / "scripts" / "two_hosts"
SCRIPT_DEADLINE_S = 30


def run_script(name, subnet):
    return subprocess.run([SCRIPTS / name, subnet], capture_output=True, text=True,
                          timeout=SCRIPT_DEADLINE_S)


def two_hosts():
    """A fixture's body. A subnet with two hosts at SUBNET.1 and SUBNET.2, this host at SUBNET.254;
    gone after the test."""
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
        # Of a network that was taken down a moment ago, the kernel may hold a link still.
        if "in use" not in reason and "File exists" not in reason:
            break
    pytest.skip(f"two hosts were NOT tested, as network namespaces are not to be had: {reason}")


def cluster_file(path, subnet, agent=SCRIPTS / "rsh.sh", **deadlines):
    """Writes it: mpirun over the two hosts, which `agent` reaches."""
    path.write_text(
        "launcher:\n"
        "  kind: mpirun\n"
        f"  hosts: [{subnet}.1, {subnet}.2]\n"
        "  mpirun_args:\n"
        f"    [--mca, plm_rsh_agent, {agent},\n"
        "     --mca, plm_rsh_no_tree_spawn, '1',\n"
        f"     --mca, oob_tcp_if_include, {subnet}.0/24,\n"
        f"     --mca, btl_tcp_if_include, {subnet}.0/24]\n"
        f"control_address: {subnet}.254\n"
        "deadlines:\n"
        + "".join(f"  {key}: {value}\n" for key, value in deadlines.items())
        + "  stop_ms: 5000\n")
    return path


def inside(subnet, host, *command):
    """Runs a command on one of the hosts."""
    subprocess.run(["nsenter", f"--net=/run/netns/trireme-{subnet}.{host}", *command], check=True,
                   timeout=SCRIPT_DEADLINE_S)


def port_state(subnet, host, all_or_nothing):
    """Arguments of `bridge`: whether the switch between the hosts passes on what comes from and
    goes to this one. Neither side is told, as by a failing switch. (A link set down and up again
    stays down for a second.)"""
    return ["link", "set", "dev", f"tv{host}{subnet.replace('.', '')}", "state",
            "3" if all_or_nothing else "0"]  # forwarding, disabled


def let_through(subnet, host, all_or_nothing):
    subprocess.run(["bridge", *port_state(subnet, host, all_or_nothing)], check=True,
                   timeout=SCRIPT_DEADLINE_S)


def blip(subnet, host, seconds):
    """Nothing passes for so long, and not for as long as this machine is busy with other things."""
    down, up = (" ".join(port_state(subnet, host, state)) for state in (False, True))
    script = '{ sleep 0.1; echo "$1"; sleep "$2"; echo "$3"; } | bridge -batch -'
    subprocess.run(["nice", "-n", "-20", "bash", "-c", script, "_", down, str(seconds), up],
                   check=True, timeout=SCRIPT_DEADLINE_S)
