"""Tuning an editor's settings on a few edits of the validation split, so that competing methods are at their best.

Optuna's TPE sampler proposes settings. All trials are kept in a SQLite file, so that an interrupted search can be
continued.  The first trial uses the editor's defaults, the second the authors' settings if there are any, both exactly as they
are, also where a setting lies outside what is searched (a gate that is off).  The value of a trial is the harmonic mean of
reliability, of the mean over the cells of generality, and of the mean over the cells of locality (preserved).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.cache import write_atomic
from ..editors.named import BEST, KEY
from ..editors.registry import editor_class
from ..errors import InputError, MissingDataError
from .metrics import by_edit, harmonic_mean

STUDY = "study.db"


@dataclass(frozen=True)
class Range:
    """What a setting may be: `kind` "log" or "linear" from `low` to `high`, "int" likewise, or one of `choices`."""

    kind: str
    low: float = 0.0
    high: float = 1.0
    choices: tuple[Any, ...] = ()

    def distribution(self, optuna: Any) -> Any:
        """The same in Optuna's words."""
        if self.choices:
            return optuna.distributions.CategoricalDistribution(self.choices)
        if self.kind == "int":
            return optuna.distributions.IntDistribution(int(self.low), int(self.high))
        return optuna.distributions.FloatDistribution(self.low, self.high, log=self.kind == "log")

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        return value in self.choices if self.choices else value is not None and self.low <= value <= self.high


_FT = {"learning_rate": Range("log", 1e-4, 1e-1), "steps": Range("int", 10, 100), "margin": Range("linear", 0.0, 6.0)}
SPACES: Mapping[str, Mapping[str, Range]] = {
    "ft": _FT,
    "ft_v": {**_FT, "weight_decay": Range("linear", 0.0, 0.1)},
    "balancedit": _FT,
    "t_patcher": {
        "learning_rate": Range("log", 1e-3, 1e-1),
        "activation_weight": Range("log", 1e-3, 10.0),
        "memory_weight": Range("log", 1e-2, 100.0),
        "margin": Range("linear", 0.0, 4.0),
    },
    "grace": {
        "learning_rate": Range("log", 1e-2, 10.0),
        "radius_scale": Range("log", 0.1, 10.0),
        "replace": Range("", choices=("last", "all")),
        "margin": Range("linear", 0.0, 6.0),
    },
    "lemoe": {
        "learning_rate": Range("log", 1e-4, 1e-1),
        "rank": Range("int", 2, 64),
        "margin": Range("linear", 0.0, 6.0),
    },
    "ike": {"demonstrations": Range("int", 0, 8), "gate": Range("linear", 0.0, 1.0)},
    "mend": {"scale": Range("log", 0.1, 10.0)},
    "mend_adv": {"scale": Range("log", 0.1, 10.0)},
    "serac": {"threshold": Range("linear", 0.05, 0.95)},
    "lte": {"threshold": Range("linear", 0.05, 0.95), "picture_weight": Range("linear", 0.0, 1.0)},
    "hice": {
        "gate": Range("", choices=("paper", "edit")),
        "demonstrations": Range("int", 0, 8),
        "hard": Range("linear", 0.5, 1.0),
        "margin": Range("linear", -1.0, 0.5),
    },
}
"""Editor → its settings that are searched."""
PAPER_SCOPE = {"alpha": Range("linear", 0.0, 1.0)}
"""Searched as well with --set scope=paper; the threshold of scope=last is what `vledit fit-scope` finds."""


def space(editor: str, fixed: Mapping[str, Any] | None = None) -> Mapping[str, Range]:
    """The settings of an editor that are searched, but for `fixed`.

    Raises: UnknownNameError; InputError where it has none to tune.
    """
    method = editor_class(editor)
    found = getattr(method, "tunable", None) or SPACES.get(editor)
    if not found:
        raise InputError(
            f"editor: '{editor}' has no settings of an edit to be tuned. Editors that have: {', '.join(SPACES)}."
        )
    if editor == "balancedit" and (fixed or {}).get("scope") == "paper":
        found = {**PAPER_SCOPE, **found}
    return {name: one for name, one in found.items() if name not in (fixed or {})}


