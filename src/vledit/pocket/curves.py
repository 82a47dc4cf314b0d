"""The training log as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_log(log: Path) -> list[dict[str, Any]]:
    """What a `log.jsonl` of a training, or of several on the same weights, says of its steps; see `continued`."""
    return continued([json.loads(line) for line in log.read_text().splitlines() if line.strip()])


def continued(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of several runs on the same weights with steps that go on: where a stage starts again, they are shifted.

    A run resumed in the stage it was killed in does again what was not saved; of steps that were done twice the later counts.
    """
    shifts: dict[str, int] = {}
    reached: dict[str, int] = {}
    last: dict[str, int] = {}
    found = []
    before = ""
    for record in records:
        if "step" not in record:
            continue
        stage = record.get("stage", "answer")
        if record.get("event") == "resumed" and (record["step"] > 0 or stage == before):
            last[stage] = record["step"]
            done = record["step"] + shifts.get(stage, 0)
            found = [one for one in found if one["stage"] != stage or one["step"] <= done]
        elif record["step"] < last.get(stage, 0):
            shifts[stage] = reached.get(stage, 0)
        before = stage
        last[stage] = record["step"]
        step = record["step"] + shifts.get(stage, 0)
        reached[stage] = max(step, reached.get(stage, 0))
        found.append({**record, "stage": stage, "step": step})
    return found


def draw(log: Path, out: Path) -> None:
    """Plots loss and recognition of the stages, and the checks with test wordings, from `log.jsonl` to a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = read_log(log)
    listened = max((r["step"] for r in records if r["stage"] == "listen"), default=0)
    later = [
        r | {"step": r["step"] + listened} if r["stage"] == "answer" else r for r in records if r["stage"] != "align"
    ]
    checks = [r for r in later if r.get("event") == "check"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8))
    align = [r for r in records if r["stage"] == "align" and "recognition" in r]
    answer = [r for r in later if "recognition" in r]
    left.plot([r["step"] for r in align], [r["recognition"] for r in align], color="#2a78b8", label="recognition loss")
    left.plot([r["step"] for r in align], [r["alignment"] for r in align], color="#3b8f4c", label="alignment loss")
    share = left.twinx()
    share.plot([r["step"] for r in align], [100 * r["right"] for r in align], color="#d1721f", lw=1)
    held = [r for r in records if r["stage"] == "align" and "recognised.things" in r]
    share.plot([r["step"] for r in held], [100 * r["recognised.things"] for r in held], "o:", color="#8f2fb3", ms=3)
    share.set(ylim=(0, 100), ylabel="recognised, %; dots: held-out things")
    left.set(title="align", xlabel="step")
    left.legend(frameon=False, fontsize=8, loc="center right")
    middle.plot([r["step"] for r in answer], [r["answer"] for r in answer], color="#2a78b8", label="answer loss")
    if listened:
        middle.axvline(listened, color="#888888", lw=0.8, ls=":")
    middle.set(title="listen, answer" if listened else "answer", xlabel="step", yscale="log")
    middle.legend(frameon=False, fontsize=8)
    kinds = ("things.name", "flags.country", "brands.brand")
    for kind, colour in zip(kinds, ("#2a78b8", "#3b8f4c", "#d1721f"), strict=True):
        for split, style in (("train", "-"), ("held_out", ":")):
            points = [(r["step"], 100 * r[f"{split}.{kind}"]) for r in checks if f"{split}.{kind}" in r]
            if points:
                right.plot(*zip(*points, strict=True), style, color=colour, label=f"{kind}, {split.replace('_', ' ')}")
    right.set(title="exact match, test wordings, %", xlabel="step", ylim=(0, 100))
    right.legend(frameon=False, fontsize=7, loc="lower right")
    for axis in (left, middle, right):
        axis.grid(alpha=0.25)
        axis.spines["top"].set_visible(False)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    plt.close(figure)
