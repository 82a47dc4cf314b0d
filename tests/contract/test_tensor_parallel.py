"""Two processes hold one model together; each edits it alike."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_two_ranks_edit_one_model(request, tmp_path):
    if not request.config.getoption("--whole", default=False):
        pytest.skip("two more processes with a model each: run by `make contract`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    around = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    around["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "src"), around.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tests.contract.two_ranks", str(tmp_path)]
    ranks = [
        subprocess.Popen(
            command,
            env={**around, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            said, _ = rank.communicate(timeout=300)
            assert rank.returncode == 0, said[-3000:]
    finally:
        for rank in ranks:
            rank.kill()