def value_of(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`value` and its three parts, of single-edit records; an edit that failed counts as the base answers."""
    columns = by_edit(outcome for record in records for outcome in record["outcomes"])
    means = {name: float(np.mean(list(column.values()))) for name, column in columns.items()}
    ends = ("text_generality", "image_generality")
    generality = [means[name] for name in ends if name in means]
    locality = [mean for name, mean in means.items() if name.endswith("_preserved") and not name.startswith("devqa_")]
    parts = {
        "reliability": means.get("reliability", 0.0),
        "generality": float(np.mean(generality)) if generality else 1.0,
        "locality": float(np.mean(locality)) if locality else 1.0,
    }
    return {"value": harmonic_mean(list(parts.values())), **parts}


def failures(records: Sequence[Mapping[str, Any]]) -> int:
    """How many edits of a trial failed.

    Raises: MissingDataError where all of them failed for want of something that no settings can give, such as a fitting.
    """
    failed = [record for record in records if record.get("error")]
    if failed and len(failed) == len(records) and all(one["error_type"] == "MissingDataError" for one in failed):
        raise MissingDataError(str(failed[0]["error"]))
    return len(failed)


Score = Callable[[Mapping[str, Any]], Sequence[Mapping[str, Any]]]
"""Settings → single-edit records of the validation edits."""


class Search:
    """A search, in a folder of its own.

    Args:
        about: what it is about (model, benchmark, split, cases): a search goes on only with the same.
        fixed: settings that are not searched.
        first: settings that are tried first, exactly as they are, each with the reason as "why".

    Raises: MissingDataError where Optuna is not installed; InputError where the folder holds another search.
    """

    def __init__(
        self,
        editor: str,
        folder: Path,
        about: Mapping[str, Any],
        seed: int = 0,
        fixed: Mapping[str, Any] | None = None,
        first: Sequence[Mapping[str, Any]] = (),
    ):
        self.optuna = import_optuna()
        self.editor, self.folder, self.seed, self.fixed = editor, folder, seed, dict(fixed or {})
        self.space, self.first = dict(space(editor, self.fixed)), list(first)
        if not self.space:
            raise InputError("set: every setting that is searched was given; nothing is left to tune.")
        folder.mkdir(parents=True, exist_ok=True)
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        storage = f"sqlite:///{folder / STUDY}"
        self.study = self.optuna.create_study(
            storage=storage, study_name=editor, direction="maximize", load_if_exists=True
        )
        told = json.loads(json.dumps({**about, "fixed": self.fixed, "seed": seed}, sort_keys=True, default=str))
        there = self.study.user_attrs.get("about")
        if there is None:
            self.study.set_user_attr("about", told)
        elif there != told:
            changed = [name for name in sorted({*told, *there}) if told.get(name) != there.get(name)]
            raise InputError(
                f"out: {folder} holds another search ({', '.join(changed)} differ); give another folder, or --restart."
            )
        self._drop_killed()

    def _drop_killed(self) -> None:
        """A trial that was running when the search was killed is tried again."""
        states = self.optuna.trial.TrialState
        for trial in self.study.get_trials(states=(states.RUNNING,)):
            self.study.enqueue_trial(trial.params)
            self.study.tell(trial.number, state=states.FAIL)

    @property
    def done(self) -> list[Any]:
        """The trials that have a value."""
        return self.study.get_trials(states=(self.optuna.trial.TrialState.COMPLETE,))

    def run(self, trials: int, score: Score, progress: Callable[[], object] = lambda: None) -> None:
        """Tries settings until there are `trials` with a value.  Proposals depend on the seed and on what was tried alone."""
        known = {trial.user_attrs.get("why") for trial in self.done}
        for named in self.first:
            if named.get("why") not in known and len(self.done) < trials:
                self._try(named, score)
                progress()
        while len(self.done) < trials:
            self.study.sampler = self.optuna.samplers.TPESampler(seed=self.seed + len(self.study.trials))
            trial = self.study.ask({name: range.distribution(self.optuna) for name, range in self.space.items()})
            found = self._scored(trial.params, score)
            for name, value in found.items():
                trial.set_user_attr(name, value)
            self.study.tell(trial, found["value"])
            self.write_best()
            progress()

    def _scored(self, settings: Mapping[str, Any], score: Score) -> dict[str, float]:
        records = score({**self.fixed, **settings})
        return {"failed": failures(records), **value_of(records)}

    def _try(self, named: Mapping[str, Any], score: Score) -> None:
        """A trial of settings that are given; Optuna learns from those that it might have proposed."""
        settings = {name: value for name, value in named.items() if name != "why"}
        found = self._scored(settings, score)
        inside = {name: settings[name] for name, range in self.space.items() if range.holds(settings.get(name))}
        trial = self.optuna.trial.create_trial(
            params=inside,
            distributions={name: self.space[name].distribution(self.optuna) for name in inside},
            value=found["value"],
            user_attrs={"why": named.get("why", ""), "settings": settings, **found},
        )
        self.study.add_trial(trial)
        self.write_best()

    @property
    def best(self) -> dict[str, Any]:
        """The searched settings of the best trial so far."""
        return self._settings(self.study.best_trial)

    @staticmethod
    def _settings(trial: Any) -> dict[str, Any]:
        return {**trial.params, **trial.user_attrs.get("settings", {})}

    def write_best(self) -> Path:
        """The best settings so far, where `settings=tuned` looks for them."""
        best = self.study.best_trial
        record = {
            "editor": self.editor,
            KEY: {**self.fixed, **self.best},
            "value": best.value,
            "trial": best.number,
            "trials": len(self.done),
            "about": self.study.user_attrs["about"],
        }
        path = self.folder / BEST
        write_atomic(path, (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode())
        return path

    def rows(self) -> list[dict[str, Any]]:
        """A row for each trial: number, why it was tried, its settings, value and parts, and how many edits failed."""
        parts = ("value", "reliability", "generality", "locality")
        return [
            {
                "trial": trial.number,
                "why": trial.user_attrs.get("why", ""),
                **{name: self._settings(trial).get(name) for name in self.space},
                **{part: trial.user_attrs[part] for part in parts},
                "failed": trial.user_attrs.get("failed", 0),
            }
            for trial in self.done
        ]


def import_optuna() -> Any:
    """The package.  Raises: MissingDataError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise MissingDataError("optuna is not installed: pip install 'vledit[tune]'.") from error
    return optuna
