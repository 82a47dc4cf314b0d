"""Results files written by hand (docs/results_format.md), so that what a report must say of them is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

RADIUS, POSITIVE, NEGATIVE, ALPHA = 45.0, 5.0, 50.0, 0.1111


@dataclass(frozen=True)
class Probed:
    """One probe of the miniature case and what an edit makes of it.

    Args:
        distance: None for one that JSON has no number for.
        new, same: with the edit acting.
    """

    family: str
    cell: str
    index: int
    distance: float | None
    new: bool
    same: bool | None = None
    question: str = "What is this?"
    image: str | None = "key"
    base: str = ""
    answer: str = ""
    tags: Mapping[str, str] | None = None


PROBES = (
    Probed("reliability", "edit", 0, 0.5, True),
    Probed("generality", "image", 0, 20.0, True, image="other"),
    Probed("generality", "image", 1, 61.2, True, image="far"),
    Probed("generality", "image", 2, 30.0, False, image="third"),
    Probed("generality", "text", 0, 4.0, True, question="What does this show?"),
    Probed("locality", "black", 0, 50.0, False, True, base="nothing", image="black"),
    Probed("locality", "near_image", 0, 70.0, False, False, base="boar", image="near"),
    Probed("locality", "near_image", 1, 40.0, True, False, base="ox", image="near2"),
    Probed("locality", "near_image", 2, 41.0, False, False, base="ape", image="near3"),
    Probed("locality", "near_image", 3, 42.0, False, True, base="cow", image="near4"),
    Probed("locality", "text", 0, 66.0, False, True, question="Name a colour.", image=None, base="red"),
)

SCOPED, ALWAYS = "full", "ft"


def head(variants: Sequence[str], protocol: str = "single", **more: Any) -> dict[str, Any]:
    manifest = {
        "schema": 2,
        "metrics": "2",
        "model": "models/pocket",
        "fingerprint": "f" * 32,
        "weights": "a" * 64,
        "dtype": "torch.float32",
        "benchmark": "sample",
        "split": "test",
        "cases": 3,
        "cases_hash": "c" * 64,
        "variants": [{"name": v, "editor": "balancedit", "settings": {"alpha": ALPHA}} for v in variants],
        "protocol": protocol,
        "seed": 0,
        **more,
    }
    return {"manifest": manifest, "environment": {"vledit": "0.1.0", "torch": "2.13.0", "date": "2026-11-22"}}


def base_line(case: str, probes: Sequence[Probed], question: str, answer: str) -> dict[str, Any]:
    request = {"question": question, "answer": answer, "image": "key", "base_answer": "gorilla", "tags": {}}
    rows = [
        {
            "family": p.family,
            "cell": p.cell,
            "index": p.index,
            "id": f"{p.cell}/{p.index}",
            "question": question if p.family == "reliability" else p.question,
            "image": p.image,
            "target": answer,
            "answer": "the data set's" if p.family == "locality" else None,
            "base_answer": p.base,
            "base_new": False,
            "base_new_token": 0.25,
            "tags": dict(p.tags or {}),
        }
        for p in probes
    ]
    return {"base": case, "request": request, "probes": rows, "seconds": 0.5}


def record(variant: str, case: str, probes: Sequence[Probed], after: int = 1, error: str = "", entry: str = "") -> dict:
    """A record; the variant `ft` has no scope and acts on everything."""
    scoped = variant != ALWAYS
    outcomes = []
    for p in probes:
        fired = not error and (not scoped or (p.distance is not None and p.distance <= RADIUS))
        outcomes.append(
            {
                "fired": fired,
                "changed_new": p.new,
                "changed_same": p.same,
                "changed_new_token": float(p.new) if p.family != "locality" else None,
                "changed_same_token": None if p.same is None else float(p.same),
                "changed_top10": None,
                "entry": (entry or case) if scoped and not error else "",
                "distance": p.distance if scoped and not error else None,
                "radius": RADIUS if scoped and not error else None,
                **({"answer": p.answer} if p.answer else {}),
            }
        )
    edit = {
        "seconds": 0.81,
        "steps": 3,
        "loss": 0.01,
        "margin": 5.25,
        "nbytes": 3_547_402,
        "trained": True,
        "digest": "d",
    }
    if scoped:
        edit |= {"alpha": ALPHA, "radius": RADIUS, "d_positive": POSITIVE, "d_negative": NEGATIVE}
    whole = {"variant": variant, "case": case, "after": after, "order": 1, "error": error, "seconds": 1.5}
    whole |= {"error_type": "EditFailedError" if error else "", "stage": "edit" if error else ""}
    return whole | ({} if error else {"edit": edit}) | {"outcomes": outcomes}


def write(path: Path, *lines: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def results_file(
    path: Path,
    cases: int = 3,
    variants: Sequence[str] = (SCOPED, ALWAYS),
    change: Callable[[int, Probed], Probed] = lambda case, probe: probe,
    question: str = "What animal is it?",
    answer: str = "boar",
) -> Path:
    """Single edits; in case i the farthest picture of the fact lies `i` nearer, so that cases differ."""
    lines: list[dict[str, Any]] = [head(variants)]
    for i in range(cases):
        probes = [change(i, _moved(i, p)) for p in PROBES]
        lines.append(base_line(f"case/{i}", probes, question, answer))
        lines += [record(variant, f"case/{i}", probes) for variant in variants]
    lines.append(
        {"end": {"weights": "a" * 64, "unchanged": True, "records": len(lines) - 1, "failed": 0, "seconds": 9.0}}
    )
    return write(path, *lines)


def _moved(case: int, probe: Probed) -> Probed:
    far = probe.image == "far" and probe.distance is not None
    return replace(probe, distance=probe.distance - 10.0 * case) if far and probe.distance else probe


class Page(HTMLParser):
    """A page read back: its tags (checked to be balanced), attributes and texts."""

    VOID = frozenset(("meta", "img", "input", "br", "link", "hr"))
    CLOSED_BY_SVG = frozenset(("path", "line", "circle", "rect"))

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += [f"never closed: {name}" for name in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if len(dict(attrs)) < len(attrs):
            self.wrong.append(f"attribute twice: {tag} {attrs}")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"closed out of turn: {tag} at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def words(self) -> str:
        """What a reader sees: no scripts, no styles."""
        return " ".join(text for tag, text in self.texts if tag not in ("script", "style"))

    def data(self) -> dict[str, Any]:
        """What the browser of cases draws from."""
        scripts = [text for tag, text in self.texts if tag == "script"]
        return json.loads(next(text for text in scripts if text.startswith("{")))
