"""Training a transformation of one site on the answer's tokens, starting from the output of the frozen trunk.

Source: BalancEdit, Eq. 2 (next-token loss of the new answer).  Each step costs the part of the model above the site and a
few hundred rows of the vocabulary projection: those of the answer and of its strongest rivals.  Whether the edit succeeded is
checked against the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codebook import FullTransformation, NeuronTransformation, SpanTransformation, Transformation
from ..data.case import EditRequest
from ..errors import EditFailedError, InputError, UnknownNameError
from ..vlm.base import VLM, Site, Trunk
from ..vlm.surroundings import lasting
from ..vlm.tail import SiteTail
from .adversary import CLOSE, AdversarialSettings, Adversary, total
from .base import setting
from .common_directions import COUNT, measure, reader

TRANSFORMATIONS = ("full", "span")
RIVALS = 512
"""Strongest rivals per answer position whose logits are followed during training."""


@dataclass(frozen=True)
class FittingConfig(AdversarialSettings):
    """Settings of methods that train a transformation of one site; the defaults are the paper's where it names them."""

    site: str = setting("", "edited layer, e.g. '-1.mlp.out'; empty: the default of the model family")
    transformation: str = setting("full", "full (the paper's fine-tune of the site) or span (a few vectors)")
    steps: int = setting(50, "maximum number of Adam steps")
    learning_rate: float | None = setting(None, "Adam's learning rate; none: 1e-3 for full, 0.5 for span")
    margin: float = setting(2.0, "training stops when every answer token leads by this many logits")
    common_directions: int = setting(COUNT, "span: number of common directions of the site's inputs that are left out")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transformation not in TRANSFORMATIONS:
            raise UnknownNameError("transformation", self.transformation, TRANSFORMATIONS)
        if self.steps < 1:
            raise InputError(f"steps: {self.steps} given; at least 1 is needed.")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise InputError(f"learning_rate: {self.learning_rate} given; it must be positive.")
        if not self.margin >= 0:
            raise InputError(f"margin: {self.margin} given; it must not be negative.")
        if self.common_directions < 0:
            raise InputError(f"common_directions: {self.common_directions} given; it must not be negative.")

    @property
    def rate(self) -> float:
        return self.learning_rate or {"full": 1e-3, "span": 0.5}[self.transformation]


@dataclass(frozen=True)
class Fitted:
    """A trained transformation. `margin`: smallest lead of a target over all other tokens, in logits, whole vocabulary."""

    transformation: Transformation
    steps: int
    loss: float
    margin: float

    @property
    def trained(self) -> bool:
        return self.margin > 0


class Sum:
    """The sum of two transformations, while the second is being trained on top of the first."""

    def __init__(self, first: Transformation, second: Transformation):
        self.first, self.second = first, second

    def delta(self, x: Tensor) -> Tensor:
        return self.first.delta(x) + self.second.delta(x)


def combined(first: Transformation, second: Transformation) -> Transformation:
    """One transformation that does what both do together; of rank r1 + r2 where both are spans.

    Raises: InputError where one is a layer's neurons and the other is not.
    """
    if isinstance(first, NeuronTransformation) and isinstance(second, NeuronTransformation):
        parts = zip(first.tensors().items(), second.tensors().values(), strict=True)
        return NeuronTransformation(**{name: torch.cat([mine, theirs.to(mine)]) for (name, mine), theirs in parts})
    if isinstance(first, NeuronTransformation) or isinstance(second, NeuronTransformation):
        raise InputError(
            f"site: always-on edits of the kinds '{first.kind}' and '{second.kind}' cannot be added up at one site; give the "
            "new edit another site."
        )
    if isinstance(first, SpanTransformation) and isinstance(second, SpanTransformation):
        return SpanTransformation(
            torch.cat([first.directions, second.directions], 1), torch.cat([first.inputs, second.inputs])
        )
    full = [as_full(first), as_full(second)]
    return FullTransformation(full[0].weight_delta + full[1].weight_delta)


