"""scripts/check_includes against trees that break one rule each."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKER = Path(__file__).resolve().parents[2] / "scripts" / "check_includes"

GOOD = {
    "kernels/tensor.h": '#pragma once\n#include <vector>\n#include "kernels/check.h"\n',
    "kernels/check.h": "#pragma once\n",
    "comm/mpi_world.cpp": '#include <mpi.h>\n#include "kernels/tensor.h"\n',
    "comm/control/rank_link.h": '#pragma once\n#include "kernels/check.h"\n',
    "comm/control/frame.cpp": '#include "control.pb.h"\n#include "comm/control/rank_link.h"\n',
    "model/partition.h": '#pragma once\n#include "comm/control/rank_link.h"\n',
    "worker/engine.cpp": '#include "model/partition.h"\n#include "comm/control/rank_link.h"\n',
    "coordinator/http/socket.h": "#pragma once\n#include <boost/asio.hpp>\n",
    "coordinator/http/server.cpp": '#include "coordinator/http/socket.h"\n',
    "tests/coordinator/socket_test.cpp": '#include "coordinator/http/socket.h"\n',
    "tests/support/tree.h": "#pragma once\n",
    "tests/worker/engine_test.cpp": '#include "tests/support/tree.h"\n',
    "main.cpp": '#include "comm/control/rank_link.h"\n',
    "build/generated.cpp": '#include "nowhere/at_all.h"\n',
}


def check(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    result = subprocess.run([sys.executable, str(CHECKER), "--root", str(folder)],
                            capture_output=True, text=True, timeout=60, check=False)
    return result.returncode, result.stdout


def test_a_good_tree_passes(tmp_path):
    status, output = check(tmp_path, GOOD)
    assert (status, output) == (0, "13 files checked, 0 findings\n")


@pytest.mark.parametrize("name, text, finding", [
    ("kernels/a.cpp", '#include "comm/control/rank_link.h"\n',
     "kernels/a.cpp:1: kernels/ includes comm/"),
    ("comm/a.cpp", '#include "model/partition.h"\n', "comm/a.cpp:1: comm/ includes model/"),
    ("model/a.h", '\n#  include "worker/b.h"\n', "model/a.h:2: model/ includes worker/"),
    ("worker/a.cpp", '#include "coordinator/b.h"\n',
     "worker/a.cpp:1: worker/ includes coordinator/"),
    ("coordinator/a.cpp", '#include "worker/b.h"\n',
     "coordinator/a.cpp:1: coordinator/ includes worker/"),
    ("tests/kernels/a_test.cpp", '#include "model/partition.h"\n',
     "tests/kernels/a_test.cpp:1: kernels/ includes model/"),
    ("model/a.cpp", '#include "tests/support/tree.h"\n', "only tests include tests"),
    ("model/a.cpp", '#include "model/missing.h"\n', '"model/missing.h" does not exist'),
    ("model/a.cpp", '#include "partition.h"\n', "not written from the repository root"),
    ("model/a.cpp", '#include <model/partition.h>\n', "with quotes"),
    ("main.cpp", '#include "coordinator/http/socket.h"\n',
     "brings <boost/asio.hpp> into the top folder"),
    ("model/a.cpp", "int\ta;\n", "model/a.cpp:1: a tab"),
    ("model/a.cpp", "//" + "x" * 99 + "\n", "model/a.cpp:1: the line has 101 columns"),
    ("model/a.cpp", "\n" * 501, "model/a.cpp:501: the file has 501 lines"),
    ("scripts/task", "#!/bin/sh\n# " + "x" * 99, "scripts/task:2: the line has 101 columns"),
])
def test_a_broken_rule_is_named(tmp_path, name, text, finding):
    extra = {"worker/b.h": "", "coordinator/b.h": "", name: text}
    status, output = check(tmp_path, GOOD | extra)
    assert status == 1
    assert finding in output
    assert output.endswith(" 1 findings\n")


def test_a_private_library_behind_two_headers_is_found(tmp_path):
    status, output = check(tmp_path, GOOD | {
        "comm/inner.h": "#pragma once\n#include <mpi.h>\n",
        "comm/outer.h": '#pragma once\n#include "comm/inner.h"\n',
        "worker/a.cpp": '#include "comm/outer.h"\n',
    })
    assert status == 1
    assert 'worker/a.cpp:1: "comm/outer.h" brings <mpi.h> into worker' in output


def test_the_soft_limit_is_advice(tmp_path):
    status, output = check(tmp_path, GOOD | {"model/a.cpp": "\n" * 401})
    assert status == 0
    assert "model/a.cpp:401: advice" in output
