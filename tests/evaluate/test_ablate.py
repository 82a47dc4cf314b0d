"""`vledit ablate` on a tiny model, and its parts on constructed cases."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.vlm.models import tiny
from vledit.analysis.key_map import distances, key_map, pca
from vledit.cli import ablate as command
from vledit.codebook.entry import Entry, SpanTransformation
from vledit.codebook.scope import Scope
from vledit.editors.edited_model import EditedModel
from vledit.errors import InputError, UnknownNameError
from vledit.evaluate.ablations import ABLATIONS, ablation, cost_rows, fitting_costs

from .small import case, outcome
from .test_bench_command import SUPPLIED, cli  # noqa: F401  (fixture)

SET = [
    word for pair in ("steps=120", "learning_rate=0.05", "margin=1.0", "rephrase=supplied") for word in ("--set", pair)
]


@pytest.fixture
def run(cli, monkeypatch):  # noqa: F811
    cases = [case(i) for i in range(5)]
    monkeypatch.setattr(command, "benchmark_cases", lambda wanted: cases[: wanted.limit])
    monkeypatch.setattr(command, "open_model", lambda *_, **__: EditedModel(tiny("pocket")))
    return lambda *words: cli("ablate", *words)


def rows(name: str) -> list[dict[str, str]]:
    assert Path(f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    with Path(f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_alpha_is_a_curve_from_the_negative_to_the_positive_and_goes_on_where_it_stopped(run):
    ran = run("alpha", "--limit", 1, *SET)
    assert ran.code == 0, ran.err
    found = rows("alpha")
    assert [found[0]["alpha"], found[-1]["alpha"]] == ["0.0", "1.0"]
    wide, tight = (float(found[n]["image_generality"]) for n in (0, -1))
    assert wide >= tight
    before = Path("alpha.jsonl").read_bytes()
    assert run("alpha", "--limit", 1, *SET).code == 0
    assert Path("alpha.jsonl").read_bytes().startswith(before[: len(before) // 2])
    assert rows("alpha") == found


def test_values_are_one_variant_each_with_the_papers_scope_named(run):
    ran = run("anchors", "--limit", 1, "--values", "black,white", *SET, "--json")
    assert ran.code == 0, ran.err
    assert [row["variant"] for row in ran.json["rows"]] == ["black", "white"]
    assert '"scope": "paper"' in Path("anchors.jsonl").read_text().splitlines()[0]
    assert float(rows("anchors")[0]["radius"]) > 0
    layers = ABLATIONS["layer"].variants(tiny("pocket"), ["2", "0"], {"steps": 9})
    assert [(one.name, one.settings["site"][:2], one.settings["steps"]) for one in layers] == [
        ("layer 2", "2.", 9),
        ("layer 0", "0.", 9),
    ]


def test_costs_and_sequences_have_a_row_for_each_editor(run):
    quick = "ft:steps=5"
    ran = run("time", "--limit", 2, "--editors", f"a={quick};b={quick}", "--json")
    assert ran.code == 0, ran.err
    assert [row["variant"] for row in ran.json["rows"]] == ["a", "b"]
    assert all(row["fitting_hours"] == 0 for row in ran.json["rows"])
    ran = run("sequential", "--limit", 2, "--editors", quick, "--at", "1,2", "--out", "s.svg", "--json")
    assert ran.code == 0, ran.err
    assert [row["after"] for row in ran.json["rows"]] == [1, 2]
    assert Path("s.svg").read_text().startswith("<?xml")


def test_what_an_editor_is_fitted_on_is_counted_and_what_a_manifest_does_not_say_is_not_0():
    assert fitting_costs({"seconds": 7200, "data": {"cases": 150}}) == {"fitting_hours": 2.0, "fitted_on": 150}
    assert fitting_costs({"seconds": 0, "cases": 9}) == {"fitting_hours": 0.0, "fitted_on": 9}
    assert fitting_costs({}) == {"fitting_hours": None, "fitted_on": None}
    scope = {"keys": 500, "edits": {"picture": 60, "text": 213}}
    fitted = {"scoped": scope, "learnt": {"seconds": 36, "data": {"cases": 4}}}
    records = [
        {"variant": name, "case": "a", "outcomes": [outcome("a", "edit", True)], "edit": {"seconds": 1.0, "nbytes": 8}}
        for name in ("scoped", "learnt", "plain")
    ]
    rows, _ = cost_rows(records, fitted)
    assert [(row["variant"], row["fitting_hours"], row["fitted_on"]) for row in rows] == [
        ("scoped", None, 713),
        ("learnt", 0.01, 4),
        ("plain", 0.0, 0),
    ]
    assert [row["seconds_per_edit"] for row in rows] == [1.0] * 3


def test_keys_and_explanations_come_from_one_codebook(run):
    ran = run("keys", "--limit", 4, *SET, "--json")
    assert ran.code == 0, ran.err
    assert len({row["entry"] for row in ran.json["rows"]}) == 4
    rows("keys")
    ran = run("explain", "--limit", 1, "--set", "scope=paper", *SET, "--json")
    assert ran.code == 0, ran.err
    edit, *others = ran.json["rows"]
    assert edit["kind"] == "edit"
    assert edit["fired"]
    assert edit["distance"] < 1e-3
    assert all((row["distance"] <= row["radius"]) == row["fired"] for row in (edit, *others))


def test_the_list_and_what_is_refused(run):
    assert set(run("--list", "--json").json) == set(ABLATIONS)
    assert run("anchor").code != 0
    with pytest.raises(UnknownNameError, match="anchors"):
        ablation("anchor")
    assert "alpha" in run("alpha", "--values", "1").err
    assert "layer" in run("layer", "--values", "last").err
    assert ".png" in run("alpha", "--out", "a.txt").err


def entries(keys: np.ndarray, radius: float = 1.0, distance: str = "euclidean") -> list[Entry]:
    import torch

    change = SpanTransformation(torch.zeros(2, 1), torch.zeros(1, 2))
    scope = [Scope("mean", key.astype(np.float32), radius, distance, "mean", None, None) for key in keys]
    return [
        Entry(id=str(n), question="q", answer="a", site="0.mlp.out", scopes=(one,), transformation=change)
        for n, one in enumerate(scope)
    ]


def test_the_map_of_keys_that_lie_in_a_plane_keeps_their_distances():
    flat = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [3.0, 4.0], [10.0, 10.0]])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0][:2]
    points, shares = pca(flat @ turn)
    assert distances(points, "euclidean") == pytest.approx(distances(flat, "euclidean"))
    assert sum(shares) == pytest.approx(1.0)
    found = key_map(entries(flat @ turn, radius=3.5))
    assert found.nearest.tolist() == pytest.approx([3, 3, 3, 3, np.sqrt(49 + 36)], rel=1e-5)
    assert (found.radii >= found.nearest).tolist() == [True, True, True, True, False]
    assert np.isfinite(found.tsne).all()
    assert np.array_equal(found.tsne, key_map(entries(flat @ turn)).tsne)
    assert distances(np.array([[1.0, 0.0], [0.0, 2.0]]), "cosine")[0, 1] == pytest.approx(1.0)


def test_a_map_of_too_few_keys_or_several_distances_is_refused():
    with pytest.raises(InputError, match="at least 4"):
        key_map(entries(np.eye(3)))
    with pytest.raises(InputError, match="several"):
        key_map([*entries(np.eye(4)), *entries(np.eye(4), distance="cosine")])
