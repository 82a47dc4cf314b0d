"""The page of `vledit analyze attribution`: curves over the layers, rank correlations, and the flow of a few edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from .. import __version__
from . import flow
from .pages import data_uri, write_page
from .svg import marker, tag
from .text import percent, spaced

if TYPE_CHECKING:
    from ..analysis.attribution import Attribution
    from ..data.case import EditCase
    from ..evaluate.bootstrap import Estimate

MEASURED = {"shares": "image share, %", "pulls": "pull of the picture, %"}
TEMPLATE = Path(__file__).with_name("attribution.html.j2")


@dataclass(frozen=True)
class Flow:
    """What is drawn of one edit.

    Args:
        picture: opened, or None. traces: name → attribution of the edited prompt. tokens: of the prompt, as text.
        grid: (rows, columns) of the picture's patches; None where visual tokens are no patches.
    """

    case: EditCase
    picture: Any
    traces: Mapping[str, Attribution]
    tokens: Sequence[str]
    grid: tuple[int, int] | None


def write_attribution_page(
    out: Path,
    title: str,
    lines: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    cells: Sequence[str],
    flows: Sequence[Flow],
    ranks: Mapping[str, Mapping[str, Estimate]],
) -> Path:
    """Writes the page.

    Args:
        lines: of the analysis' file. names: the base and the variants.
        ranks: variant → measure → rank correlation with blindness.
    """
    from ..analysis.study import layer_estimates

    found = []
    for cell in cells:
        for measure, words in MEASURED.items():
            row = layer_estimates(lines, cell, measure)
            row = {name: row[name] for name in names if name in row}
            if row:
                found.append((f"{spaced(cell)}: {words}", flow.layers_plot(row, f"{words}, {cell}"), row))
    return write_page(
        TEMPLATE,
        out,
        version=__version__,
        title=title,
        names=names,
        plots=found,
        ranks=ranks,
        measured=MEASURED,
        flows=[(one, _picture(one), _drawn(one)) for one in flows],
        swatch=_swatch,
        percent=percent,
        style=Markup(TEMPLATE.with_name("results.css").read_text(encoding="utf-8")),
    )


def _picture(one: Flow) -> str:
    return "" if one.picture is None else data_uri(one.picture)


def _drawn(one: Flow) -> list[tuple[str, Markup, Markup]]:
    """(name, flow, patches)."""
    return [(name, flow.flow(found, one.tokens), flow.patches(found, one.grid)) for name, found in one.traces.items()]


def _swatch(series: int) -> Markup:
    return tag("svg", marker(series, 7.0, 7.0, 4.6), viewBox="0 0 14 14", class_="swatch-mark", aria_hidden="true")
