"""The sentences of a report: title, notable results, what is missing.  The same on the page and in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from .runs import Arm, Run
from .scores import cost
from .text import percent, size, spaced


def title(runs: Sequence[Run], arms: Sequence[Arm]) -> str:
    """ "100 edits of pocket on icons"."""
    cases = max((arm.cases for arm in arms), default=0)
    models = " and ".join(sorted({run.model for run in runs}))
    benchmarks = " and ".join(sorted({run.benchmark for run in runs}))
    return f"{counted(cases, 'edit')} of {models} on {benchmarks}"


def counted(number: int, what: str) -> str:
    """ "1 edit", "2,000 edits"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def setting(run: Run) -> str:
    """How the edits of a run were scored."""
    manifest = run.manifest
    if run.protocol == "sequential":
        at = manifest.get("at")
        stages = f", scored after {', '.join(map(str, at))}" if at else ", scored after all of them"
        return f"{manifest.get('cases', '?')} edits one after the other{stages}"
    if run.protocol == "batch":
        return f"{manifest.get('batch_size', '?')} edits at once"
    return "one edit at a time, undone after scoring"


def remarks(runs: Sequence[Run], arms: Sequence[Arm]) -> list[tuple[str, bool]]:
    """(sentence, whether it tells of a flaw)."""
    alike: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        alike.setdefault((setting(run), run.model, run.benchmark), []).append(run)
    lines = [(line, False) for group in alike.values() for line in _leaders(group, arms)]
    for run in runs:
        if run.finished is False:
            text = f"{run.path.name} is of a run that is not finished: its figures are of what is there so far."
            lines.append((text, True))
        if (run.head.get("end") or {}).get("unchanged") is False:
            lines.append((f"{run.path.name}: the base's weights were not the same after the run.", True))
    for arm in arms:
        failed, all_edits = len(cost(arm).failed), len(arm.records)
        if failed:
            lines.append(
                (f"{arm.label}: {failed} of {counted(all_edits, 'edit')} failed; they are listed below.", True)
            )
    if not arms:
        lines.append(("There is no scored edit in these files.", True))
    return lines


def _leaders(runs: Sequence[Run], arms: Sequence[Arm]) -> list[str]:
    """Who has the highest HM of runs that were scored alike, and whether the next one's interval stands apart."""
    of_these = [arm for arm in arms if any(arm.run is run for run in runs) and "HM" in arm.estimates]
    ranked = sorted(of_these, key=lambda arm: -arm.estimates["HM"].mean)
    if not ranked:
        return []
    run, first = runs[0], ranked[0]
    text = f"{setting(run)[0].upper()}{setting(run)[1:]}: {first.name} has an HM of {percent(first.estimates['HM'])}"
    if len(ranked) == 1:
        return [text + "."]
    second = ranked[1]
    if second.estimates["HM"].mean == first.estimates["HM"].mean:
        return [f"{text}, and so has {second.name}."]
    apart = first.estimates["HM"].low > second.estimates["HM"].high
    verdict = "the intervals do not overlap" if apart else "the intervals overlap (vledit compare tests the difference)"
    if not first.estimates["HM"].has_interval:
        verdict = "too few edits to say more"
    return [
        f"{text}, the highest of {len(ranked)}; next is {second.name} with {percent(second.estimates['HM'])}; {verdict}."
    ]


def manifest_rows(run: Run) -> list[tuple[str, str]]:
    """(name, value) of everything that a results file says of itself, and of the file."""
    rows = [("file", f"{run.path}, {size(run.nbytes)}"), ("sha256 of the file", run.sha256)]
    rows.append(("how edits were scored", setting(run)))
    for name, value in run.manifest.items():
        if name == "variants":
            rows += [(f"editor {v.get('name')}", _settings(v)) for v in value]
        else:
            rows.append((spaced(name), _plain(value)))
    rows += [(spaced(name), _plain(value)) for name, value in run.environment.items()]
    end = run.head.get("end") or {}
    rows += [(f"end: {spaced(name)}", _plain(value)) for name, value in end.items()]
    if resumed := run.head.get("resumed"):
        rows.append(("resumed", counted(len(resumed), "time")))
    return rows


def _settings(variant: Mapping) -> str:
    settings = ", ".join(f"{name} = {value}" for name, value in (variant.get("settings") or {}).items())
    return f"{variant.get('editor')}; {settings or 'default settings'}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
