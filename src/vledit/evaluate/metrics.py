"""The metrics: pure functions over stored outcomes.  Two locality families, never mixed, each named in full.

`exact` (no suffix): the greedy answer, its end included.  `token`: teacher-forced token accuracy, as peers publish it.

- reliability, generality (`text_generality`, `image_generality`): the edited model gives the new answer (BalancEdit, Eqs. 4–6).
- `<cell>_preserved`: it gives what the base gave (Eq. 7; text and image locality, and every De-VQA cell).
- `<cell>_not_edited_answer`: it does not give the new answer (De-VQA's NI, RI, CI); by token: 1 less the share of its tokens.
- `<cell>_top10`: EasyEdit's image locality, for comparison: share of equal places in the ten likeliest tokens before and after
  (`easyeditor.util.multimodal.topk_token_match`, k=10; there over every position of the sequence, here over those that
  predict the base's answer, because the prompt's are hardly touched by any edit and only dilute the figure).
- `retained`: in sequences and batches, the share of the edits made so far whose own question still gets the new answer.
- `<metric>_seen`, `_held_out`: of drawings that the base's training saw, and of those it did not (tag "seen": of a probe; for
  `reliability` of the edited picture); `_recognised`: of
  pictures that the base names rightly; `_same_answer`: of probes that the base answers as it did the edited question.
- `portability`: the probe's own answer (VLKEB).  `HM`: harmonic mean of text and image generality and near-locality `preserved`.
- `devqa_<class>_…`: De-VQA's classes (`devqa.py`); `blindness`: see `blindness.py` (from records: `table`).
- `scope_right`, `scope_too_narrow`, `scope_too_wide`, `scope_both`: of the edits that succeed; see `scope_shares.py`.
- `seconds_per_edit`, `bytes_per_edit`: from the records (`table`).

All with 95 % intervals over edits (`bootstrap`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .blindness import by_case as blindness_by_case
from .bootstrap import RESAMPLES, Estimate, draws, harmonic, interval, matrix, means, resampled, share_interval
from .devqa import class_columns
from .outcomes import Outcome
from .scope_shares import by_case as scope_by_case

VERSION = "3"

Record = dict[str, Any]
"""As `results.read_results` gives them: variant, case, after, edit, outcomes, ..."""


def preserved(outcome: Outcome) -> float:
    """The edited model answers what the base answered (Eq. 7)."""
    return float(outcome.same)


def preserved_token(outcome: Outcome) -> float:
    return outcome.same_token


def edited_answer(outcome: Outcome) -> float:
    """The edited model answers the new answer (Eqs. 4 to 6)."""
    return float(outcome.new)


def edited_answer_token(outcome: Outcome) -> float:
    return outcome.new_token


def not_edited_answer(outcome: Outcome) -> float:
    """The edited model does not answer the new answer (De-VQA's NI, RI, CI)."""
    return float(not outcome.new)


def not_edited_answer_token(outcome: Outcome) -> float:
    return 1.0 - outcome.new_token


def top10(outcome: Outcome) -> float:
    return outcome.top10


@dataclass(frozen=True)
class Metric:
    """`score` averaged over the probes of one cell (None: of the whole family) of each edit, then over edits.

    Args:
        only: (tag, value) of the probes that count; None: all.
    """

    name: str
    family: str
    cell: str | None
    score: Callable[[Outcome], float]
    only: tuple[str, str] | None = None

    def counts(self, outcome: Outcome) -> bool:
        """Whether this probe is one of those."""
        return self.only is None or outcome.tags.get(self.only[0]) == self.only[1]


SEEN = {"seen": ("seen", "yes"), "held_out": ("seen", "no")}
ALIKE = {"same_answer": ("same_answer", "yes")}
PARTS: Mapping[tuple[str, str], Mapping[str, tuple[str, str]]] = {
    ("reliability", "edit"): SEEN,
    ("generality", "image"): {**SEEN, "recognised": ("recognised", "yes")},
    ("locality", "near_image"): {**SEEN, **ALIKE},
    ("locality", "random_image"): SEEN,
    ("locality", "other_question"): ALIKE,
    ("locality", "other_subject"): ALIKE,
}
"""Cells whose `exact` metric is given for a part of the probes as well: end of the name → the tag that they have."""


def of_cell(family: str, cell: str) -> tuple[Metric, ...]:
    """All metrics of one cell, `exact` first."""
    if family == "locality":
        scores = {
            "preserved": preserved,
            "not_edited_answer": not_edited_answer,
            "preserved_token": preserved_token,
            "not_edited_answer_token": not_edited_answer_token,
            "top10": top10,
        }
        found = tuple(Metric(f"{cell}_{name}", family, cell, score) for name, score in scores.items())
    else:
        name = "reliability" if family == "reliability" else f"{cell}_{family}"
        found = (Metric(name, family, cell, edited_answer), Metric(f"{name}_token", family, cell, edited_answer_token))
    parts = PARTS.get((family, cell), {})
    return (*found, *(replace(found[0], name=f"{found[0].name}_{end}", only=tag) for end, tag in parts.items()))


_STANDARD = (
    ("reliability", "edit"),
    ("generality", "text"),
    ("generality", "image"),
    ("locality", "near_image"),
    ("locality", "text"),
    ("locality", "random_image"),
    ("locality", "other_question"),
    ("locality", "same_answer"),
    ("locality", "other_subject"),
    ("locality", "black"),
    ("locality", "no_image"),
)
METRICS: tuple[Metric, ...] = tuple(
    sorted(
        (metric for family, cell in _STANDARD for metric in of_cell(family, cell)),
        key=lambda metric: ("_token" in metric.name, "top10" in metric.name),  # `exact` of all cells first
    )
)
"""Those of the cells that most benchmarks have; `metrics_of` adds whatever other cells there are."""
_WHOLE = (
    Metric("portability", "portability", None, edited_answer),
    Metric("portability_token", "portability", None, edited_answer_token),
)
HARMONIC = ("text_generality", "image_generality", "near_image_preserved")
"""HM's parts (methods.md, section 3)."""
RETAINED = "retained"
COSTS = ("seconds_per_edit", "bytes_per_edit")
"""Smaller is better for these; they are no shares."""
NO_SHARES = (*COSTS, "blindness")
"""Bootstrapped as they are: the last is the difference of two shares."""


def metrics_of(cells: Iterable[tuple[str, str]]) -> tuple[Metric, ...]:
    """The metrics of these (family, cell), the standard ones first and in their order."""
    cells = set(cells)
    known = [metric for metric in METRICS if (metric.family, metric.cell) in cells]
    names = {metric.name for metric in known}
    others = [metric for cell in sorted(cells) for metric in of_cell(*cell) if metric.name not in names]
    whole = [metric for metric in _WHOLE if any(family == metric.family for family, _ in cells)]
    return (*known, *others, *whole)


def by_edit(outcomes: Iterable[Outcome], metrics: Sequence[Metric] | None = None) -> dict[str, dict[str, float]]:
    """Metric name → case id → mean over the case's probes of that cell; scores that were not run are left out."""
    cells: dict[tuple[str, str], dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        cells[outcome.family, outcome.cell][outcome.case].append(outcome)
    table: dict[str, dict[str, float]] = {}
    for metric in metrics_of(cells) if metrics is None else metrics:
        of_case: dict[str, list[float]] = defaultdict(list)
        for (family, cell), cases in cells.items():
            if family == metric.family and metric.cell in (None, cell):
                for case, found in cases.items():
                    of_case[case].extend(metric.score(outcome) for outcome in found if metric.counts(outcome))
        values = {case: sum(kept) / len(kept) for case, scores in of_case.items() if (kept := _present(scores))}
        if values:
            table[metric.name] = values
    return table | (class_columns(table) if metrics is None else {})


def _present(scores: Sequence[float]) -> list[float]:
    return [score for score in scores if not math.isnan(score)]


def harmonic_mean(parts: Sequence[float]) -> float:
    """0 where any part is 0."""
    return float(harmonic(np.array(parts, dtype=float)[:, None])[0])


def estimates(
    outcomes: Iterable[Outcome],
    seed: int = 0,
    resamples: int = RESAMPLES,
    metrics: Sequence[Metric] | None = None,
) -> dict[str, Estimate]:
    """Every metric (or these) and HM with 95 % intervals over edits (`bootstrap`)."""
    return estimated(by_edit(outcomes, metrics), seed, resamples)


def estimated(
    table: Mapping[str, Mapping[str, float]], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Estimate]:
    """As `estimates`, from metric name → case id → value; HM is added where its parts are there."""
    cases = sorted({case for column in table.values() for case in column})
    values = matrix(list(table.values()), cases)
    result = {}
    for name, column in zip(table, values, strict=True):
        result[name] = share_interval(column)
    drawn = draws(len(cases), seed, resamples)
    for name in NO_SHARES:
        if name in table:
            column = matrix([table[name]], cases)[0]
            result[name] = interval(float(means(column)), resampled(column, drawn), len(table[name]))
    if all(name in result for name in HARMONIC):
        result["HM"] = _harmonic(matrix([table[name] for name in HARMONIC], cases), drawn)
    return result


def _harmonic(parts: np.ndarray, drawn: np.ndarray) -> Estimate:
    """HM of (parts, cases), bootstrapped; where all resamples agree, between the HMs of the parts' own ends."""
    whole = int((~np.isnan(parts)).all(axis=0).sum())
    points = means(parts)
    found = interval(harmonic_mean(list(points)), harmonic(resampled(parts, drawn)), whole)
    if found.low != found.high:
        return found
    ends = [share_interval(part) for part in parts]
    return replace(found, low=harmonic_mean([e.low for e in ends]), high=harmonic_mean([e.high for e in ends]))


def by_record(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """As `by_edit`, from records as `read_results` gives them, with the costs of each edit."""
    records = list(records)
    table = by_edit(outcome for record in records for outcome in record["outcomes"])
    table |= blindness_by_case(records) | scope_by_case(records)
    several = any(record.get("protocol", "single") != "single" or record.get("after", 1) > 1 for record in records)
    if several and "reliability" in table:
        table = {RETAINED: table["reliability"], **table}
    made = {record["case"]: record["edit"] for record in records if record.get("edit")}
    for name, field in zip(COSTS, ("seconds", "nbytes"), strict=True):
        values = {case: float(edit[field]) for case, edit in made.items() if edit.get(field) is not None}
        if values:
            table[name] = values
    return table


def table(records: Iterable[Mapping[str, Any]], seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Estimate]:
    """Every metric, HM and the costs of the records of one variant at one N."""
    return estimated(by_record(records), seed, resamples)


def by_variant(records: Iterable[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Records grouped by variant, in order of first appearance."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["variant"], []).append(record)
    yield from groups.items()


def by_after(records: Iterable[Record]) -> dict[int, list[Record]]:
    """Records by the number of edits that had been made when they were scored, ascending."""
    groups: dict[int, list[Record]] = {}
    for record in records:
        groups.setdefault(record.get("after", 1), []).append(record)
    return dict(sorted(groups.items()))


def last(records: Iterable[Record]) -> list[Record]:
    """The records that each variant's figure is made of: those after most edits."""
    kept = []
    for _, some in by_variant(records):
        kept.extend(by_after(some)[max(record.get("after", 1) for record in some)])
    return kept


def at_alpha(outcomes: Iterable[Outcome], anchors: Mapping[str, tuple[float, float]], alpha: float) -> list[Outcome]:
    """The outcomes had the radius been ε = α·d(pos, k) + (1−α)·d(neg, k) (Eq. 10): routing again, no model needed.

    Args:
        anchors: case id → (d(pos, k), d(neg, k)); single-edit protocols only, where each case has one entry.
    """
    moved = []
    for outcome in outcomes:
        d_positive, d_negative = anchors[outcome.case]
        moved.append(outcome.with_radius(alpha * d_positive + (1 - alpha) * d_negative))
    return moved
