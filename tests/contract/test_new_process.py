"""Edits that are saved and loaded in a new process: the same logits bit for bit, the same decisions with the same distances."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import torch

from vledit.editors.edited_model import EditedModel

from .rows import ROWS, logits, made

NAMES = ("balancedit-full", "ft", "grace", "mend", "serac")
READ = "from tests.contract.test_new_process import read; read({folders!r})"


def told(model: EditedModel) -> dict[str, list]:
    """Decisions about every row, and the logits of its answer as hexadecimal numbers."""
    decisions = model.route(*zip(*ROWS, strict=True))
    return {
        "decisions": [asdict(one) for one in decisions],
        "logits": [[value.hex() for value in logits(model, *row).flatten().tolist()] for row in ROWS],
    }


def read(folders: dict[str, str]) -> None:
    """What the new process does: prints what the edits in each folder say."""
    from tests.vlm.models import tiny

    found = {name: told(EditedModel.from_pretrained(tiny("pocket"), folder)) for name, folder in folders.items()}
    print(json.dumps(found))


def test_in_a_new_process_saved_edits_decide_and_answer_alike(tmp_path):
    models = {name: made("pocket", name).model() for name in NAMES}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    folders = {name: str(tmp_path / name) for name in NAMES}
    code = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        # as many threads as here: with another number the same sums may be added up in another order
        f"import torch; torch.set_num_threads({torch.get_num_threads()}); " + READ.format(folders=folders),
    ]
    ran = subprocess.run(code, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    here = json.loads(json.dumps({name: told(model) for name, model in models.items()}))
    assert found == here
    fired = {name: [one["fired"] for one in here[name]["decisions"]] for name in NAMES}
    assert fired["balancedit-full"][:2] == [True, False]  # the decisions are not all the same
