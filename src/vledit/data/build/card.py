"""The data card of a built benchmark: counts, rates, categories, models, prompts and licences, from its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vledit.data.case import EditCase

_STEPS = {
    "source": "records of the source that can be read, with their picture",
    "known": "records whose own picture the verifier answers as the source does",
    "counterfactual": "counterfactual answers",
    "rephrase": "replies with rephrasings",
    "rephrasing": "rephrasings that keep meaning and answer",
    "object": "objects of the pictures",
    "third_answer": "third answers",
    "third_object": "objects of the near pictures",
    "text_questions": "replies with text-only questions",
    "text question": "text-only questions",
    "image": "other pictures of the edited thing",
    "near_image": "near pictures",
    "record": "records that became cases",
}


def data_card(manifest: Mapping[str, Any], cases: Mapping[str, Sequence[EditCase]]) -> str:
    """The card as Markdown."""
    parts = [
        "# Data card",
        f"An editing benchmark built from `{manifest['source']['file']}` the way OKEDIT was built from OK-VQA (BalancEdit, "
        "App. A), every made picture and wording verified. New answers are counterfactual: they are wrong on purpose. The "
        "pictures of the generality and near-locality cells were made by a model, and are not evidence of anything.",
        "## Counts",
        _table(
            ["split", "cases", *_cells(cases)],
            [[s, str(len(c)), *_counted(c, _cells(cases))] for s, c in cases.items()],
        ),
        f"No object and no source picture is in two splits. Near pictures may show a thing that is edited in another split: "
        f"{_crossing(cases)} do.",
        "## Rates of each step",
        _table(
            ["step", "what is counted", "tried", "accepted", "share"],
            [
                [step, _STEPS[step], str(tried), str(good), f"{100 * good / tried:.1f} %" if tried else ""]
                for step, (tried, good) in manifest["rates"].items()
            ],
        ),
        "Everything that was rejected stands in `rejected.jsonl` with its reason; pictures also in `sheets/`.",
    ]
    if again := [f"{step} {asks - tasks}" for step, (tasks, asks) in manifest["asks"].items() if asks > tasks]:
        parts.append(f"Asked again because of a reply that could not be used: {', '.join(again)}.")
    if truth := manifest["verifier_against_truth"]:
        parts += ["## The verifier against the truth", _truth(truth)]
    parts += [
        "## Categories",
        _table(["category", "cases"], [[n or "none", str(c)] for n, c in _categories(cases)]),
        "## What it was made with",
        _table(["part", "setting", "value"], _made_with(manifest)),
        "## Prompts",
        _table(
            ["step", "version", "SHA-256", "source"],
            [[n, str(p["version"]), f"`{p['sha256'][:16]}`", p["source"]] for n, p in manifest["prompts"].items()],
        ),
        "## Licences",
        f"- Questions, answers and pictures of the source: {manifest['licences']['source']}.\n"
        f"- Made pictures: {manifest['licences']['pictures']}.\n"
        f"- Texts of the language model: {manifest['licences']['texts']}.",
    ]
    return "\n\n".join(parts) + "\n"


def _cells(cases: Mapping[str, Sequence[EditCase]]) -> list[str]:
    found = {f"{family}/{cell}" for some in cases.values() for case in some for family, cell, _, _ in case.probes()}
    return sorted(found)


def _counted(cases: Sequence[EditCase], cells: Sequence[str]) -> list[str]:
    counts = Counter(f"{family}/{cell}" for case in cases for family, cell, _, _ in case.probes())
    return [str(counts[cell]) for cell in cells]


def _crossing(cases: Mapping[str, Sequence[EditCase]]) -> int:
    edited = {split: {case.tags.get("concept") for case in some} for split, some in cases.items()}
    return sum(
        any(probe.tags.get("concept") in things for other, things in edited.items() if other != split)
        for split, some in cases.items()
        for case in some
        for probe in case.locality.get("near_image", ())
    )


def _truth(table: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for role, counts in table.items():
        shares = [f"{100 * counts[n]:.1f} %" if counts[n] is not None else "none" for n in ("precision", "recall")]
        names = ("accepted right", "accepted wrong", "rejected right", "rejected wrong")
        rows.append([role, *(str(counts[name]) for name in names), *shares])
    header = ["pictures", "accepted, right", "accepted, wrong", "rejected, right", "rejected, wrong"]
    return "What the pictures show is known to their maker.\n\n" + _table([*header, "precision", "recall"], rows)


def _categories(cases: Mapping[str, Sequence[EditCase]]) -> list[tuple[str, int]]:
    counts = Counter(case.tags.get("kind", "") for some in cases.values() for case in some)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _made_with(manifest: Mapping[str, Any]) -> list[list[str]]:
    parts = ("source", "language_model", "picture_model", "verifier", "meaning", "settings")
    return [[part, name, f"{value}"] for part in parts for name, value in manifest[part].items()]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
