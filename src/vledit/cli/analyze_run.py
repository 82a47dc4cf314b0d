"""What the commands of `vledit analyze` share: the edits and models of a run, its progress, and how figures are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .benchmark_files import BenchmarkFiles
from .leaderboard import bar
from .output import errors
from .session import open_model
from .variants import parse_variants

if TYPE_CHECKING:
    from ..analysis.notes import Notes
    from ..data.case import EditCase
    from ..evaluate.bootstrap import Estimate
    from ..evaluate.manifest import Variant
    from ..vlm.base import VLM


class Run:
    """Cases, variants and the model of an analysis, checked in this order: what is cheap first."""

    def __init__(self, files: BenchmarkFiles, split: str, limit: int, editors: str, cells: str, model: Sequence[Any]):
        from ..analysis.study import BASE, check_cells

        self.variants: list[Variant] = parse_variants(editors) if editors.strip() else []
        self.names = [BASE, *(variant.name for variant in self.variants)]
        self.cells = [cell.strip() for cell in cells.split(",") if cell.strip()]
        if not self.cells:
            raise InputError("cells: none given.")
        self.cases: list[EditCase] = files.cases(split, limit)
        check_cells(self.cases, self.cells)
        self.title = f"{files.title(split)}, {len(self.cases)} edits"
        self.about = files.about(split)
        self.vlm: VLM = open_model(*model).vlm

    def notes(self, out: Path, analysis: str, **settings: Any) -> Notes:
        """The file, opened; not for a model that this analysis cannot be made of."""
        from ..analysis.anatomised import check_traceable
        from ..analysis.notes import Notes
        from ..data.cache import sha256_json
        from ..evaluate.manifest import case_key

        if analysis in ("attribution", "masking"):
            check_traceable(self.vlm)
        head = {
            "analysis": analysis,
            "model": self.vlm.name,
            "fingerprint": self.vlm.fingerprint,
            "dtype": str(self.vlm.dtype),
            "cells": self.cells,
            "cases": len(self.cases),
            "cases_hash": sha256_json([case_key(case) for case in self.cases]),
            "variants": [vars(variant) for variant in self.variants],
        }
        return Notes(out, {**self.about, **head, **settings})

    def progress(self, what: str) -> Bar:
        """A progress bar over all edits of all models."""
        return Bar(what, len(self.cases) * len(self.names))

    def flows(self, count: int, settings: dict[str, Any]) -> list[Any]:
        """What the page draws of the first edits."""
        from ..analysis import study
        from ..analysis.acting import edited
        from ..analysis.anatomised import patch_grid
        from ..report.attribution_page import Flow

        found = []
        for case in self.cases[:count]:
            asked = study.prompts(case, [study.EDIT])[study.EDIT]
            traces = {study.BASE: study.trace(self.vlm, None, asked, **settings)}
            for variant in self.variants:
                traces[variant.name] = study.trace(self.vlm, edited(self.vlm, variant, case.request), asked, **settings)
            encoded = self.vlm.encode([asked.image], [asked.question])
            tokens = [self.vlm.tokenizer.decode([id]) for id in encoded.input_ids[0].tolist()]
            found.append(Flow(case, asked.image, traces, tokens, patch_grid(encoded)))
        return found


class Bar:
    """Progress on stderr; within the block, a function that is called with every case."""

    def __init__(self, what: str, total: int):
        self.bar = bar()
        self.task = self.bar.add_task(what, total=total)

    def __enter__(self) -> Any:
        self.bar.__enter__()
        return lambda _: self.bar.advance(self.task)

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)


def tell_failures(lines: Sequence[dict[str, Any]]) -> None:
    """Prints why edits failed, on stderr."""
    failed = [line for line in lines if line.get("error")]
    for line in failed[:5]:
        errors.print(f"{line['variant']}, {line['case']}: {line['error']}", markup=False, soft_wrap=True)
    if len(failed) > 5:
        errors.print(f"… and {len(failed) - 5} more edits that failed", markup=False)


def plain(value: Any) -> Any:
    """Estimates within dictionaries and lists, as JSON has them."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else vars(value)


def percent(estimate: Estimate | None) -> str:
    """A share in a table, with the number of edits."""
    return "–" if estimate is None else f"{estimate} ({estimate.n})"


def number(estimate: Estimate | None) -> str:
    """A number in a table, with its interval."""
    if estimate is None:
        return "–"
    return f"{estimate.mean:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
