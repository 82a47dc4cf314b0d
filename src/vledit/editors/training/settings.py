"""Settings that the trainings of all editors have in common."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ...errors import InputError
from ..base import EditorConfig, setting


@dataclass(frozen=True)
class FitSettings(EditorConfig):
    """What a fitting is told; an editor's own settings come on top."""

    steps: int = setting(2000, "optimiser steps")
    batch: int = setting(1, "training edits per step")
    seed: int = setting(0, "which cases and probes are drawn, and what is drawn at the start")
    cases: int = setting(300, "how many edits of the training split, spread evenly; 0: all")
    per_cell: int = setting(2, "how many probes of each kind an edit has")
    save_every: int = setting(100, "a checkpoint after so many steps")
    log_every: int = setting(20, "a line of the learning curve after so many steps")
    memory_gb: float = setting(
        2.0, "most that the frozen parts of cases take in memory, GB; others are read or run again"
    )
    minutes: float = setting(0.0, "most minutes of steps: then it ends with what it has learnt; 0: as many as it takes")
    half: bool = setting(False, "keep large learnt matrices in float16, half as large on disk")

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "per_cell", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} given; at least 1 is needed.")
        for name in ("cases", "memory_gb", "minutes"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: {getattr(self, name)} given; it must not be negative.")


MAY_CHANGE = ("steps", "save_every", "log_every", "memory_gb", "minutes", "half")
"""Settings that do not touch what is learnt up to a step: a run that was interrupted may go on with others."""


def decisive(settings: EditorConfig) -> dict[str, object]:
    """The settings that a run has to keep."""
    return {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in MAY_CHANGE}
