"""`Fitting`: everything that an editor's `fit` is called with, and the two things that it does with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.benchmarks import spread
from ...data.cache import sha256_json
from ...data.case import EditCase
from ...errors import InputError
from ..registry import editor_class, known
from .cases import TrainingCases, training_case
from .loop import Job, Progress, Rate, fit
from .settings import FitSettings

if TYPE_CHECKING:
    from ...evaluate.trunk_cache import TrunkCache
    from ...vlm.base import VLM


@dataclass
class Fitting:
    """One fitting of an editor.

    Args:
        cases: edits of a training split; `settings.cases` of them are taken, spread evenly.
        folder: where the run and its artefact are.
        data: where the cases come from, for the manifest.
        resume: go on with a run that is there; else it is deleted.
        cache: where trunks are kept between runs.
    """

    vlm: VLM
    cases: Sequence[EditCase]
    folder: Path
    settings: FitSettings
    data: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = True
    cache: TrunkCache | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        self.pool = list(self.cases)
        """All the cases that were given: what similar records are looked for in."""
        count = self.settings.cases
        self.cases = spread(list(self.cases), count if count < len(self.cases) else 0)

    def training_cases(self, layer: int, cells: Sequence[str] | None = None, forced_new: bool = False) -> TrainingCases:
        """The cases with everything below decoder layer `layer` run once; see `TrainingCases`."""
        settings = self.settings
        return TrainingCases(
            self.vlm,
            self.cases,
            layer,
            settings.per_cell,
            settings.seed,
            cells,
            forced_new,
            self.cache,
            settings.memory_gb,
        )

    def run(self, editor: str, job: Job, clip: float | None = None, rate: Rate | None = None) -> Path:
        """Runs the job to its end; see `loop.fit`."""
        from ...evaluate.manifest import case_key

        settings = self.settings
        seen = [case_key(training_case(case, settings.per_cell, settings.seed)) for case in self.cases]
        data = {**self.data, "cases": len(seen), "cases_hash": sha256_json(seen)}
        return fit(
            job,
            self.vlm,
            editor,
            self.folder,
            settings,
            data,
            clip=clip,
            rate=rate,
            resume=self.resume,
            progress=self.progress,
        )


def fitted_editors() -> list[str]:
    """Names of the editors that are fitted to a model before their first edit."""
    return [name for name in known() if hasattr(editor_class(name), "fit")]


def fitting_class(name: str) -> Any:
    """The class of an editor that is fitted: it has `FitConfig` and `fit(fitting) -> folder`.

    Raises: UnknownNameError; InputError for an editor that learns nothing beforehand.
    """
    found = editor_class(name)
    if not hasattr(found, "fit"):
        raise InputError(
            f"editor: '{name}' learns nothing before its first edit, there is nothing to fit. Editors that are fitted: "
            f"{', '.join(fitted_editors()) or 'none'}."
        )
    return found
