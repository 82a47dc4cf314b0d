"""`docs/write_an_editor.md`, followed: the example is installed as a package of its own, found, used, held to the contract."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.contract import rows, test_contract_edits, test_contract_running
from tests.contract.test_contract_attached import test_an_attached_model_answers_as_the_edited_one as attached_answers
from vledit.data.case import EditRequest
from vledit.editors import registry
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError, UnknownNameError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "rank_one_editor"
PAGE = ROOT / "docs" / "write_an_editor.md"
CLAUSES = (
    test_contract_edits.test_the_edit_fires,
    test_contract_edits.test_undo_is_bit_exact,
    test_contract_edits.test_disabling_shows_the_base,
    test_contract_edits.test_generate_gives_the_answer,
    test_contract_running.test_a_request_without_a_picture_runs,
)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A folder that the example is installed into, as pip installs a package."""
    source, target = tmp_path_factory.mktemp("source") / "example", tmp_path_factory.mktemp("installed")
    shutil.copytree(EXAMPLE, source)  # a build writes beside its sources
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def installed(target, monkeypatch):
    monkeypatch.syspath_prepend(str(target))
    yield target
    sys.modules.pop("vledit_rank_one", None)


def test_without_the_package_there_is_no_such_editor():
    with pytest.raises(UnknownNameError, match="rank_one"):
        registry.editor("rank_one")


def test_the_command_line_finds_it(target):
    places = os.pathsep.join([str(target), str(ROOT / "src")])
    run = "import sys; from vledit.cli import main; sys.argv = ['vledit', 'editors']; main()"
    done = subprocess.run(
        [sys.executable, "-c", run],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": places, "COLUMNS": "160"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"rank_one\s.*from vledit-rank-one", done.stdout)


def test_it_edits_undoes_saves_and_loads(installed, tmp_path):
    vlm = rows.tiny("llava")
    model = EditedModel(vlm)
    request, other = rows.REQUEST, EditRequest(*rows.UNRELATED, "a tree")
    before = rows.logits(model, *rows.ROWS[0])
    edit = model.edit(request, "rank_one", steps=200)
    model.edit(other, "rank_one", steps=200)
    assert model.answer(request.image, request.question).text == request.answer
    model.save_pretrained(tmp_path)
    again = EditedModel.from_pretrained(vlm, tmp_path)
    assert torch.equal(rows.logits(again, *rows.ROWS[0]), rows.logits(model, *rows.ROWS[0]))
    for id in list(again.weights):
        again.remove(id)
    assert torch.equal(rows.logits(again, *rows.ROWS[0]), before)
    assert edit.editor == "rank_one"
    with pytest.raises(InputError, match="steps: 0 given"):
        registry.editor("rank_one", steps=0)
    with pytest.raises(UnknownNameError, match="setting"):
        registry.editor("rank_one", step=5)


def test_each_answer_token_reads_its_own_vector(installed):
    """What the method says of itself, against the layer's own inputs."""
    vlm = rows.tiny("llava")
    edit = registry.editor("rank_one", steps=200).edit(vlm, rows.REQUEST)
    ((site, change),) = edit.weights.items()
    encoded = vlm.encode([rows.REQUEST.image], [rows.REQUEST.question], [rows.REQUEST.answer])
    entering = vlm.site_input(vlm.trunk(encoded, 0), site)[encoded.predict_mask]
    torch.testing.assert_close(change.delta(entering), change.directions.T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["llava", "blip2"])
def test_the_contract_holds_it(family, installed, monkeypatch, tmp_path):
    """With the very row of the page."""
    (text,) = re.findall(r"^EditorRow\((.*)\)$", PAGE.read_text(), re.MULTILINE)
    row = rows.EditorRow(*ast.literal_eval(f"({text})"))
    monkeypatch.setitem(rows.EDITORS, row.name, row)
    one = rows.made(family, row.name)
    assert one.always
    for clause in CLAUSES:
        clause(one)
    test_contract_edits.test_merging_bakes_in_or_is_refused(one, (family, row.name))
    test_contract_edits.test_saved_and_loaded_logits_are_the_same(one, tmp_path)
    attached_answers(one, (family, row.name))


def test_the_page_shows_the_files_own_lines():
    """The table's entry point and the class's attributes are those of the example."""
    page, source = PAGE.read_text(), (EXAMPLE / "vledit_rank_one.py").read_text()
    assert re.search(r"^rank_one = .*$", page, re.MULTILINE)[0] in (EXAMPLE / "pyproject.toml").read_text()  # type: ignore[index]
    for name in ("gated = False", "adds_up = True", 'name = "rank_one"', "Config = RankOneConfig"):
        assert name in page
        left, right = name.split(" = ")
        assert re.search(rf"{left}: ClassVar\[.*\] = {right}", source)
