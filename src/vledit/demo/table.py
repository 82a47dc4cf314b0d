"""The demo in the terminal, and as a record for `--json`."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..report.records import decision_record, edit_record
from ..report.text import against
from .play import Played, Row
from .story import groups
from .words import remarks

SHORT = {"follows": "follows", "stays": "stays", "missed": "missed", "leaked": "leaked"}
STYLES = {"follows": "bold red", "stays": "green", "missed": "bold yellow", "leaked": "bold yellow", "reported": "cyan"}


def show(played: Played, console: Console) -> None:
    """Prints one small table per kind of question, and what it all means."""
    story = played.story
    console.print(f"[bold]{escape(story.brand)}'s mark is renamed to {escape(story.answer)}[/]")
    console.print("[dim]columns: seen or asked · before (✗ wrong) · after · ● fired, distance / radius[/]\n")
    for _, heading, rows in groups(story):
        console.print(group(heading, [played.rows[index] for index in rows], console.width), Text())
    console.print(summary(played))


def group(heading: str, rows: list[Row], width: int = 80) -> Group:
    """The rows of one kind under their heading; a question that all of them share stands there, too."""
    questions = {row.question.question for row in rows}
    title = Text(heading, style="bold")
    if len(questions) == 1:
        title.append(f"  {questions.pop()}", style="not bold dim")
    made = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    spare = max(0, min(width, 120) - 80)
    for fixed in (23 + spare // 2, 16 + spare // 4, 12 + spare // 4, 14, 7):
        made.add_column(width=fixed, overflow="fold")
    for row in rows:
        shown = row.question.label if title.plain != heading else row.question.question
        before = Text(row.before, style="dim strike" if row.changed else "")
        if row.base_right is False:
            before.append(" ✗", style="yellow")
        after = Text(row.after, style="bold" if row.changed else "dim")
        verdict = Text(SHORT.get(row.verdict, "changed" if row.changed else "same"), style=STYLES[row.verdict])
        made.add_row(Text(shown), before, after, reach(row), verdict)
    return Group(title, made)


def reach(row: Row) -> Text:
    """Whether the nearest edit fired, its distance and its radius."""
    reading = row.decision
    if reading.distance is None or reading.radius is None:
        return Text("nothing near", style="dim")
    sign = "● " if reading.fired else "○ "
    return Text(
        f"{sign}{against(reading.distance, reading.radius)} / {against(reading.radius, reading.radius)}",
        style="" if reading.fired else "dim",
    )


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
