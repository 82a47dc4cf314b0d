"""What a codebook changes on a set of probes: the base and the edited model are asked each of them before the edits are shipped.

A probe with an answer states what the edited model must answer; for one without, the base's answer must stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..codebook.relation import Fact
from ..data.question_rows import Asked, question_table
from ..data.tables import Unfit
from ..editors.ask_many import Answered, ask_many
from ..errors import InputError

if TYPE_CHECKING:
    from ..editors.edited_model import EditedModel

VERDICTS = {
    "as wanted": "the edited model gives the wanted answer, and the base does not",
    "unchanged": "both give the base's answer, which is the wanted one or was to stay",
    "wrong": "the edited model does not give the wanted answer",
    "broken": "the base gives the wanted answer, and the edited model does not",
    "changed": "the answer was to stay, and is another one",
}
"""Verdict → what it means."""
FAILURES = ("wrong", "broken", "changed")


@dataclass(frozen=True)
class Checked:
    """A probe with the base's and the edited model's answer."""

    probe: Asked
    answered: Answered

    @property
    def before(self) -> str:
        """The base's answer."""
        return self.answered.base or ""

    @property
    def after(self) -> str:
        """The edited model's answer."""
        return self.answered.answer

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        same = Fact("", self.before).answers_as(Fact("", self.after))
        wanted = self.answered.expected
        if wanted is None:
            return "unchanged" if same else "changed"
        base_right = Fact("", self.before).answers_as(Fact("", wanted))
        if self.answered.right:
            return "unchanged" if base_right else "as wanted"
        return "broken" if base_right else "wrong"

    @property
    def failed(self) -> bool:
        return self.verdict in FAILURES


@dataclass(frozen=True)
class ProbeCheck:
    """The probes of a check, in the order of their table; and rows that could not be asked."""

    rows: tuple[Checked, ...]
    unfit: tuple[Unfit, ...] = ()
    seconds: float = 0.0

    @property
    def failures(self) -> list[Checked]:
        """Probes that are not answered as they should be."""
        return [row for row in self.rows if row.failed]

    def counts(self, group: str | None = None) -> dict[str, int]:
        """Verdict → how many probes have it, of all or of one group."""
        verdicts = [row.verdict for row in self.rows if group is None or group_of(row) == group]
        return {name: verdicts.count(name) for name in VERDICTS}

    def groups(self) -> list[str]:
        """The groups of the table's column `group`, in their order."""
        return list(dict.fromkeys(map(group_of, self.rows)))

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "probes": len(self.rows),
            "failures": len(self.failures),
            "fired": sum(row.answered.fired for row in self.rows),
            "counts": self.counts(),
            "groups": {group: self.counts(group) for group in self.groups() if group},
            "unfit": [vars(one) for one in self.unfit],
            "rows": [
                {
                    "line": row.answered.line,
                    "image": row.probe.picture or None,
                    "question": row.answered.question,
                    "group": group_of(row),
                    "wanted": row.answered.expected,
                    "before": row.before,
                    "after": row.after,
                    "verdict": row.verdict,
                    "edit": row.answered.edit,
                    "fired": row.answered.fired,
                    "distance": row.answered.distance,
                    "radius": row.answered.radius,
                }
                for row in self.rows
            ],
            "seconds": self.seconds,
        }


def group_of(row: Checked) -> str:
    """The probe's group; "" where its table has none."""
    return row.probe.probe.tags.get("group", "")


def check_probes(
    model: EditedModel,
    probes: Any,
    *,
    images: Sequence[str | Path] = (),
    answers: str | Path | None = None,
    skip_unfit: bool = False,
    progress: Callable[[str, int, int], object] = lambda what, done, of: None,
) -> ProbeCheck:
    """Ask the base and the edited model every probe.

    Args:
        probes: path, DataFrame, `datasets` table or iterable of mappings, with the column question; and optionally image, answer
            (what the edited model must answer; if it is empty, the base's answer must stay), group.
        images: folders in which relative picture paths are looked up, after the table's own.
        answers: a CSV, TSV or JSON Lines file in which the answers are kept as they come; see `ask_many`.
        skip_unfit: leave invalid rows out; otherwise nothing is asked if there are any.

    Raises: InputError for invalid rows, a table without any row, or an unusable `answers`.
    """
    table = question_table(probes, images)
    if not table.rows:
        raise InputError("probes: there is no row that can be asked. Give at least one question.")
    found = ask_many(model, probes, answers, images=images, base=True, skip_unfit=skip_unfit, progress=progress)
    by_line = {row.line: row for row in table.rows}
    return ProbeCheck(tuple(Checked(by_line[one.line], one) for one in found.rows), found.unfit, found.seconds)
