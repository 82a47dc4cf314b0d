"""`vledit models`, `vledit models --estimate` and `vledit convert`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.convert import published as pub
from vledit import catalogue

from .conftest import Cli

HEADS = ("--vision-layers", pub.BLOCKS - 1, "--vision-heads", pub.HEADS, "--qformer-heads", pub.QHEADS)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> pub.Published:
    return pub.publish(tmp_path_factory.mktemp("published"))


def arguments(pieces: pub.Published, out: Path) -> tuple[object, ...]:
    given = pieces.pieces
    files = ("--qformer", given.qformer, "--vicuna", given.language, "--projection", given.projection)
    return ("convert", "minigpt4", *files, "--vision", given.vision, "--out", out, *HEADS)


def test_convert_estimate_and_check(cli: Cli, pieces: pub.Published, tmp_path: Path):
    out = tmp_path / "minigpt4"
    ran = cli(*arguments(pieces, out), "--dtype", "fp32")
    assert ran.code == 0, ran.err
    assert "tensors" in ran.out
    assert "left out of vision: 13 tensors (BLIP-2 reads" in " ".join(ran.out.split())
    assert cli("convert", "check", out, "--json").json["files"] > 3
    estimated = cli("models", "--estimate", out, "--edits", 10, "--json").json
    assert (estimated["family"], estimated["edits"]) == ("minigpt4", 10)
    assert estimated["weights"] == sum(tensor.nbytes for tensor in load_file(out / "model.safetensors").values())
    (out / "config.json").write_text("{}")
    assert cli("convert", "check", out).code == 5


def test_convert_tells_faults_and_does_not_write(cli: Cli, pieces: pub.Published, tmp_path: Path):
    given = list(arguments(pieces, tmp_path / "out"))
    given[given.index("--projection") + 1] = pieces.pieces.qformer
    ran = cli(*given, "--json")
    assert ran.code == 2
    assert "language_projection.weight" in ran.json["error"]
    assert ran.json["kind"] == "ConversionError"
    assert not (tmp_path / "out").exists()
    assert cli("convert", "minigpt4").code == 2


def test_models_lists_each_once_with_what_is_proven(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalogue, "PROVEN", tmp_path / "proven.json")
    state = {"contract": "passed", "date": "2026-11-22", "transformers": "5.23.0"}
    (tmp_path / "proven.json").write_text(json.dumps({"blip2": state}))
    rows = {row["name"]: row for row in cli("models", "--json").json}
    assert rows["blip2-opt-2.7b"]["aliases"] == ["blip2"]
    assert rows["blip2-opt-2.7b"]["contract"] == "passed"
    assert rows["pocket"]["contract"] == "not run"
    assert {"minigpt4", "blip2", "pocket"} <= {row["family"] for row in rows.values()}
    shown = " ".join(cli("models").out.split())
    assert "MiniGPT-4" in shown
    assert "not run" in shown


def test_estimate_as_a_table(cli: Cli, pieces: pub.Published, tmp_path: Path):
    out = tmp_path / "model"
    assert cli(*arguments(pieces, out)).code == 0
    shown = cli("models", "--estimate", out, "--edits", 7, "--dtype", "bf16", "--site", "0.mlp.out", "--batch", 3).out
    for words in ("weights", "trunk cache per probe", "0.mlp.out", "span transformation", "7 full edits", "3 at once"):
        assert words in shown


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("poket",), "Did you mean 'pocket'"),
        (("/no/such/folder",), "no folder"),
        (("pocket", "--dtype", "float31"), "--dtype"),
    ],
)
def test_estimate_of_what_is_not_there(cli: Cli, given: tuple[str, ...], words: str):
    ran = cli("models", "--estimate", *given)
    assert ran.code in (2, 5)
    assert words in ran.err


def test_check_says_what_a_folder_is(cli: Cli, tmp_path: Path):
    from transformers import CONFIG_MAPPING

    fits, not_at_all = tmp_path / "fits", tmp_path / "not"
    CONFIG_MAPPING["qwen3_vl_moe"]().save_pretrained(fits)
    CONFIG_MAPPING["florence2"]().save_pretrained(not_at_all)
    ran = cli("models", "--check", fits)
    assert ran.code == 0, ran.err
    for words in ("can be edited", "Qwen3VLMoeForConditionalGeneration", "all 24 layers", "23.mlp"):
        assert words in " ".join(ran.out.split())
    ran = cli("models", "--check", fits, "--json")
    assert (ran.code, ran.json["fits"], ran.json["default_site"]) == (0, True, "23.mlp")
    ran = cli("models", "--check", not_at_all, "--json")
    assert (ran.code, ran.json["fits"]) == (2, False)
    assert "encoder-decoder" in ran.json["reason"]
    refused = cli("models", "--check", not_at_all)
    assert (refused.code, refused.out) == (2, "")
    assert ran.json["reason"] in refused.err
    assert cli("models", "--check", fits, "--estimate", fits).code == 2
    assert cli("models", "--check", tmp_path / "nowhere").code == 5
