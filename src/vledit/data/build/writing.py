"""Writes the result of a build: OKEDIT's layout and our JSON Lines by split, rejections, manifest, data card, sheets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vledit import __version__
from vledit.data import case_file, okedit
from vledit.data.build.agreement import normal
from vledit.data.build.card import data_card
from vledit.data.build.construct import SUPPLIED, Built, Result, by_reason, precision_recall
from vledit.data.build.records import IMAGE, NEAR, JudgedPicture
from vledit.data.build.sheet import write_sheets
from vledit.data.build.splits import split_by
from vledit.data.cache import sha256_file, staging, write_atomic, write_json_atomic
from vledit.data.case import EditCase, EditRequest, Probe

ADD = Callable[[list[EditCase]], list[EditCase]]
FORMAT = "vledit-okedit-build/1"


def case_of(one: Built, split: str, name: str, rephrasings: int) -> EditCase:
    """The edit case of a record; the first `rephrasings` wordings are scored, the others go to the editor."""
    record, texts = one.source, one.texts
    worded, supplied = one.rephrasings[:rephrasings], one.rephrasings[rephrasings : rephrasings + SUPPLIED]

    def probe(number: int, judged: JudgedPicture, shown: str) -> Probe:
        role = judged.picture.role
        tags = {"concept": shown, "verified": judged.by}
        return Probe(judged.picture.path, record.question, judged.expected, tags, f"{role}/{number}")

    other = [probe(n, judged, texts.object) for n, judged in enumerate(one.accepted(IMAGE))]
    near = [probe(n, judged, texts.third_object) for n, judged in enumerate(one.accepted(NEAR))]
    text = [Probe(None, q, a, {"kind": "text"}, f"text/{n}") for n, (q, a) in enumerate(one.text_questions)]
    tags = {"kind": record.category, "domain": record.category, "concept": texts.object, "split": split}
    return EditCase(
        request=EditRequest(
            record.picture, record.question, texts.counterfactual, tuple(supplied), f"{name}/{record.id}"
        ),
        generality={
            "text": tuple(Probe(record.picture, t, None, {}, f"text/{n}") for n, t in enumerate(worded)),
            "image": tuple(other),
        },
        locality={"near_image": tuple(near), **({"text": tuple(text)} if text else {})},
        base_answer=record.answer,
        tags={tag: value for tag, value in tags.items() if value},
    )


def cases_by_split(
    result: Result, name: str, rephrasings: int, shares: Mapping[str, float], seed: int
) -> dict[str, list[EditCase]]:
    """Split → its cases, in the source's order; no object and no source picture is in two splits."""
    keys = [(f"object {normal(b.texts.object)}", f"picture {sha256_file(b.source.picture)}") for b in result.kept]
    found: dict[str, list[EditCase]] = {split: [] for split in shares}
    for one, split in zip(result.kept, split_by(keys, shares, seed), strict=True):
        found[split].append(case_of(one, split, name, rephrasings))
    return found


def write_benchmark(
    result: Result,
    cases: Mapping[str, Sequence[EditCase]],
    out: Path,
    about: Mapping[str, Any],
    sheets: bool = True,
) -> dict[str, Any]:
    """Write everything to the folder `out`, whole or not at all, and return its manifest.

    The same result gives the same bytes: nothing in it tells when or where it was made.

    Args:
        about: what it was made with, for the manifest: source, prompts, models, settings.
    """
    manifest = {
        "format": FORMAT,
        "vledit": __version__,
        **about,
        "rates": {step: list(rate) for step, rate in result.rates.items()},
        "asks": {step: list(asks) for step, asks in result.asks.items()},
        "rejected": by_reason(result.rejections),
        "verifier_against_truth": precision_recall(result.judged),
        "cases": {split: len(some) for split, some in cases.items()},
    }
    with staging(out) as folder:
        for split, some in cases.items():
            if some:
                written = okedit.write(some, folder / split)
                case_file.write(_relocated(some, written), written / "cases.jsonl")
        lines = [json.dumps(asdict(one), ensure_ascii=False, sort_keys=True) for one in result.rejections]
        write_atomic(folder / "rejected.jsonl", "".join(f"{line}\n" for line in lines).encode())
        write_json_atomic(folder / "manifest.json", manifest)
        write_atomic(folder / "DATA_CARD.md", data_card(manifest, cases).encode())
        if sheets:
            write_sheets(result.judged, {one.source.id for one in result.kept}, manifest, folder / "sheets")
    return manifest


def _relocated(cases: Sequence[EditCase], folder: Path) -> list[EditCase]:
    """The cases as they stand in the layout just written, so that both files name the same pictures."""
    read = {case.id: case for case in okedit.read(folder)}
    return [read[case.id] for case in cases]
