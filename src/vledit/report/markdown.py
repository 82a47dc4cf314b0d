"""The report as Markdown: the page's tables with the same numbers, without its pictures and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.cache import write_atomic
from .runs import Arm, Run, base_of, by_setting
from .scores import (
    ALPHA_METRICS,
    Curve,
    alpha_curves,
    base_estimates,
    cost,
    failures,
    metric_groups,
    reaches,
    retention,
)
from .summary import counted, manifest_rows, remarks, title
from .text import number, percent, seconds, size, spaced
from .why import PASSED, after, letter, sentence

if TYPE_CHECKING:
    from ..evaluate.outcomes import Outcome

RETAINED = ("retained", "text_generality", "image_generality", "near_image_preserved", "text_preserved", "HM")
EXAMPLES = 20
"""Failing probes of each arm that are listed."""


def write_markdown(runs: Sequence[Run], arms: Sequence[Arm], curves: Sequence[Curve], out: Path) -> Path:
    """Writes the report to `out`.  Returns: `out`."""
    write_atomic(out, markdown(runs, arms, curves).encode())
    return out


def markdown(runs: Sequence[Run], arms: Sequence[Arm], curves: Sequence[Curve] | None = None) -> str:
    """The report's text."""
    lines = [f"# {escaped(title(runs, arms))}", ""]
    lines += [f"- {'**' if bad else ''}{escaped(text)}{'**' if bad else ''}" for text, bad in remarks(runs, arms)]
    lines += ["", "All figures are % of probes, averaged per edit, with bootstrap 95 % intervals over edits.", ""]
    lines += scores(arms, "Exact match of the greedy answer, its end included", token=False)
    lines += scores(arms, "Token accuracy under teacher forcing", token=True)
    lines += alpha_tables(alpha_curves(arms) if curves is None else curves)
    lines += retention_table(arms)
    lines += reach_table(arms)
    lines += reason_table(arms)
    lines += cost_table(arms)
    lines += failed_edits(arms)
    lines += failed_probes(arms)
    lines += manifests(runs)
    return "\n".join(lines) + "\n"


def escaped(value: object) -> str:
    """Text that Markdown shows as it is, in one line."""
    text = " ".join(str(value).split())
    for sign in "\\`*_[]<|#&":
        text = text.replace(sign, "&amp;" if sign == "&" else "&lt;" if sign == "<" else f"\\{sign}")
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; cells are escaped already."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def scores(arms: Sequence[Arm], heading: str, token: bool) -> list[str]:
    """Every metric in rows, arms in columns; the base where it was measured."""
    groups = metric_groups(arms, token)
    if not groups:
        return []
    bases = [base_of(some) for some in by_setting(arms)]
    several = len(bases) > 1
    columns = [(arm.label, arm.estimates) for arm in arms]
    for arm in bases:
        where = f" · {arm.run.path.stem}" if several else ""
        columns.append((f"base, no edit{where}", base_estimates(arm)))
    rows = []
    for group in groups:
        for name, _ in group.columns:
            rows.append([escaped(name), *(percent(found[name]) if name in found else "–" for _, found in columns)])
    lines = [f"## {heading}", ""]
    lines += [f"- {escaped(group.title)}: {escaped(group.meaning)}." for group in groups if group.title]
    if not token and any(group.columns[0][0] == "HM" for group in groups):
        lines.append("- HM: harmonic mean of text generality, image generality and near image preserved.")
    return [*lines, "", *table(["metric", *(escaped(label) for label, _ in columns)], rows)]


def alpha_tables(curves: Sequence[Curve]) -> list[str]:
    lines = ["## α, routed again from the stored distances", ""] if curves else []
    for curve in curves:
        names = [n for n in (*ALPHA_METRICS, "HM") if any(n in row for row in curve.points.values())]
        rows = [
            [
                f"**{alpha:g}**" if alpha == curve.chosen else f"{alpha:g}",
                *(percent(row[n]) if n in row else "–" for n in names),
            ]
            for alpha, row in curve.points.items()
        ]
        lines += [f"{escaped(curve.arm.label)}:", "", *table(["α", *map(escaped, names)], rows)]
    return lines


