"""What commands print: results on stdout (a table or JSON), everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..report.text import number, size

__all__ = ["Json", "busy", "console", "emit", "errors", "number", "plain", "size", "steps", "wants_json"]

errors = Console(stderr=True)

_JSON = "vledit.json"


def _remember(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[_JSON] = value  # shared with the parent contexts, so that an error is told in JSON as well
    return value


Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout.", callback=_remember, is_eager=True)
]


def wants_json(ctx: Any) -> bool:
    """Whether the command that runs in `ctx` was asked for JSON."""
    return bool(ctx.meta.get(_JSON))


def emit(value: Any) -> None:
    """Writes `value` to stdout as JSON; numbers that JSON has no word for (inf, nan) become null."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def emit_long(head: Mapping[str, Any], name: str, items: Iterable[Any]) -> None:
    """As `emit` of `head` with `name`: [*items] at its end, written item by item."""
    start = json.dumps(plain(head), ensure_ascii=False, indent=2, allow_nan=False).removesuffix("\n}")
    sys.stdout.write(f"{start},\n  {json.dumps(name)}: [")
    between = ""
    for item in items:
        text = json.dumps(plain(item), ensure_ascii=False, indent=2, allow_nan=False)
        sys.stdout.write(f"{between}\n    " + text.replace("\n", "\n    "))
        between = ","
    sys.stdout.write(("\n  ]" if between else "]") + "\n}\n")


def plain(value: Any) -> Any:
    """`value` made of what JSON holds."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def console() -> Console:
    """A console on stdout, made when it is used: tests and pipes replace stdout."""
    return Console(highlight=False)


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Shows that something is going on, on stderr, while the block runs; silent where nobody watches."""
    with errors.status(text):
        yield


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr while the block runs, one for each kind of work.

    Yields: what is called with the kind of work, how much of it is done, and of how much.
    """
    from rich.progress import Progress

    with Progress(console=errors, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=of)
            bar.update(tasks[what], completed=done, total=of)

        yield progress
