"""Two model cards side by side: is one model of the same quality as the other?

Differences of shares with Newcombe's 95 % interval (1998, method 10), made of both shares' Wilson intervals. It takes the
two samples for independent; where both cards asked the same questions the true interval is narrower.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..errors import InputError
from .card import Share

PARTS = ("pictures", "text", "looking")
ALL = "**all**"


def read_card(path: Path) -> dict[str, Any]:
    """A `model_card.json`.  Raises: InputError where it is none."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        markdown(card, card)  # all that a comparison needs is there
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a model card"
        raise InputError(
            f"--against: '{path}' cannot be read ({reason}). Give a model_card.json, as 'vledit model-card' writes it."
        ) from error
    return card


def shares(card: dict[str, Any]) -> dict[tuple[str, str, str], Share]:
    """(part, question, condition) → how many were right; the rows `ALL` sum up the questions of a part and condition."""
    found: dict[tuple[str, str, str], Share] = {}
    for part in PARTS:
        for question, row in card[part].items():
            conditions = {"": row} if "right" in row else row
            for condition, value in conditions.items():
                share = Share(value["right"], value["n"])
                found[part, question, condition] = share
                so_far = found.get((part, ALL, condition), Share(0, 0))
                if part != "looking":  # three different questions: their sum says nothing
                    found[part, ALL, condition] = Share(so_far.right + share.right, so_far.n + share.n)
    return found


def difference(one: Share, other: Share) -> tuple[float, float, float]:
    """one − other, and the ends of its 95 % interval."""
    (low, high), (other_low, other_high) = one.interval, other.interval
    gap = one.mean - other.mean
    down = math.hypot(one.mean - low, other_high - other.mean)
    up = math.hypot(high - one.mean, other.mean - other_low)
    return gap, gap - down, gap + up


def markdown(card: dict[str, Any], against: dict[str, Any]) -> str:
    """Tables of `card` minus `against`, in percentage points; bold where the interval leaves out nought."""
    mine, theirs = shares(card), shares(against)
    common = [key for key in mine if key in theirs]
    lines = [f"Weights `{card['about']['weights']}` minus weights `{against['about']['weights']}`, in points [95 %]."]
    worse = better = compared = 0
    for part in PARTS:
        keys = [key for key in common if key[0] == part]
        conditions = list(dict.fromkeys(condition for _, _, condition in keys))
        questions = sorted(dict.fromkeys(question for _, question, _ in keys), key=lambda q: q == ALL)
        heads = [condition or "difference" for condition in conditions]
        lines += ["", "| " + " | ".join([part, *heads]) + " |", "|---" * (len(heads) + 1) + "|"]
        for question in questions:
            cells = []
            for condition in conditions:
                key = (part, question, condition)
                gap, low, high = difference(mine[key], theirs[key])
                text = f"{100 * gap:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
                significant = low > 0 or high < 0
                cells.append(f"**{text}**" if significant else text)
                if question != ALL:
                    compared += 1
                    worse, better = worse + (high < 0), better + (low > 0)
            lines.append("| " + " | ".join([question, *cells]) + " |")
    lines += [
        "",
        f"{compared} compared: {better} better, {worse} worse; by chance alone about {compared / 20:.1f} differ.",
    ]
    return "\n".join(lines) + "\n"
