"""The page of `vledit check`: what a codebook changes on a set of probes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from .. import __version__
from ..evaluate.probe_check import VERDICTS, Checked, ProbeCheck
from ..vlm.pictures import open_picture
from .pages import data_uri, write_page

TEMPLATE = Path(__file__).with_name("check.html.j2")
SHOWN = 200
"""Unchanged probes that are shown; all others always are."""


def write_check_page(
    out: Path, found: ProbeCheck, *, codebook: str, model: str, probes: str, edits: int, verdict: str
) -> Path:
    """Writes the page, whole or not at all.

    Args:
        edits: how many are active. verdict: the headline.
    """
    unchanged = [row for row in found.rows if row.verdict == "unchanged"]
    groups = [("all", found.counts())]
    groups += [(group or "no group", found.counts(group)) for group in found.groups() if found.groups() != [""]]
    sections = [
        ("Not as it should be", "failures", _rows(found.failures)),
        ("Changed as wanted", "wanted", _rows([row for row in found.rows if row.verdict == "as wanted"])),
        ("Unchanged", "unchanged", _rows(unchanged[:SHOWN])),
    ]
    return write_page(
        TEMPLATE,
        out,
        style=Markup(TEMPLATE.with_name("results.css").read_text(encoding="utf-8")),
        version=__version__,
        found=found,
        codebook=codebook,
        model=model,
        probes=probes,
        edits=edits,
        verdict=verdict,
        verdicts=VERDICTS,
        tables=groups,
        sections=sections,
        left_out=len(unchanged) - len(unchanged[:SHOWN]),
    )


def _rows(rows: Sequence[Checked]) -> list[tuple[Checked, str | None]]:
    """Each with its picture, small, as a data URI."""
    pictures = [row.probe.probe.image for row in rows]
    return [
        (row, None if image is None else data_uri(open_picture(image), side=96))
        for row, image in zip(rows, pictures, strict=True)
    ]
