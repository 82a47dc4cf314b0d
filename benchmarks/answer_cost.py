"""What an answer of an edited model costs against the unedited one, fired and unfired, with few and many entries.

Rounds are interleaved: in each the base answers, then the edited model, the same request; what is given is the median of the
rounds' ratios with the range of their middle half.  "base again" is the base against itself, and says what noise is.
"edit" is the time that an edit takes, against one with the paper's scope, which lets the backbone rephrase the question.

    .venv/bin/python benchmarks/answer_cost.py [--rounds 30] [--entries 1,1000,10000] [--scopes last,paper] [--threads 1]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vledit
from vledit.codebook import Entry
from vledit.editors.edited_model import EditedModel
from vledit.vlm import VLM

QUESTION, ANSWER = "What brand's logo is this?", "Dell"
OTHER = "How many legs has a spider?"


def pictures() -> tuple[Any, Any]:
    """The edited picture and another one."""
    from PIL import Image, ImageDraw

    drawn = []
    for colour, box in (((200, 30, 60), (50, 60, 170, 180)), ((30, 90, 200), (20, 20, 200, 90))):
        picture = Image.new("RGB", (224, 224), (250, 250, 250))
        ImageDraw.Draw(picture).ellipse(box, fill=colour)
        drawn.append(picture)
    return drawn[0], drawn[1]


def with_entries(vlm: VLM, edit: Any, count: int) -> EditedModel:
    """A model with the edit and `count` - 1 entries of random keys that lie far from everything."""
    model = EditedModel(vlm)
    model.codebook.add(edit.entry)
    rng = np.random.default_rng(0)
    scope = edit.entry.scopes[0]
    spread = 10 * float(np.linalg.norm(scope.key)) / np.sqrt(len(scope.key))
    for number in range(count - 1):
        key = rng.normal(0, spread, len(scope.key)).astype(np.float32)
        far: Entry = dataclasses.replace(
            edit.entry, id=f"e{number}", question=f"question {number}", scopes=(dataclasses.replace(scope, key=key),)
        )
        model.codebook.add(far)
    return model


def ratio(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Median of second / first over interleaved rounds, and their quartiles."""
    found = []
    for _ in range(rounds):
        times = []
        for run in (first, second):
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        found.append(times[1] / times[0])
    low, middle, high = statistics.quantiles(found, n=4)
    return middle, low, high


def measure(rounds: int, entries: list[int], scopes: list[str]) -> list[dict[str, Any]]:
    """One record per figure."""
    vlm = vledit.load("pocket").vlm
    drawn, other = pictures()
    request = vledit.EditRequest(drawn, QUESTION, ANSWER)
    edits = {scope: EditedModel(vlm).edit(request, scope=scope) for scope in scopes}
    base = EditedModel(vlm)
    records = []

    def note(name: str, first: Callable[[], Any], second: Callable[[], Any], goal: float | None) -> None:
        first(), second()
        middle, low, high = ratio(first, second, rounds)
        records.append({"name": name, "value": middle, "low": low, "high": high, "goal": goal})
        told = "" if goal is None else f"  {goal:.2f}  {'met' if middle <= goal else 'missed'}"
        print(f"{name:42} {middle:.3f} [{low:.3f}, {high:.3f}]{told}", flush=True)

    ask = lambda model, picture, question: lambda: model.answer(picture, question, 4)  # noqa: E731
    note("base again", ask(base, drawn, QUESTION), ask(base, drawn, QUESTION), None)
    editing = lambda scope: lambda: EditedModel(vlm).edit(request, scope=scope)  # noqa: E731
    for scope in scopes:
        if scope != "paper":
            note(f"edit, scope={scope}", editing("paper"), editing(scope), None)
    for scope, count in itertools.product(scopes, entries):
        model = with_entries(vlm, edits[scope], count)
        assert model.answer(drawn, QUESTION).decision.fired
        assert not model.answer(None, OTHER).decision.fired
        goal = 1.03 if count <= 10_000 else 1.10
        # the base forced to as many tokens: an edit's answer may be longer or shorter than the base's
        forced = lambda m: lambda: m.generate([drawn], [QUESTION], max_new_tokens=4, min_new_tokens=4, do_sample=False)  # noqa: E731
        note(f"{scope}, {count} entries, fired", forced(base), forced(model), goal)
        note(
            f"{scope}, {count} entries, unfired, a picture",
            ask(base, other, QUESTION),
            ask(model, other, QUESTION),
            goal,
        )
        note(f"{scope}, {count} entries, unfired, no picture", ask(base, None, OTHER), ask(model, None, OTHER), goal)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--entries", default="1,1000,10000")
    parser.add_argument("--scopes", default="last", help="of BalancEdit: last, paper, or both with a comma")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    records = measure(options.rounds, [int(count) for count in options.entries.split(",")], options.scopes.split(","))
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
