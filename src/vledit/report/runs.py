"""Results files read for a report: one `Run` per file, one `Arm` per editor variant in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.cache import sha256_file
from ..errors import InputError, VLEditError

if TYPE_CHECKING:
    from ..evaluate.metrics import Estimate
    from ..evaluate.outcomes import Outcome

SINGLE = "single"
MOST_MISSING = 0.01
"""Share of a cell's probes that may lack a score before a metric is left out: then it can be off by a point at most."""


@dataclass(frozen=True, eq=False)
class Run:
    """One results file.

    Args:
        path, sha256, nbytes: of the file.
        head: its first line: "manifest" and "environment".
        records: one per (variant, case), each with its `Outcome`s under "outcomes".
    """

    path: Path
    sha256: str
    nbytes: int
    head: Mapping[str, Any]
    records: Sequence[dict[str, Any]] = field(repr=False)

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self.head["manifest"]

    @property
    def environment(self) -> Mapping[str, Any]:
        return self.head.get("environment") or {}

    @property
    def benchmark(self) -> str:
        return str(self.manifest.get("benchmark") or "unnamed benchmark")

    @property
    def protocol(self) -> str:
        """ "single", "sequential", …"""
        return str(self.manifest.get("protocol") or "single")

    @property
    def model(self) -> str:
        """The model's name without the folders before it."""
        return Path(str(self.manifest.get("model") or "unnamed model")).name

    @property
    def finished(self) -> bool | None:
        """Whether the run came to its end; None where the file's schema does not tell."""
        return bool(self.head.get("end")) if self.manifest.get("schema", 1) > 1 else None

    @property
    def bases(self) -> Mapping[str, Mapping[str, Any]]:
        """Case id → what was asked and what the base answered before any edit; empty for older files."""
        return self.head.get("bases") or {}

    @property
    def fingerprint(self) -> str:
        return str(self.manifest.get("fingerprint") or "")

    @property
    def setting(self) -> tuple[str, ...]:
        """What a run shares with others whose editors can stand in one table with its own: model, data and protocol."""
        cases = self.manifest.get("cases_hash") or self.path  # older files do not tell
        named = ("dtype", "benchmark", "split", "protocol")
        return self.fingerprint, str(cases), *(str(self.manifest.get(name, "")) for name in named)


@dataclass(frozen=True, eq=False)
class Arm:
    """One editor variant in one results file: a row of the leaderboard.

    Args:
        index: its number on the page.
        name: of the variant.
        label: the name with what tells it from the page's other arms (protocol, model, file).
        series: the same for equal variants of one model under different protocols: they share a colour.
        records: of the largest number of edits made before scoring: what tables and plots are about.
        stages: number of edits made before scoring → records; one stage where the protocol has no curve.
    """

    index: int
    run: Run
    name: str
    label: str
    series: int
    records: Sequence[dict[str, Any]] = field(repr=False)
    stages: Mapping[int, Sequence[dict[str, Any]]] = field(repr=False)

    @cached_property
    def outcomes(self) -> list[Outcome]:
        return [outcome for record in self.records for outcome in record["outcomes"]]

    @cached_property
    def scoped(self) -> bool:
        """Whether a radius decides what the edits act on; without one they act on every request."""
        return any(math.isfinite(outcome.radius) for outcome in self.outcomes)

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Every metric and cost with its interval, exactly as `metrics.table` gives them.

        Left out are metrics that were run on some probes of a cell only (`partial_metrics`): on which ones hangs on what came of
        them (an answer that stayed is not tried for the new one), so that their mean would tell of the choice.
        """
        from ..evaluate.metrics import table

        partial = partial_metrics(self.outcomes)
        return {name: e for name, e in table(self.records).items() if name not in partial}

    @cached_property
    def cases(self) -> int:
        """How many cases count in the figures."""
        return len({outcome.case for outcome in self.outcomes})

    @property
    def edits(self) -> int:
        """How many edits had been made when it was scored."""
        return max(self.stages)

    @property
    def alone(self) -> bool:
        """Each edit is scored with no other edit there."""
        return self.run.protocol == SINGLE


def partial_metrics(outcomes: Sequence[Outcome]) -> set[str]:
    """Names of metrics that more than `MOST_MISSING` of their cell's probes have no score for."""
    from ..evaluate.metrics import metrics_of

    cells: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        cells.setdefault((outcome.family, outcome.cell), []).append(outcome)
    found = set()
    for metric in metrics_of(cells):
        own = [pair for pair in cells if pair[0] == metric.family and metric.cell in (None, pair[1])]
        values = [metric.score(outcome) for pair in own for outcome in cells[pair] if metric.counts(outcome)]
        if values and sum(map(math.isnan, values)) > MOST_MISSING * len(values):
            found.add(metric.name)
    return found


def by_setting(arms: Sequence[Arm]) -> list[list[Arm]]:
    """The arms of each `Run.setting`, in the order of its first."""
    found: dict[tuple[str, ...], list[Arm]] = {}
    for arm in arms:
        found.setdefault(arm.run.setting, []).append(arm)
    return list(found.values())


def base_of(arms: Sequence[Arm]) -> Arm:
    """Of arms of one setting, the one whose probes say most about their common base: scored by token, with the most cases."""
    return max(arms, key=lambda arm: (bool(arm.run.manifest.get("tokens", True)), arm.cases))


def read_run(path: Path) -> Run:
    """Reads a results file.  Raises: MissingDataError without such a file, InputError where it is something else."""
    from ..evaluate.results import read_results

    try:
        head, records = read_results(path)
        if not all(isinstance(head[name], dict) for name in ("manifest", "environment")):
            raise TypeError("manifest and environment must be objects")
    except VLEditError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"results: {path} is not a results file of `vledit bench` ({type(error).__name__}: {error})."
        ) from error
    return Run(path, sha256_file(path), path.stat().st_size, head, records)


def arms_of(runs: Sequence[Run]) -> list[Arm]:
    """All variants of all runs in the order of the files, labelled so that no two are alike."""
    from ..evaluate.metrics import by_after, last

    found = [(run, name, records) for run in runs for name, records in _by_variant(run)]
    labels = _labels([(run, name) for run, name, _ in found])
    series: dict[tuple[str, str], int] = {}
    arms = []
    for index, (run, name, records) in enumerate(found):
        number = series.setdefault((run.fingerprint, name), len(series))
        arms.append(Arm(index, run, name, labels[index], number, last(records), by_after(records)))
    return arms


def _by_variant(run: Run) -> list[tuple[str, list[dict[str, Any]]]]:
    """The manifest's order; a variant that has no record yet is not there."""
    groups: dict[str, list[dict[str, Any]]] = {str(v["name"]): [] for v in run.manifest.get("variants") or ()}
    for record in run.records:
        groups.setdefault(record["variant"], []).append(record)
    return [(name, records) for name, records in groups.items() if records]


def _labels(found: Sequence[tuple[Run, str]]) -> list[str]:
    """Name, then protocol, model and file name, each only where it differs between runs or is needed to tell two apart."""
    labels = [name for _, name in found]
    for about in (lambda run: run.protocol, lambda run: run.model, lambda run: run.path.stem):
        if len({about(run) for run, _ in found}) > 1 and len(set(labels)) < len(labels):
            labels = [f"{label} · {about(run)}" for label, (run, _) in zip(labels, found, strict=True)]
    counts: dict[str, int] = {}
    for index, label in enumerate(labels):
        counts[label] = counts.get(label, 0) + 1
        if counts[label] > 1:
            labels[index] = f"{label} ({counts[label]})"
    return labels
