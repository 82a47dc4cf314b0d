"""The command line: one file per group of commands, each with `register(app)`.  Nothing here imports torch."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `vledit` command; exits with the code that the errors in `vledit.errors` name."""
    from .app import build

    build()(prog_name="vledit")
