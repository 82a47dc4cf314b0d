"""The trunks of a case's rows: in batches of rows of similar length, each with the model's tail above a site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..vlm.acting import is_plain, layers_acting
from ..vlm.base import VLM, Site, Transformation, Trunk
from ..vlm.tail import SiteTail

Acting = Mapping[str, Any]
"""What acts on one row: site → `Change` or transformation."""


class TrunkRows:
    """Trunks of some of a case's rows."""

    def __init__(self) -> None:
        self._at: dict[int, tuple[Trunk, int]] = {}
        self._tails: dict[int, tuple[Trunk, dict[str, SiteTail]]] = {}

    def add(self, trunk: Trunk, rows: Sequence[int]) -> None:
        """`rows`: the case's row of each row of `trunk`."""
        self.add_at(trunk, rows, range(len(rows)))

    def add_at(self, trunk: Trunk, rows: Sequence[int], local: Sequence[int]) -> None:
        """As `add`; `local`: the row of `trunk` that each of `rows` is."""
        for row, i in zip(rows, local, strict=True):
            self._at[row] = (trunk, i)

    def discard(self, row: int) -> None:
        """Forgets a row."""
        trunk, _ = self._at.pop(row, (None, 0))
        if trunk is not None and not any(other is trunk for other, _ in self._at.values()):
            self._tails.pop(id(trunk), None)

    def __contains__(self, row: int) -> bool:
        return row in self._at

    def __len__(self) -> int:
        return len(self._at)

    def rows(self) -> list[int]:
        """The case's rows that are there, ascending."""
        return sorted(self._at)

    def batches(self, rows: Sequence[int]) -> Iterator[tuple[Trunk, list[int], list[int]]]:
        """Yields (trunk, rows, the row of the trunk that each is), batch by batch."""
        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(id(self._at[row][0]), []).append(row)
        for some in groups.values():
            yield self._at[some[0]][0], some, [self._at[row][1] for row in some]

    def tail(self, vlm: VLM, trunk: Trunk, site: Site) -> SiteTail:
        """The part of the model above the site for this trunk, made once."""
        # the trunk is kept with its tails: its id would else be given to another one when it is gone
        _, tails = self._tails.setdefault(id(trunk), (trunk, {}))
        if str(site) not in tails:
            tails[str(site)] = vlm.site_tail(trunk, site)
        return tails[str(site)]

    def logits(
        self, vlm: VLM, rows: Sequence[int], acting: Sequence[Acting | None]
    ) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
        """The logits that predict the rows' answers, with what acts on each row.

        Yields: (rows, logits (n, V), targets (n,), the row of `rows` that each is of (n,)), for rows that share a batch and a
            set of sites.
        """
        of_row = dict(zip(rows, acting, strict=True))
        for trunk, some, local in self.batches(rows):
            groups: dict[tuple[str, ...], list[tuple[int, int]]] = {}
            for row, i in zip(some, local, strict=True):
                groups.setdefault(tuple(sorted(of_row[row] or ())), []).append((row, i))
            # rows that nothing acts on go with any others
            idle = groups.pop((), [])
            for sites, members in groups.items() or [((), [])]:
                members, idle = [*members, *idle], []
                found = self._logits(vlm, trunk, sites, {i: of_row[row] for row, i in members})
                where = {i: place for place, (_, i) in enumerate(members)}
                places = torch.tensor([where.get(int(i), -1) for i in trunk.encoded.target_rows], device="cpu")
                kept = (places >= 0).to(found.device)
                yield [row for row, _ in members], found[kept], trunk.encoded.targets[kept], places[places >= 0]

    def _logits(self, vlm: VLM, trunk: Trunk, sites: Sequence[str], acting: Mapping[int, Acting | None]) -> Tensor:
        """(n, V) for all rows of a trunk's batch; `acting`: by row of the batch."""
        with torch.inference_mode():
            if len(sites) <= 1 and all(is_plain(change) for a in acting.values() for change in (a or {}).values()):
                site = vlm.resolve_site(sites[0]) if sites else Site(vlm.n_layers - 1, "mlp")  # the shortest tail
                tail = self.tail(vlm, trunk, site)
                return tail.logits(_deltas(tail, {i: a[sites[0]] for i, a in acting.items() if a}))
            with layers_acting(vlm, [acting.get(i) for i in range(len(trunk))], trunk.encoded):
                return vlm.head(trunk, positions=trunk.encoded.predict_mask)


def _deltas(tail: SiteTail, changes: Mapping[int, Transformation]) -> Tensor | None:
    """What each row's change adds to the site's output at the tail's positions, (N, out); None where nothing acts."""
    groups: dict[int, tuple[Transformation, list[int]]] = {}
    for row, change in changes.items():
        groups.setdefault(id(change), (change, []))[1].append(row)
    if not groups:
        return None
    deltas = torch.zeros(len(tail.rows), tail.shape[0], device=tail.inputs.device)
    for change, rows in groups.values():
        where = torch.isin(tail.rows, torch.tensor(rows, device=tail.rows.device))
        deltas[where] = change.delta(tail.inputs[where]).to(deltas)
    return deltas
