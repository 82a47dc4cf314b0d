"""The demo in the terminal, and as a record for `--json`."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..report.records import decision_record, edit_record
from .play import Played, Row
from .story import groups
from .words import VERDICTS, remarks

STYLES = {"follows": "bold red", "stays": "green", "missed": "bold yellow", "leaked": "bold yellow", "reported": "cyan"}


def show(played: Played, console: Console) -> None:
    """Prints the table and what it means."""
    console.print(table(played), Text(), summary(played))


def table(played: Played) -> Table:
    """One line per question, grouped as in the paper's Table 1."""
    made = Table(title=f"{played.story.brand}'s mark is renamed to {played.story.answer}", title_style="bold")
    for name in ("picture", "question", "before", "with the edit"):
        made.add_column(name, overflow="fold")
    made.add_column("distance / radius", justify="right", no_wrap=True)
    made.add_column("")
    for _, heading, rows in groups(played.story):
        made.add_section()
        made.add_row(f"[bold]{heading}[/]")
        for row in (played.rows[index] for index in rows):
            made.add_row(*_cells(row))
    return made


def _cells(row: Row) -> list[str]:
    before = escape(row.before) + (" [dim](wrong)[/]" if row.base_right is False else "")
    after = f"[bold]{escape(row.after)}[/]" if row.changed else escape(row.after)
    return [
        escape(row.question.label),
        escape(row.question.question),
        before,
        after,
        reach(row),
        f"[{STYLES[row.verdict]}]{VERDICTS[row.verdict]}[/]",
    ]


def reach(row: Row) -> str:
    """Distance over radius of the nearest edit, and whether it fired."""
    reading = row.decision
    if reading.distance is None or reading.radius is None:
        return "–"
    ratio = reading.distance / reading.radius if reading.radius else float("inf")
    return f"{ratio:.2f} {'● fired' if reading.fired else '○'}"


def summary(played: Played) -> Group:
    """What to take home, in a few lines."""
    return Group(*(Text(line, style="bold yellow" if wrong else "") for line, wrong in remarks(played)))


def record(played: Played) -> dict[str, Any]:
    """The demo as plain values."""
    return {
        "brand": played.story.brand,
        "answer": played.story.answer,
        "question": played.story.question,
        "model": played.model_name,
        "data": played.data_version,
        "edit": edit_record(played.edit),
        "rows": [
            {
                "kind": row.question.kind,
                "label": row.question.label,
                "question": row.question.question,
                "expected": row.question.expected,
                "right": row.question.right,
                "held_out": row.question.held_out,
                "before": row.before,
                "after": row.after,
                "restored": row.restored,
                "base_right": row.base_right,
                "verdict": row.verdict,
                "seconds": row.seconds,
                "decision": decision_record(row.decision),
            }
            for row in played.rows
        ],
        "undone": played.undone,
        "weights": {"before": played.weights_before, "after": played.weights_after},
        "left_out": list(played.story.left_out),
        "remarks": [line for line, _ in remarks(played)],
    }
