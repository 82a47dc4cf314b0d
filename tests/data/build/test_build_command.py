"""`vledit data build okedit` on the command line, with the verifier of coloured squares in the model's place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli, cli  # noqa: F401
from vledit.cli import data_build_okedit

from .scripted_server import Faults, serving
from .world import ColourVerifier, SameMeaning, digest, write_source


@pytest.fixture(autouse=True)
def _seeing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data_build_okedit, "_verifier", lambda *_: ColourVerifier())
    monkeypatch.setattr(data_build_okedit, "_meaning", lambda *_: SameMeaning())


def arguments(folder: Path, url: str, *more: object) -> list[Any]:
    return [
        "data", "build", "okedit", "--source", folder / "source/squares.csv", "--out", folder / "out",
        "--llm", url, "--llm-model", "scripted", "--image-model", f"{url}#painter", "--picture-size", 24,
        "--store", folder / "store", "--rephrasings", 4, "--pictures", 2, "--near", 2, "--tries", 4, *more,
    ]  # fmt: skip


def test_from_a_csv_to_a_benchmark(cli: Cli, tmp_path: Path):  # noqa: F811
    write_source(tmp_path / "source", 10)
    with serving(Faults(malformed=0.3, wrong=0.2)) as server:
        planned = cli(*arguments(tmp_path, server.url, "--plan", "--json", "--price-in", 1, "--price-out", 2))
        assert planned.code == 0, planned.err
        assert planned.json["records"] == 10
        assert planned.json["pictures"] == [40, 80]
        assert planned.json["text_dollars"] > 0
        assert not (tmp_path / "out").exists()
        assert server.paths.total() == 0
        ran = cli(*arguments(tmp_path, server.url, "--json", "--price-in", 1, "--licence", "CC-BY-4.0"))
        assert ran.code == 0, ran.err
        assert sum(ran.json["cases"].values()) >= 8
        assert ran.json["this_run"]["dollars"] > 0
        first = digest(tmp_path / "out")
        again = cli(*arguments(tmp_path, server.url, "--json", "--licence", "CC-BY-4.0"))
        assert again.json["this_run"]["replies"] == 0
        assert digest(tmp_path / "out") == first
    card = (tmp_path / "out/DATA_CARD.md").read_text()
    assert "CC-BY-4.0" in card
    assert "counterfactual answers" in card
    page = (tmp_path / "out/sheets/001.html").read_text()
    assert (
        page.count("<figure data-name")
        == json.loads((tmp_path / "out/manifest.json").read_text())["rates"]["image"][0]
        + json.loads((tmp_path / "out/manifest.json").read_text())["rates"]["near_image"][0]
    )
    lines = (tmp_path / "out/rejected.jsonl").read_text().splitlines()
    assert any("the verifier answers" in json.loads(line)["reason"] for line in lines)


def test_a_folder_with_other_things_is_left_alone(cli: Cli, tmp_path: Path):  # noqa: F811
    write_source(tmp_path / "source", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("x")
    ran = cli(*arguments(tmp_path, "http://127.0.0.1:9/v1"))
    assert ran.code == 2
    assert "holds other files" in ran.err


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--shares", "1,1,1"], "add up to 1"),
        (["--tries", 1], "tries: 1 is less"),
        (["--column", "image"], "is not NAME=COLUMN"),
        (["--concurrency", 0], "at least 1"),
        (["--llm", "localhost"], "is no address"),
    ],
)
def test_unfit_options(cli: Cli, tmp_path: Path, more: list[Any], text: str):  # noqa: F811
    write_source(tmp_path / "source", 2)
    ran = cli(*arguments(tmp_path, "http://127.0.0.1:9/v1", *more))
    assert ran.code == 2
    assert text in ran.err


def test_icons_is_still_the_default(cli: Cli, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    from vledit.data import icons

    asked: list[Any] = []

    def build(only: Any, progress: bool) -> Any:
        asked.append(only)
        raise KeyboardInterrupt

    monkeypatch.setattr(icons, "build", build)
    for words in ([], ["icons"], ["icons", "--only", "demo"], ["--only", "demo"]):
        cli("data", "build", *words)
    assert asked == [None, None, ["demo"], ["demo"]]


def test_devqa_cells_come_from_the_same_split(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    import numpy as np

    from vledit.data import benchmarks, devqa
    from vledit.data.reading import Files, demand
    from vledit.retrieval import Index

    class Letters:
        name = "letters"
        fingerprint = "letters"
        dim = 26

        def encode(self, texts: Any) -> Any:
            vectors = np.array([[text.lower().count(chr(97 + n)) + 0.01 for n in range(26)] for text in texts])
            return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    monkeypatch.setattr(devqa, "index_of", lambda cases: Index(Letters()))  # type: ignore[arg-type]
    source = write_source(tmp_path / "source", 20)
    text = source.read_text().replace("What colour is this?", "Which paint?", 6)
    source.write_text(text)
    with serving() as server:
        ran = cli(*arguments(tmp_path, server.url, "--devqa", "--text-questions", 2))
    assert ran.code == 0, ran.err
    splits = {}
    for split in ("train", "test"):
        folder = tmp_path / "out" / split
        cases = demand(benchmarks.read("cases", Files(folder / "cases.jsonl")))
        splits[split] = [case for case in cases if "T2I2" in case.locality]
        for case in splits[split]:
            assert {"T1I2", "T2I1", "T3I3", "T4I4", "T1I4"} <= set(case.locality)
            assert case.locality["T1I4"][0].image is None
            near = Path(str(case.locality["T2I2"][0].image))
            # another record's picture, of this split; files that are no JPEG are written anew, so by their looks
            assert ColourVerifier().answers([(near, "")])[0] not in (case.base_answer, case.request.answer)
    assert splits["train"]
