"""Several edits trained together: each step needs one pass above the site and one read of the vocabulary projection for all.

Each edit has its own parameters, rivals, loss and early stop, and Adam works element by element, so an edit learns the same as
it would alone (`fitting.fit`), up to rounding.  A finished edit takes no further step; when half of them are finished, the
others continue by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codebook import FullTransformation, SpanTransformation
from ..vlm.base import VLM, Site, Trunk
from ..vlm.measures import is_plain
from ..vlm.surroundings import lasting
from ..vlm.tail import SiteTail
from .common_directions import measure, reader
from .fitting import RIVALS, Fitted, FittingConfig, margins

ROOM = 1 << 30
"""Bytes that the parameters of edits that are trained together may take, with Adam's two moments and the gradient."""


@lasting
def train_together(
    vlm: VLM, trunk: Trunk, site: Site, config: FittingConfig, tail: SiteTail | None = None
) -> list[Fitted]:
    """`fitting.train_site` for every row of a trunk; `Fitted.trained` says which did not learn their answer.

    Args:
        trunk: a row for each edit, with its answer.
        config: without adversarial terms.
        tail: of this trunk and site, where it was made already.
    """
    full = config.transformation == "full"
    basis = None if full else reader(measure(vlm, site, config.common_directions))
    out, inputs = vlm.site_shape(site)
    size = max(1, ROOM // (16 * out * inputs)) if full else len(trunk)
    found: list[Fitted] = []
    with torch.inference_mode(False), torch.enable_grad():
        for start in range(0, len(trunk), size):
            rows = list(range(start, min(start + size, len(trunk))))
            whole = len(rows) == len(trunk)
            part = trunk if whole else trunk.select(rows)
            found += _Training(vlm, part, site, config, basis, tail if whole else None).run()
    return found


@dataclass
class _Some:
    """The edits that are still trained, and where each one's rows stand in their tail.

    Args:
        of: numbers of the edits, in the order of the tail's rows.
        places, there: (A, N) the needed positions of each edit, and which of them are not padding.
        answers, said: (A, n) likewise of the positions that predict its answer's tokens.
    """

    tail: SiteTail
    of: list[int]
    places: Tensor
    there: Tensor
    answers: Tensor
    said: Tensor


@dataclass
class _Rivals:
    """The tokens that each edit's training follows: (A, K) ids, (A, K) which are not padding, (A, n) where its targets stand."""

    ids: Tensor
    there: Tensor
    local: Tensor
    weight: Tensor
    bias: Tensor | None


class _Training:
    def __init__(
        self,
        vlm: VLM,
        trunk: Trunk,
        site: Site,
        config: FittingConfig,
        basis: Callable[[Tensor], Tensor] | None,
        tail: SiteTail | None,
    ):
        self.vlm, self.trunk, self.site, self.config, self.basis = vlm, trunk, site, config, basis
        self.some = self._some(list(range(len(trunk))), tail)
        tail = self.some.tail
        shape, device = tail.shape, tail.inputs.device
        self.reads: list[Tensor] = []
        if basis is not None:
            for row in range(len(trunk)):
                self.reads.append(basis(tail.inputs[tail.predicts & (tail.rows == row)].float()))
        sizes = [shape] * len(trunk) if basis is None else [(shape[0], len(one)) for one in self.reads]
        self.learned = [torch.zeros(size, dtype=torch.float32, device=device, requires_grad=True) for size in sizes]
        self.found: dict[int, Fitted] = {}
        self._ids: dict[int, Tensor] = {}  # edit → the tokens that its training follows

    def run(self) -> list[Fitted]:
        config = self.config
        optimizer = torch.optim.Adam(self.learned, lr=config.rate)
        rivals = self._followed(None, self.some.of)
        for taken in range(config.steps + 1):
            logits = self._logits(rivals)
            leads = self._leads(logits.detach(), rivals.local)
            ready = [edit for edit in self.some.of if taken == config.steps or leads[edit] >= config.margin]
            if ready:
                stay = self._check(ready, taken)
                if len(self.found) == len(self.learned):
                    break
                shrunk = len(stay) <= len(self.some.of) // 2
                if shrunk:
                    self.some = self._some(stay)
                rivals = self._followed(rivals, [edit for edit in ready if edit not in self.found], shrunk)
                logits = self._logits(rivals)
            optimizer.zero_grad()
            self._loss(logits, rivals.local).backward()
            for edit in self.found:
                self.learned[edit].grad = None  # Adam leaves what has no gradient as it is
            optimizer.step()
        return [self.found[edit] for edit in range(len(self.learned))]

    def _some(self, edits: Sequence[int], tail: SiteTail | None = None) -> _Some:
        if tail is None:
            part = self.trunk if len(edits) == len(self.trunk) else self.trunk.select(list(edits))
            tail = self.vlm.site_tail(part, self.site)
        places, there = _padded(tail.rows, len(edits))
        answers, said = _padded(tail.target_rows, len(edits))
        return _Some(tail, list(edits), places, there, answers, said)

    def _deltas(self) -> Tensor:
        """(N, out): what the edits that are still trained add at the needed positions of their own rows."""
        some = self.some
        x = some.tail.inputs[some.places].float()
        if self.basis is None:
            found = x @ torch.stack([self.learned[edit] for edit in some.of]).mT
        else:
            rank = max(len(self.reads[edit]) for edit in some.of)
            reads = torch.stack([_filled(self.reads[edit], 0, rank) for edit in some.of])
            writes = torch.stack([_filled(self.learned[edit], 1, rank) for edit in some.of])
            found = (x @ reads.mT) @ writes.mT
        flat = found.new_zeros(len(some.tail.inputs), found.shape[-1])
        return flat.index_copy(0, some.places[some.there], found[some.there])

    def _logits(self, rivals: _Rivals) -> Tensor:
        """(A, n, K): the logits of each edit's own tokens."""
        some = self.some
        if rivals.weight.ndim == 1:  # a head that cannot be cut: all tokens
            return some.tail.logits(self._deltas())[some.answers]
        hidden = some.tail.finished(self._deltas())[some.answers]
        logits = hidden @ rivals.weight.mT
        if rivals.bias is not None:
            logits = logits + rivals.bias[:, None]
        logits = self.vlm.after_projection(logits).float()
        return logits.masked_fill(~rivals.there[:, None], float("-inf"))

    def _loss(self, logits: Tensor, local: Tensor) -> Tensor:
        """Sum over edits of the mean loss of their tokens."""
        said = self.some.said
        each = F.cross_entropy(logits.float().flatten(0, 1), local.flatten(), reduction="none").reshape(said.shape)
        return torch.where(said, each, 0.0).sum(1).div(said.sum(1)).sum()

    def _leads(self, logits: Tensor, local: Tensor) -> dict[int, float]:
        """Edit → the smallest lead of its tokens."""
        each = margins(logits.float().flatten(0, 1), local.flatten()).reshape(local.shape)
        smallest = torch.where(self.some.said, each, float("inf")).amin(1).tolist()
        return dict(zip(self.some.of, smallest, strict=True))

    @torch.no_grad()
    def _check(self, ready: list[int], taken: int) -> list[int]:
        """The whole vocabulary has the last word on who holds; returns who goes on."""
        some = self.some
        full = some.tail.logits(self._deltas()).float()
        for place, edit in enumerate(some.of):
            if edit not in ready or edit in self.found:
                continue
            mine = some.tail.target_rows == place
            logits, targets = full[mine], some.tail.targets[mine]
            lead = float(margins(logits, targets).min())
            if lead < self.config.margin and taken < self.config.steps:
                continue
            learned = self.learned[edit].detach().clone()
            change = (
                FullTransformation(learned)
                if self.basis is None
                else SpanTransformation(learned, self.reads[edit].clone())
            )
            self.found[edit] = Fitted(change, taken, float(F.cross_entropy(logits, targets)), lead)
        return [edit for edit in some.of if edit not in self.found]

    @torch.no_grad()
    def _followed(self, before: _Rivals | None, anew: Sequence[int], shrunk: bool = False) -> _Rivals:
        """The tokens to follow: found anew for the edits `anew`, as `before` for the others."""
        some, head = self.some, self.vlm.anatomy.lm_head
        if before is not None and not anew and not shrunk:
            return before
        targets = some.tail.targets[some.answers]
        if not is_plain(head):
            nothing = targets.new_zeros(0)
            return _Rivals(nothing, nothing, targets, nothing, None)
        if before is None or anew:
            full = some.tail.logits(self._deltas()).float()
            top = full.topk(min(RIVALS, full.shape[1]), dim=1).indices
        ids = []
        for place, edit in enumerate(some.of):
            mine = some.tail.target_rows == place
            if before is None or edit in anew:
                self._ids[edit] = torch.cat([top[mine].flatten(), some.tail.targets[mine]]).unique()
            ids.append(self._ids[edit])
        width = max(map(len, ids))
        padded = torch.stack([_filled(one, 0, width) for one in ids])
        there = (
            torch.arange(width, device=padded.device)[None]
            < torch.tensor([len(one) for one in ids], device=padded.device)[:, None]
        )
        local = torch.stack(
            [torch.searchsorted(one, targets[place].contiguous()) for place, one in enumerate(ids)]
        ).where(some.said, 0)
        rows = padded.to(head.weight.device)
        return _Rivals(padded, there, local, head.weight[rows], None if head.bias is None else head.bias[rows])


def _padded(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where each of `count` rows stands in `rows` (M,), which ascend: (count, most) places, and which are not padding."""
    sizes = torch.bincount(rows, minlength=count)
    starts = sizes.cumsum(0) - sizes
    along = torch.arange(int(sizes.max()), device=rows.device)[None]
    there = along < sizes[:, None]
    return torch.where(there, starts[:, None] + along, 0), there


def _filled(tensor: Tensor, dim: int, size: int) -> Tensor:
    """The tensor with zeros behind it, `size` long."""
    missing = size - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor, tensor.new_zeros(shape)], dim)
