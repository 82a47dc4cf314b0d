"""Edits that are saved and loaded in a new process: the same logits bit for bit, the same decisions with the same distances.

Both processes are new ones: what other tests have set in this one (kernels, precision) is no part of the promise.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from vledit.editors.edited_model import EditedModel

from .rows import ROWS, logits, made

NAMES = ("balancedit-full", "ft", "grace", "mend", "serac")


def told(model: EditedModel) -> dict[str, list]:
    """Decisions about every row, and the logits of its answer as hexadecimal numbers."""
    decisions = model.route(*zip(*ROWS, strict=True))
    return {
        "decisions": [asdict(one) for one in decisions],
        "logits": [[value.hex() for value in logits(model, *row).flatten().tolist()] for row in ROWS],
    }


def write(folder: str) -> None:
    """What the first process does: makes the edits, saves them, and prints what they say."""
    models = {name: made("pocket", name).model() for name in NAMES}
    for name, model in models.items():
        model.save_pretrained(Path(folder) / name)
    print(json.dumps({name: told(model) for name, model in models.items()}))


def read(folder: str) -> None:
    """What the second process does: prints what the saved edits say."""
    from tests.vlm.models import tiny

    found = {name: told(EditedModel.from_pretrained(tiny("pocket"), Path(folder) / name)) for name in NAMES}
    print(json.dumps(found))


def ran(what: str, folder: Path) -> dict[str, dict[str, list]]:
    """What a new process prints that does `write` or `read`."""
    modules = "import torch; torch.set_num_threads(1); from tests.contract.test_new_process import read, write"
    code = f"{modules}; {what}({str(folder)!r})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_in_a_new_process_saved_edits_decide_and_answer_alike(tmp_path):
    before, after = ran("write", tmp_path), ran("read", tmp_path)
    assert after == before
    fired = {name: [one["fired"] for one in before[name]["decisions"]] for name in NAMES}
    assert fired["balancedit-full"][:2] == [True, False]  # the decisions are not all the same
