"""Several edits trained together: each step needs one pass above the site and one read of the vocabulary projection for all.

Each edit has its own parameters, rivals, loss and early stop, and Adam works element by element, so an edit learns the same as
it would alone (`fitting.fit`), up to rounding.  The parameters of all are one tensor, so that a step takes as many kernels for
sixteen edits as for one.  What is learnt of an edit is copied when it is finished; when half of them are finished, the others
continue by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
        entered: (A, N, ·) what the parameters of each edit are multiplied with at its needed positions, padding included.
        flat: (M,) the needed positions among the A · N; None: all of them.
        answers, said: (A, n) the positions that predict each edit's answer, and which of them are not padding.
        tokens: (A,) float32, the number of its answer's tokens.
    """

    tail: SiteTail
    of: list[int]
    entered: Tensor
    flat: Tensor | None
    answers: Tensor
    said: Tensor
    tokens: Tensor


@dataclass
class _Rivals:
    """The tokens that each edit's training follows: (A, 1, K) which are padding, (A, n) where its targets stand among them."""

    padding: Tensor
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
        self.vlm, self.trunk, self.site, self.config = vlm, trunk, site, config
        tail = vlm.site_tail(trunk, site) if tail is None else tail
        (out, width), device, count = tail.shape, tail.inputs.device, len(trunk)
        self.reads: list[Tensor] | None = None
        if basis is not None:
            rows = [tail.predicts & (tail.rows == row) for row in range(count)]
            self.reads = [basis(tail.inputs[mine].float()) for mine in rows]
            width = max(map(len, self.reads))
        self.some = self._some(list(range(count)), tail)
        self.learned = torch.zeros((count, out, width), dtype=torch.float32, device=device, requires_grad=True)
        self.found: dict[int, Fitted] = {}
        self._ids: dict[int, Tensor] = {}  # edit → the tokens that its training follows

    def run(self) -> list[Fitted]:
        config = self.config
        optimizer = torch.optim.Adam([self.learned], lr=config.rate)
        rivals = self._followed(None, self.some.of)
        for taken in range(config.steps + 1):
            logits = self._logits(rivals)
            leads = self._leads(logits.detach(), rivals.local)
            ready = [edit for edit in self.some.of if taken == config.steps or leads[edit] >= config.margin]
            if ready:
                stay = self._check(ready, taken)
                if not stay:
                    break
                shrunk = len(stay) <= len(self.some.of) // 2
                if shrunk:
                    optimizer = self._shrunk(optimizer, [self.some.of.index(edit) for edit in stay])
                    self.some = self._some(stay)
                rivals = self._followed(rivals, [edit for edit in ready if edit not in self.found], shrunk)
                logits = self._logits(rivals)
            optimizer.zero_grad()
            self._loss(logits, rivals.local).backward()
            optimizer.step()
        return [self.found[edit] for edit in range(len(self.trunk))]

    def _shrunk(self, optimizer: torch.optim.Adam, places: list[int]) -> torch.optim.Adam:
        """The parameters of the edits at these places alone, and Adam as far as it has come with them."""
        before = optimizer.state[self.learned]
        self.learned = self.learned.detach()[places].requires_grad_()
        after = torch.optim.Adam([self.learned], lr=self.config.rate)
        after.state[self.learned] = {name: one[places] if one.ndim else one for name, one in before.items()}
        return after

    def _some(self, edits: Sequence[int], tail: SiteTail | None = None) -> _Some:
        if tail is None:
            part = self.trunk if len(edits) == len(self.trunk) else self.trunk.select(list(edits))
            tail = self.vlm.site_tail(part, self.site)
        places, there = _padded(tail.rows, len(edits))
        answers, said = _padded(tail.target_rows, len(edits))
        entered = tail.inputs[places].float()
        if self.reads is not None:
            entered = entered @ pad_sequence([self.reads[edit] for edit in edits], batch_first=True).mT
        flat = None if bool(there.all()) else there.flatten().nonzero()[:, 0]
        return _Some(tail, list(edits), entered, flat, answers, said, said.sum(1).float())

    def _deltas(self) -> Tensor:
        """(N, out): what the edits that are still trained add at the needed positions of their own rows."""
        found = (self.some.entered @ self.learned.mT).flatten(0, 1)
        return found if self.some.flat is None else found.index_select(0, self.some.flat)

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
        return logits.masked_fill(rivals.padding, float("-inf"))

    def _loss(self, logits: Tensor, local: Tensor) -> Tensor:
        """Sum over edits of the mean loss of their tokens."""
        said = self.some.said
        each = F.cross_entropy(logits.float().flatten(0, 1), local.flatten(), reduction="none").reshape(said.shape)
        return torch.where(said, each, 0.0).sum(1).div(self.some.tokens).sum()

    def _leads(self, logits: Tensor, local: Tensor) -> dict[int, float]:
        """Edit → the smallest lead of its tokens."""
        each = margins(logits.float().flatten(0, 1), local.flatten()).reshape(local.shape)
        smallest = torch.where(self.some.said, each, float("inf")).amin(1).tolist()
        return dict(zip(self.some.of, smallest, strict=True))

    @torch.no_grad()
    def _check(self, ready: list[int], taken: int) -> list[int]:
        """The whole vocabulary has the last word on who holds; returns who goes on."""
        some = self.some
        full, targets = some.tail.logits(self._deltas()).float(), some.tail.targets
        each = torch.stack([margins(full, targets), F.cross_entropy(full, targets, reduction="none")])[:, some.answers]
        leads = torch.where(some.said, each[0], float("inf")).amin(1)
        losses = torch.where(some.said, each[1], 0.0).sum(1) / some.tokens
        for place, (edit, lead, loss) in enumerate(zip(some.of, leads.tolist(), losses.tolist(), strict=True)):
            if edit not in ready or edit in self.found or (lead < self.config.margin and taken < self.config.steps):
                continue
            learned = self.learned.detach()[place]
            if self.reads is None:
                change = FullTransformation(learned.clone())
            else:
                reads = self.reads[edit]
                change = SpanTransformation(learned[:, : len(reads)].clone(), reads.clone())
            self.found[edit] = Fitted(change, taken, loss, lead)
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
            return _Rivals(nothing, targets, nothing, None)
        if before is None or anew:
            full = some.tail.logits(self._deltas()).float()
            top = full.topk(min(RIVALS, full.shape[1]), dim=1).indices
            ends = some.said.sum(1).cumsum(0).tolist()
            for start, end, edit in zip([0, *ends], ends, some.of, strict=False):
                if before is None or edit in anew:
                    self._ids[edit] = torch.cat([top[start:end].flatten(), some.tail.targets[start:end]]).unique()
        beyond = head.weight.shape[0]  # no token's number, and above all of them, so that each row stays sorted
        ids = pad_sequence([self._ids[edit] for edit in some.of], batch_first=True, padding_value=beyond)
        there, local = ids < beyond, torch.searchsorted(ids, targets).where(some.said, 0)
        rows = ids.where(there, 0).to(head.weight.device)
        return _Rivals(~there[:, None], local, head.weight[rows], None if head.bias is None else head.bias[rows])


def _padded(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where each of `count` rows stands in `rows` (M,), which ascend: (count, most) places, and which are not padding."""
    sizes = torch.bincount(rows, minlength=count)
    starts = sizes.cumsum(0) - sizes
    along = torch.arange(int(sizes.max()), device=rows.device)[None]
    there = along < sizes[:, None]
    return torch.where(there, starts[:, None] + along, 0), there