def retention_table(arms: Sequence[Arm]) -> list[str]:
    found = retention(arms)
    if not found:
        return []
    rows = []
    for points in found.values():
        for made, (arm, row) in points.items():
            shown = [percent(row[name]) if name in row else "–" for name in RETAINED]
            rows.append([escaped(arm.name), f"{made:,}", *shown])
    return ["## Retention against the number of edits", "", *table(["editor", "edits", *map(escaped, RETAINED)], rows)]


def reach_table(arms: Sequence[Arm]) -> list[str]:
    rows = []
    for arm in arms:
        for reach in reaches(arm) if arm.scoped else ():
            spread = [f"{reach.quantile(q):.2f}" if len(reach.ratios) else "–" for q in (0.05, 0.5, 0.95)]
            shares = [f"{100 * reach.fires:.1f}", f"{100 * reach.passes:.1f}"]
            rows.append(
                [escaped(arm.label), reach.family, escaped(spaced(reach.cell)), f"{reach.count:,}", *spread, *shares]
            )
    if not rows:
        return []
    head = ["editor", "family", "cell", "probes", "5 %", "median", "95 %", "fires %", "passes %"]
    return ["## Distances over radii (1: on the radius)", "", *table(head, rows)]


def reason_table(arms: Sequence[Arm]) -> list[str]:
    kinds, found = failures(arms)
    rows = []
    for row in found:
        shown = [str(row.by_words[words] or "") for words in kinds]
        rows.append([escaped(row.arm.label), row.family, escaped(spaced(row.cell)), *shown, f"{row.count:,}"])
    return ["## Why probes fail", "", *table(["editor", "family", "cell", *kinds, "of probes"], rows)] if rows else []


def cost_table(arms: Sequence[Arm]) -> list[str]:
    rows = []
    for arm in arms:
        found, nbytes = cost(arm), arm.estimates.get("bytes_per_edit")
        shown = [seconds(arm.estimates.get("seconds_per_edit")), number(found.seconds, 3), number(found.slowest, 3)]
        keeps = "–" if nbytes is None else size(round(nbytes.mean))
        counts = [str(found.untrained), str(len(found.failed))]
        rows.append([escaped(arm.label), f"{found.edits:,}", *shown, number(found.steps, 3), keeps, *counts])
    if not rows:
        return []
    head = ["editor", "edits", "seconds (mean)", "median", "slowest", "steps", "keeps (mean)"]
    return ["## What an edit costs", "", *table([*head, "not trained to the end", "failed"], rows)]


def failed_edits(arms: Sequence[Arm]) -> list[str]:
    rows = [
        [escaped(arm.label), escaped(case), escaped(stage), escaped(error)]
        for arm in arms
        for case, stage, error in cost(arm).failed
    ]
    return ["## Edits that failed", "", *table(["editor", "case", "at", "error"], rows)] if rows else []


def failed_probes(arms: Sequence[Arm]) -> list[str]:
    """Some of the failing probes of each arm, spread evenly; the page has them all."""
    lines: list[str] = []
    for arm in arms:
        found = [
            (outcome, not record.get("error"))
            for record in arm.records
            for outcome in record["outcomes"]
            if letter(outcome, not record.get("error"), arm.alone) not in PASSED
        ]
        some = found if len(found) <= EXAMPLES else [found[i * len(found) // EXAMPLES] for i in range(EXAMPLES)]
        if some:
            shown = f", {len(some)} of them, spread evenly" if len(found) > len(some) else ""
            lines += [f"{escaped(arm.label)}: {counted(len(found), 'probe')} failed{shown}:", ""]
            rows = [_failed_probe(outcome, edited, arm.alone) for outcome, edited in some]
            lines += table(["case", "probe", "question", "before", "after", "why"], rows)
    return ["## Probes that failed", "", *lines] if lines else []


def _failed_probe(outcome: Outcome, edited: bool, alone: bool) -> list[str]:
    where = f"{outcome.family}, {spaced(outcome.cell)} {outcome.index + 1}"
    said = after(outcome, letter(outcome, edited, alone))
    told = (outcome.case, where, outcome.question, outcome.base_answer, said, sentence(outcome, edited, alone))
    return [escaped(text) for text in told]


def manifests(runs: Sequence[Run]) -> list[str]:
    lines = ["## What was run", ""]
    for run in runs:
        rows = [[escaped(name), escaped(value)] for name, value in manifest_rows(run)]
        lines += [f"### {escaped(run.path.name)}", "", *table(["", ""], rows)]
    return lines
