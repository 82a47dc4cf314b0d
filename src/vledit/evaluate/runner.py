"""Runs editors over cases and writes one line per outcome; resumes by case id, keeps going past a failing case.

The results file starts with a manifest; a file with another configuration is never appended to.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.case import EditCase
from ..editors.registry import editor as make_editor
from ..errors import InputError
from ..vlm.base import VLM
from . import metrics
from .outcomes import SCHEMA, Outcome, plain
from .prepared import PreparedCase, prepare
from .protocols import Scored, sequential, single


@dataclass(frozen=True)
class Variant:
    """An editor with settings, under the name it has in tables."""

    name: str
    editor: str
    settings: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> Variant:
        """ "balancedit", or "balancedit:transformation=span,alpha=0.3"; values as JSON where they are, else as text."""
        editor, _, rest = text.partition(":")
        settings = dict(read_setting(part) for part in rest.split(",") if part)
        return cls(text, editor, settings)


def read_setting(text: str) -> tuple[str, Any]:
    """ "alpha=0.3" → ("alpha", 0.3).  Raises: InputError without "="."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"setting: {text!r} is not name=value.")
    try:
        return name.strip(), json.loads(value)
    except json.JSONDecodeError:
        return name.strip(), value


def manifest(
    vlm: VLM, benchmark: str, cases: Sequence[EditCase], variants: Sequence[Variant], **more: Any
) -> dict[str, Any]:
    """What has to be the same for two runs to be comparable, and what is good to know about this one."""
    import torch
    import transformers

    from ..data.cache import sha256_json

    return {
        "manifest": {
            "schema": SCHEMA,
            "metrics": metrics.VERSION,
            "model": vlm.name,
            "fingerprint": vlm.fingerprint,
            "dtype": str(vlm.dtype),
            "benchmark": benchmark,
            "cases": len(cases),
            "cases_hash": sha256_json([[c.id, c.request.question, c.request.answer, count(c)] for c in cases]),
            "variants": [asdict(v) for v in variants],
            **more,
        },
        "environment": {
            "vledit": __version__,
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "date": time.strftime("%Y-%m-%d"),
        },
    }


def count(case: EditCase) -> int:
    return sum(1 for _ in case.probes())


class Results:
    """A results file being written.  One record per (variant, case), its outcomes inside, flushed at once."""

    def __init__(self, path: Path, head: dict[str, Any]):
        self.path, self.done = path, set()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            self._resume(head)
        else:
            self._append(head)

    def _resume(self, head: dict[str, Any]) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):  # killed in mid-line: that case is run again
            lines.pop()
            self.path.write_text("".join(lines), encoding="utf-8")
        records = [json.loads(line) for line in lines]
        if not records or records[0].get("manifest") != json.loads(json.dumps(plain(head["manifest"]))):
            raise InputError(
                f"results: {self.path} was written with another configuration; give another file or delete it."
            )
        self.done = {(r["variant"], r["case"]) for r in records[1:] if "case" in r}

    def _append(self, record: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(record), ensure_ascii=False) + "\n")
            file.flush()

    def write(self, variant: str, scored: Scored, seconds: float) -> None:
        record: dict[str, Any] = {
            "variant": variant,
            "case": scored.case,
            "error": scored.error,
            "seconds": round(seconds, 4),
        }
        if scored.edit is not None:
            record["edit"] = {**asdict(scored.edit.report), **_scope_record(scored)}
        record["outcomes"] = [plain(asdict(outcome)) for outcome in scored.outcomes]
        self._append(record)
        self.done.add((variant, scored.case))


def _scope_record(scored: Scored) -> dict[str, Any]:
    entry = scored.edit.entry if scored.edit is not None else None
    if entry is None or entry.anchors is None:
        return {}
    anchors = entry.anchors
    return {
        "alpha": entry.alpha,
        "radius": entry.radius,
        "d_positive": anchors.d_positive,
        "d_negative": anchors.d_negative,
        "positive_source": anchors.positive_source,
        "positive_question": anchors.positive_question,
    }


def read_results(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(head, records) of a results file; each record's "outcomes" are `Outcome`s."""
    with path.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.endswith("\n")]
    if not lines or "manifest" not in lines[0]:
        raise InputError(f"results: {path} does not start with a manifest; is it a results file?")
    for record in lines[1:]:
        record["outcomes"] = [Outcome(**{**o, **_numbers(o)}) for o in record["outcomes"]]
    return lines[0], lines[1:]


_NUMBERS = ("distance", "radius", "base_new_token", "changed_new_token", "changed_same_token")


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    return {name: float("nan") if record[name] is None else record[name] for name in _NUMBERS}


def run_single(
    vlm: VLM,
    cases: Iterable[EditCase],
    variants: Sequence[Variant],
    results: Results,
    progress: Callable[[str], None] = lambda _: None,
    prepared: dict[str, PreparedCase] | None = None,
) -> None:
    """Each case once made ready, then every variant on it: edit, score, undo.

    Args:
        prepared: cases whose id is a key are left here when they are ready, for another protocol to use.
    """
    editors = {v.name: make_editor(v.editor, **v.settings) for v in variants}
    for case in cases:
        left = [v for v in variants if (v.name, case.id) not in results.done]
        if left:
            one = ready(vlm, case, editors.values())
            for variant in left:
                began = time.perf_counter()
                scored = single(vlm, one, editors[variant.name], variant.name)
                results.write(variant.name, scored, time.perf_counter() - began)
            if prepared is not None and case.id in prepared:
                prepared[case.id] = one
        progress(case.id)


def run_sequential(
    vlm: VLM,
    cases: Sequence[EditCase],
    variants: Sequence[Variant],
    results: Results,
    progress: Callable[[str], None] = lambda _: None,
    prepared: dict[str, PreparedCase] | None = None,
) -> None:
    """All edits of a variant one after the other, then all probes of all cases; `prepared`: cases that are ready."""
    editors = {v.name: make_editor(v.editor, **v.settings) for v in variants}
    left = [v for v in variants if any((v.name, c.id) not in results.done for c in cases)]
    if not left:
        return
    all_ready = []
    for case in cases:
        all_ready.append((prepared or {}).get(case.id) or ready(vlm, case, editors.values()))
        progress(case.id)
    for variant in left:
        began = time.perf_counter()
        scored, _ = sequential(vlm, all_ready, editors[variant.name], variant.name)
        seconds = (time.perf_counter() - began) / max(len(cases), 1)
        for one in scored:
            if (variant.name, one.case) not in results.done:
                results.write(variant.name, one, seconds)


def ready(vlm: VLM, case: EditCase, editors: Iterable[Any]) -> PreparedCase:
    sites = {str(vlm.resolve_site(e.config.site or vlm.default_site)) for e in editors}
    if len(sites) > 1:
        raise InputError(f"site: variants of one run must edit the same site, not {', '.join(sorted(sites))}.")
    tokens = {getattr(e.config, "key_tokens", "mean") for e in editors}
    tokens = {"mean" if t == "prompt+answer" else t for t in tokens}
    return prepare(vlm, case, vlm.resolve_site(next(iter(sites))), tuple(sorted(tokens)))


def by_variant(records: Iterable[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Records grouped by variant, in order of first appearance."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["variant"], []).append(record)
    yield from groups.items()