def as_full(transformation: Transformation) -> FullTransformation:
    """The same change as one (out, in) matrix."""
    loaded = transformation.load() if hasattr(transformation, "load") else transformation  # type: ignore[attr-defined]
    if isinstance(loaded, FullTransformation):
        return loaded
    if isinstance(loaded, SpanTransformation):
        return FullTransformation(loaded.directions @ loaded.inputs)
    raise InputError(f"transformation: '{loaded.kind}' cannot be written as one matrix.")


UNLEARNT = ("refuse", "keep")


def unlearnt() -> str:
    """The setting of methods that cannot always teach an answer; see `refuse_unlearnt`."""
    return setting("refuse", "if the answer was not learnt: refuse (an error) or keep (the edit is scored as it is)")


def refuse_unlearnt(answer: str, steps: int, margin: float, what: str, advice: str) -> None:
    """Raises: EditFailedError where the answer's weakest token does not lead and `what` is "refuse"."""
    if margin <= 0 and what == "refuse":
        raise EditFailedError(
            f"answer: after {steps} steps the model does not answer {answer!r} (its weakest token trails by {-margin:.2f} "
            f"logits). {advice}"
        )


def margins(logits: Tensor, targets: Tensor) -> Tensor:
    """(n, V) logits and (n,) targets → (n,) lead of each target over its strongest rival, in logits."""
    target = logits.gather(1, targets[:, None])[:, 0]
    rivals = logits.scatter(1, targets[:, None], float("-inf")).amax(1)
    return target - rivals


def train_site(
    vlm: VLM,
    trunk: Trunk,
    site: Site,
    request: EditRequest,
    config: FittingConfig,
    start: Transformation | None = None,
    tail: SiteTail | None = None,
) -> Fitted:
    """`fit` at a site as a method is configured, on the trunk of the edit with its answer.

    Args:
        request: the edit, its picture opened.
        tail: of this trunk and site, where it was made already.

    Raises: EditFailedError where the model did not learn the answer.
    """
    spans = config.transformation == "span"
    fitted = fit(
        vlm.site_tail(trunk, site) if tail is None else tail,
        config.transformation,
        steps=config.steps,
        learning_rate=config.rate,
        margin=config.margin,
        basis=reader(measure(vlm, site, config.common_directions)) if spans else None,
        start=start,
        adversary=Adversary.of(vlm, request, config, [str(site)]),
    )
    return learnt(fitted, request.answer)


def learnt(fitted: Fitted, answer: str) -> Fitted:
    """What was trained.  Raises: EditFailedError where it does not give the answer."""
    advice = "Give more steps, a larger learning_rate, or a shorter answer."
    refuse_unlearnt(answer, fitted.steps, fitted.margin, "refuse", advice)
    return fitted


@lasting
def fit(
    tail: SiteTail,
    kind: str,
    *,
    steps: int,
    learning_rate: float,
    margin: float,
    basis: Callable[[Tensor], Tensor] | None = None,
    start: Transformation | None = None,
    adversary: Adversary | None = None,
) -> Fitted:
    """Trains until every answer token leads by `margin` logits, at most `steps` steps of Adam.

    Args:
        kind: "full", ΔW of the site's shape (the paper's); "span", ΔW = D X with one row of X per answer token.
        basis: for "span", from the site's inputs at the answer positions (n, in) to X (n, in).
        start: a transformation to start from (sequential edits, Sec. 3.2); it is not changed.
        adversary: what the edited model must keep; then all steps are taken, but where the change is close to the base.
    """
    site_inputs = tail.inputs[tail.predicts].float()
    shape = tail.shape
    change: Transformation
    if kind == "full":
        learned = torch.zeros(shape, dtype=torch.float32, device=site_inputs.device, requires_grad=True)
        change = FullTransformation(learned)
    elif kind == "span":
        rows = basis(site_inputs) if basis is not None else site_inputs / site_inputs.pow(2).sum(1, keepdim=True)
        sizes = (shape[0], len(rows))
        learned = torch.zeros(sizes, dtype=torch.float32, device=site_inputs.device, requires_grad=True)
        change = SpanTransformation(learned, rows)
    else:
        raise UnknownNameError("transformation", kind, TRANSFORMATIONS)
    with torch.inference_mode(False), torch.enable_grad():
        whole = Sum(start, change) if start is not None else change
        if adversary is None:
            taken, loss, lead = _descend(tail, whole, learned, steps, learning_rate, margin)
        else:
            taken, loss, lead = _descend_against(adversary, tail, whole, learned, steps, learning_rate, margin)
    tensors = {name: tensor.detach().clone() for name, tensor in change.tensors().items()}
    found = type(change).from_tensors(tensors)  # type: ignore[attr-defined]
    return Fitted(combined(start, found) if start is not None else found, taken, loss, lead)


