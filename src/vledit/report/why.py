"""The outcome of each probe and its reason: one letter per probe in the page's data, one sentence per letter for people.

The same sentences are used by the page's script (which fills in the numbers) and by the Markdown.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluate.outcomes import Outcome

PASSED = frozenset("naosb")
"""Letters of probes that did what the metric of their family asks for (exact; locality: preserved)."""

REASONS = {
    "n": ("follows", "the edit fired ({gap}) and the answer is the new one"),
    "a": ("follows", "answered with the new answer by the base itself; the edit did not fire ({gap})"),
    "o": ("stays", "outside the radius ({gap}): the base answers"),
    "s": ("stays", "the edit fired ({gap}), and the answer stayed as it was"),
    "b": ("stays", "there is no edit: making it failed, and the base answers"),
    "m": ("key outside the radius", "key outside the radius: {gap}"),
    "w": ("fired, other answer", "fired ({gap}) but did not give the new answer{share}"),
    "e": (
        "another edit fired",
        "the entry of another edit fired ({entry}; {gap}) and did not give the new answer{share}",
    ),
    "x": ("nearest to another edit", "nearest to the entry of another edit ({entry}), and outside its radius: {gap}"),
    "l": ("gave the new answer", "locality broken: the edit fired ({gap}) and gave its new answer"),
    "c": (
        "answer changed",
        "locality broken: the edit fired ({gap}) and changed the answer to another than its new one",
    ),
    "k": ("another edit fired", "locality broken: the entry of another edit fired ({entry}; {gap})"),
    "f": ("no edit", "there is no edit: making it failed, and the base answers"),
}
"""Letter → (a few words, a sentence). {gap}: the distance against the radius; {entry}: whose; {share}: of the answer's tokens."""

UNKNOWN = {
    "n": "the new answer",
    "a": "the new answer",
    "l": "the new answer",
    "w": "not the new answer",
    "e": "not the new answer",
    "c": "neither the new answer nor the base’s",
    "k": "neither the new answer nor the base’s",
}
"""What is known of an answer that was not generated; of all other letters, that it is as before."""

ORDER = "fmxweklc"
"""Of the letters of failures, in tables."""


def letter(outcome: Outcome, edited: bool = True, alone: bool = False) -> str:
    """What became of this probe, as a key of `REASONS`.

    Args:
        edited: whether the case's edit was made.
        alone: no other edit is there, so that whatever entry is named is the case's own.
    """
    other = not alone and outcome.entry not in ("", outcome.case)
    nothing = not edited and not outcome.fired and math.isnan(outcome.distance)
    if outcome.family == "locality":
        if outcome.same:
            return "b" if nothing else "s" if outcome.fired else "o"
        return "k" if other else "l" if outcome.new else "c"
    if outcome.new:
        return "n" if outcome.fired else "a"
    if nothing:
        return "f"
    if outcome.fired:
        return "e" if other else "w"
    return "x" if other else "m"


def gap(outcome: Outcome) -> str:
    """ "61.2 > 47.8": the distance against the radius, with the decimals that show which is larger.

    With several scopes each is named: "picture 0.2 ≤ 1.0, question 3.1 > 2.0".
    """
    if len(outcome.readings) > 1:
        return ", ".join(f"{scope} {against(_number(d), _number(r))}" for scope, d, r in outcome.readings)
    if math.isnan(outcome.radius):
        return "no scope: it acts on every request" if outcome.fired else "no entry is there"
    return against(outcome.distance, outcome.radius)


def against(distance: float, radius: float) -> str:
    """Two numbers and their relation, with as many decimals as are needed to see it."""
    digits = max(0, 2 - math.floor(math.log10(radius))) if radius > 0 else 3
    if not math.isfinite(distance):
        return f"no finite distance; radius {radius:.{digits}f}"
    left = right = ""
    for decimals in range(digits, digits + 8):
        left, right = f"{distance:.{decimals}f}", f"{radius:.{decimals}f}"
        if left != right or distance == radius:
            break
    return f"{left} {'≤' if distance <= radius else '>'} {right}"


def after(outcome: Outcome, kind: str) -> str:
    """What the edited model says, or what is known of it where its words were not generated.  `kind`: the letter."""
    return outcome.shown_answer or f"({UNKNOWN.get(kind, 'as before')})"


def sentence(outcome: Outcome, edited: bool = True, alone: bool = False) -> str:
    """Why this probe passed or failed, with its numbers."""
    _, text = REASONS[letter(outcome, edited, alone)]
    return text.format(gap=gap(outcome), entry=outcome.entry, share=share(outcome))


def share(outcome: Outcome) -> str:
    """How near the answer came to the new one: "; 67 % of its tokens", empty where it was not measured."""
    if outcome.family == "locality" or not math.isfinite(outcome.new_token):
        return ""
    return f"; {100 * outcome.new_token:.0f} % of its tokens"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
