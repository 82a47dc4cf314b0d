"""How figures are taken: ways in turn, round by round; medians of the rounds' ratios with the range of their middle half."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Way = Callable[[], Any]


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Args:
        value: with the range of the middle half of the rounds, `low` to `high`; equal where there was one round.
        goal: None: told for comparison, not judged.
        at_most: whether the goal is met by what does not exceed it, or by what reaches it.
        size: what the figure grows with (entries), for the plot; `series`: its line there.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str = "x"
    goal: float | None = None
    at_most: bool = True
    series: str = ""
    size: int | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return "-"
        return "met" if (self.value <= self.goal if self.at_most else self.value >= self.goal) else "missed"

    def line(self) -> str:
        """name, value with its range, goal, verdict."""
        goal = "" if self.goal is None else f"{'<=' if self.at_most else '>='} {_short(self.goal)}"
        told = f"{_short(self.value)} {self.unit} [{_short(self.low)}, {_short(self.high)}]"
        return f"{self.name:58} {told:34} {goal:10} {self.verdict}"


def _short(number: float) -> str:
    return f"{number:.3f}" if abs(number) < 10 else f"{number:,.1f}" if abs(number) < 1000 else f"{number:,.0f}"


@dataclass
class Bench:
    """What all figures are taken with.

    Args:
        vlm: the loaded model.
        rounds: of every comparison.
        quick: smaller sizes.
        clock: "cpu" counts the process's own seconds, which other work on the machine adds little to; "wall" the real ones (a GPU
            needs these).
        tell: called with every figure as soon as it is known.
    """

    vlm: Any
    rounds: int
    quick: bool
    clock: str = "cpu"
    tell: Callable[[Figure], None] = lambda figure: None
    found: list[Figure] = field(default_factory=list)

    def now(self) -> float:
        if self.vlm is not None and self.vlm.device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self.clock == "cpu" else time.perf_counter()

    def seconds(self, way: Way) -> float:
        began = self.now()
        way()
        return self.now() - began

    def note(self, name: str, values: Sequence[float], **about: Any) -> Figure:
        """A figure from one value a round."""
        low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
        figure = Figure(name, middle, low, high, **about)
        self.found.append(figure)
        self.tell(figure)
        return figure

    def ratio(self, name: str, first: Way, second: Way, rounds: int = 0, **about: Any) -> Figure:
        """second / first, in turn; each is run once before, so that what is kept is kept for both."""
        for way in (first, second):
            way()
        pairs = [(self.seconds(first), self.seconds(second)) for _ in range(rounds or self.rounds)]
        return self.note(name, [b / a for a, b in pairs], **about)