def _descend(
    tail: SiteTail, change: Transformation | Sum, learned: Tensor, steps: int, rate: float, margin: float
) -> tuple[int, float, float]:
    optimizer = torch.optim.Adam([learned], lr=rate)
    vocabulary, local = _followed(tail, change)
    for taken in range(steps + 1):
        logits = tail.logits(change, vocabulary).float()
        if float(margins(logits.detach(), local).min()) >= margin or taken == steps:
            # the few tokens that are followed say it holds; the whole vocabulary has the last word
            with torch.no_grad():
                full = tail.logits(change).float()
                lead = float(margins(full, tail.targets).min())
                loss = float(F.cross_entropy(full, tail.targets))
            if lead >= margin or taken == steps:
                return taken, loss, lead
            vocabulary, local = _followed(tail, change)
            logits = tail.logits(change, vocabulary).float()
        optimizer.zero_grad()
        F.cross_entropy(logits, local).backward()
        optimizer.step()
    raise AssertionError("unreachable: the last step returns")


def _descend_against(
    adversary: Adversary,
    tail: SiteTail,
    change: Transformation | Sum,
    learned: Tensor,
    steps: int,
    rate: float,
    margin: float,
) -> tuple[int, float, float]:
    """As `_descend`, on Eq. 10; leaves in `learned` the step that leads by the margin and is nearest to the base."""
    optimizer = torch.optim.Adam([learned], lr=rate)
    point = str(tail.site)
    best = Best()
    for taken in range(steps + 1):
        logits = tail.logits(change).float()
        loss = F.cross_entropy(logits, tail.targets)
        lead = float(margins(logits.detach(), tail.targets).min())
        apart = adversary.divergences({point: change})
        best.note(lead, margin, total(apart), taken, float(loss.detach()), learned)
        if taken == steps or best.is_close:
            break
        optimizer.zero_grad()
        adversary.loss(loss, apart).backward()
        optimizer.step()
    return best.leave_in(learned)


class Best:
    """The step of a training that leads by the margin and is nearest to the base.

    Where none leads so far: the one that leads most; where none leads: the last.
    """

    def __init__(self) -> None:
        self.rank: tuple[int, float] | None = None

    def note(self, lead: float, margin: float, apart: float, taken: int, loss: float, *learned: Tensor) -> None:
        """Keeps the step where it is better than those before it."""
        rank = (2, -apart) if lead >= margin else (1, lead) if lead > 0 else (0, float(taken))
        if self.rank is None or rank > self.rank:
            self.rank, self.found = rank, (taken, loss, lead)
            self.kept = [tensor.detach().clone() for tensor in learned]

    @property
    def is_close(self) -> bool:
        """Whether it leads, and is so near to the base that no further step is worth taking."""
        return self.rank is not None and self.rank[0] == 2 and -self.rank[1] < CLOSE

    @torch.no_grad()
    def leave_in(self, *learned: Tensor) -> tuple[int, float, float]:
        """Copies it into what was trained; its steps, loss and margin."""
        for tensor, kept in zip(learned, self.kept, strict=True):
            tensor.copy_(kept)
        return self.found


@torch.no_grad()
def _followed(tail: SiteTail, change: Transformation | Sum) -> tuple[Tensor, Tensor]:
    """The tokens to follow, (K,) sorted ids with every target among them, and where the targets stand in it, (n,)."""
    full = tail.logits(change).float()
    rivals = full.topk(min(RIVALS, full.shape[1]), dim=1).indices.flatten()
    vocabulary = torch.cat([rivals, tail.targets]).unique()
    return vocabulary, torch.searchsorted(vocabulary, tail.targets)
