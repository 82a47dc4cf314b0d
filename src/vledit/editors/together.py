"""Trunk passes that several requests share: all their prompts form one forest, so that each picture is read and run once.

If a model family cannot share passes (`UnpackableError`), the prompts run as ordinary rows.  The results equal those of single
requests up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..vlm.base import VLM, Site, Trunk
from ..vlm.columns import UnpackableError
from ..vlm.forest import Forest
from ..vlm.surroundings import lasting
from ..vlm.tail import SiteTail
from .answering import pool

EDITS = 16
"""Edits that are begun together."""
ROWS = 16
"""Rows that go through the trunk together where prompts cannot be shared."""


def begun_together(vlm: VLM, method: Any, requests: Iterable[Any], size: int = EDITS) -> Iterator[tuple[Any, Any]]:
    """Yields each request with what the editor's `begin` made of it and the next ones; None where it has no `begin`."""
    left = iter(requests)
    while some := list(islice(left, size)):
        begun = method.begin(vlm, some) if hasattr(method, "begin") else [None] * len(some)
        yield from zip(some, begun, strict=True)


@dataclass(frozen=True)
class Row:
    """A prompt, and the answer that is forced behind it (None: the prompt alone)."""

    image: Any
    question: str
    answer: str | None = None


@lasting
def run(
    vlm: VLM, site: Site, answered: Sequence[Row], others: Sequence[Row], tokens: str, key_site: Site | None = None
) -> tuple[Trunk, SiteTail, Tensor]:
    """One trunk with a row for each of `answered`, all of which have answers, and the rest of the model above the site, ready for
    training; and the keys of these rows, then of `others`.  The site's layer runs once for each row.

    Args:
        tokens: what keys are pooled over, see `pool_key`.
        key_site: where keys are read, at or below `site`; default: there.
    Returns: (trunk, which ends at the site's layer, its tail, (len(answered) + len(others), in) float32 on the CPU).
    """
    rows, key_site = [*answered, *others], key_site or site
    if tokens != "prompt+answer":  # a forest leaves out an answer's last token
        try:
            return _grown(vlm, site, key_site, rows, len(answered), tokens)
        except UnpackableError:
            pass
    trunk, tail, keys = _tail(vlm, site, key_site, vlm.trunk(_encoded(vlm, answered), key_site.layer), tokens)
    for start in range(0, len(others), ROWS):
        encoded = _encoded(vlm, others[start : start + ROWS])
        keys.append(pool(vlm.site_input(vlm.trunk(encoded, key_site.layer), key_site), encoded, tokens))
    return trunk, tail, torch.cat(keys)


def _encoded(vlm: VLM, rows: Sequence[Row]) -> Any:
    answers = [row.answer for row in rows]
    given = answers if any(one is not None for one in answers) else None
    return vlm.encode([row.image for row in rows], [row.question for row in rows], given)


def _tail(vlm: VLM, site: Site, key_site: Site, trunk: Trunk, tokens: str) -> tuple[Trunk, SiteTail, list[Tensor]]:
    """The trunk raised to the site's layer, its tail, and the keys of its rows, which are read on the way.

    Args:
        trunk: ends at the layer of `key_site`.
    """
    keys: list[Tensor] = []
    read = lambda entered: keys.append(pool(entered, trunk.encoded, tokens))  # noqa: E731
    if key_site == site:
        return trunk, vlm.site_tail(trunk, site, read), keys
    read(vlm.site_input(trunk, key_site))
    raised = vlm.raise_trunk(trunk, site.layer)
    return raised, vlm.site_tail(raised, site), keys


def _grown(
    vlm: VLM, site: Site, key_site: Site, rows: Sequence[Row], answered: int, tokens: str
) -> tuple[Trunk, SiteTail, Tensor]:
    forest = Forest.grow(
        vlm,
        key_site.layer,
        [row.image for row in rows],
        [row.question for row in rows],
        [[] if row.answer is None else [row.answer] for row in rows],
    )
    trunk, tail, keys = _tail(vlm, site, key_site, forest.trunk([(row, 0) for row in range(answered)]), tokens)
    for start in range(answered, len(rows), ROWS):
        part = forest.trunk([(row, None) for row in range(start, min(start + ROWS, len(rows)))])
        keys.append(pool(vlm.site_input(part, key_site), part.encoded, tokens))
    return trunk, tail, torch.cat(keys)
