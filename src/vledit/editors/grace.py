"""GRACE: a codebook of (key, value, radius) at one layer; a prompt near a key has its last token's output replaced by the value.

Source: Hartvigsen et al., Aging with GRACE, NeurIPS 2023, Sec. 2.2 and Alg. 1; BalancEdit, App. E and F.  Departures from the
released code, each for a defect of it: routed once per request, on the last prompt token, row by row; labels are compared as
answers, not as means of token ids; the same prompt with a new answer replaces the entry; radii are a function of the active
edits in their order, so that removing one leaves what would be there without it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codebook.relation import plain
from ..data.case import EditRequest
from ..errors import InputError, UnknownNameError
from ..vlm.acting import FROM_LAST, LAST, Read, layers_acting
from ..vlm.base import VLM, Site, Trunk
from . import common_directions
from .base import Edit, EditorConfig, Payload, setting
from .effect import Effect, decided
from .fitting import UNLEARNT, margins, refuse_unlearnt, unlearnt
from .making import opened, reported
from .memory import Kept, Memory
from .rephrase import TEMPLATES

REPLACE = {"last": LAST, "from_last": FROM_LAST, "all": "all"}
STARTS = ("output", "random")
ADVICE = (
    "One value decides what follows through the layers above it: give a lower site, replace=from_last, more steps, or a shorter "
    "answer."
)
DEPTH = 2 / 3
"""Where the default site lies: one vector at the last prompt token must still reach the later tokens, so not in the top layer."""


@dataclass(frozen=True)
class GraceConfig(EditorConfig):
    """Settings of GRACE."""

    site: str = setting(
        "", "site of the codebook, e.g. '20.mlp.out'; empty: mlp.out (or the block) two thirds of the way up"
    )
    radius: float | None = setting(
        None, "initial radius of a key (ε_init, 1.0 in the paper); none: measured, see `radius_scale`"
    )
    radius_scale: float = setting(1.0, "radius as a multiple of the median distance of everyday questions' rewordings")
    replace: str = setting("last", "tokens whose output is replaced: last (prompt token), from_last, or all")
    start: str = setting("output", "initial value: the layer's output, or random numbers")
    steps: int = setting(100, "maximum number of Adam steps")
    learning_rate: float = setting(1.0, "Adam's learning rate")
    margin: float = setting(2.0, "training stops when every answer token leads by this many logits")
    unlearnt: str = unlearnt()
    seed: int = setting(0, "random seed of random initial values")

    def __post_init__(self) -> None:
        if self.unlearnt not in UNLEARNT:
            raise UnknownNameError("unlearnt", self.unlearnt, UNLEARNT)
        if self.replace not in REPLACE:
            raise UnknownNameError("replace", self.replace, REPLACE)
        if self.start not in STARTS:
            raise UnknownNameError("start", self.start, STARTS)
        if self.steps < 1:
            raise InputError(f"steps: {self.steps} given; at least 1 is needed.")
        for name in ("radius_scale", "learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: {getattr(self, name)} given; it must be positive.")
        if self.radius is not None and not self.radius >= 0:
            raise InputError(f"radius: {self.radius} given; it must not be negative.")


class Value:
    """A fixed output, in the place of what the site gives."""

    def __init__(self, value: Tensor, tokens: str):
        self.value, self.tokens = value, tokens

    def apply(self, x: Tensor, y: Tensor) -> Tensor:
        return self.value.to(y).expand_as(y)


class Ball(NamedTuple):
    """A key with its radius, and whose value it gives: the last edit that was folded into it."""

    edit: Kept
    key: Tensor
    radius: float
    value: Kept


class Grace:
    """Source: Hartvigsen et al., NeurIPS 2023."""

    name: ClassVar[str] = "grace"
    gated: ClassVar[bool] = True
    Config: ClassVar[type[EditorConfig]] = GraceConfig

    def __init__(self, config: GraceConfig | None = None):
        self.config = config or GraceConfig()

    def memory(self, vlm: VLM) -> GraceMemory:
        return GraceMemory(vlm, self.name, asdict(self.config))

    def edit(self, vlm: VLM, request: EditRequest, memory: GraceMemory | None = None) -> Edit:
        """Trains the value on the frozen trunk.  Raises: EditFailedError where the answer is not learnt."""
        began = time.perf_counter()
        config = self.config
        site = site_of(vlm, config.site)
        request = opened(request)
        image = request.image
        trunk = vlm.trunk(vlm.encode([image], [request.question], [request.answer]), site.layer)
        # the key from a pass without the answer, as at inference: in half precision the answer behind it would move its last bits
        asked = vlm.trunk(vlm.encode([image], [request.question]), site.layer)
        key = vlm.site_input(asked, site)[asked.encoded.last_prompt_mask][0].float()
        first = vlm.site_output(trunk, site)[trunk.encoded.last_prompt_mask][0].float()
        value, taken, loss, lead = self._train(vlm, trunk, site, first)
        refuse_unlearnt(request.answer, taken, lead, config.unlearnt, ADVICE)
        radius = config.radius if config.radius is not None else config.radius_scale * usual_distance(vlm, site)
        meta = {"site": str(site), "radius": radius, "replace": config.replace}
        payload = Payload({"key": key, "value": value}, meta)
        return reported(self.name, request, began, taken, loss, lead, payload.nbytes, payload=payload)

    def _train(self, vlm: VLM, trunk: Trunk, site: Site, first: Tensor) -> tuple[Tensor, int, float, float]:
        config, encoded = self.config, trunk.encoded
        with torch.inference_mode(False), torch.enable_grad():
            if config.start == "random":
                generator = torch.Generator().manual_seed(config.seed)
                first = torch.rand(first.shape, generator=generator).to(first)
            learned = first.clone().requires_grad_()
            optimizer = torch.optim.Adam([learned], lr=config.learning_rate)
            change = {str(site): Value(learned, REPLACE[config.replace])}
            best: tuple[float, Tensor, int, float] | None = None
            for taken in range(config.steps + 1):
                with layers_acting(vlm, [change], encoded):
                    logits = vlm.head(trunk, positions=encoded.predict_mask).float()
                loss = F.cross_entropy(logits, encoded.targets)
                lead = float(margins(logits.detach(), encoded.targets).min())
                if best is None or lead > best[0] or best[0] <= 0:  # of values that give the answer the surest
                    best = (lead, learned.detach().clone(), taken, float(loss.detach()))
                if lead >= config.margin or taken == config.steps:
                    break
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        assert best is not None
        return best[1], best[2], best[3], best[0]


class GraceMemory(Memory):
    """Balls around keys, and how they share the room."""

    when: ClassVar[str] = "prefill"

    def __init__(self, vlm: VLM, editor: str, settings: Mapping[str, Any] | None = None):
        super().__init__(vlm, editor, settings)
        self.balls: list[Ball] = []

    @property
    def site(self) -> str:
        return next((one.payload.meta["site"] for one in self.active()), "")

    def changed(self) -> None:
        """Radii as Alg. 1 makes them, from the active edits in their order."""
        active = self.active()
        if len({one.payload.meta["site"] for one in active}) > 1:
            raise InputError("site: a GRACE codebook has one site; these edits were made at several.")
        keys = [one.payload.tensors["key"].float().to(self.vlm.device) for one in active]
        radii = [float(one.payload.meta["radius"]) for one in active]
        placed = place(keys, radii, [plain(one.fact.answer) for one in active])
        self.balls = [Ball(active[own], keys[own], radius, active[value]) for own, radius, value in placed]
        self._keys = torch.stack([ball.key for ball in self.balls]) if self.balls else None

    def reads(self) -> tuple[Read, ...]:
        return (Read(self.site, lambda x, encoded: x[encoded.last_prompt_mask].float()),)

    def points(self) -> tuple[str, ...]:
        return (self.site,)

    def prefill_effects(self, seen: Mapping[tuple[str, bool, str], Tensor], rows: int) -> list[Effect | None]:
        assert self._keys is not None
        distances = _distances(seen[self.site, False, ""].to(self._keys), self._keys).tolist()
        return [self._effect(of_row) for of_row in distances]

    def _effect(self, distances: Sequence[float]) -> Effect:
        number = min(range(len(distances)), key=lambda i: (distances[i], -i))  # of equally near keys the newest
        ball, distance = self.balls[number], distances[number]
        id, inside = ball.value.edit.id, distance <= ball.radius
        side = "within" if inside else "outside of"
        text = f"euclidean distance {distance:.4g} is {side} its radius {ball.radius:.4g}"
        text = (
            f"Edit '{id}' answers: {text}." if inside else f"The base answers. The nearest edit is '{id}', but {text}."
        )
        decision = decided(id if inside else None, text, id, distance=distance, radius=ball.radius, site=self.site)
        if not inside:
            return Effect(decision)
        kept = ball.value
        if "change" not in kept.cache:  # one object per edit, so that rows that share it are computed together
            value = kept.payload.tensors["value"].to(self.vlm.device)
            kept.cache["change"] = Value(value, REPLACE[kept.payload.meta["replace"]])
        return Effect(decision, {self.site: kept.cache["change"]})


def place(keys: Sequence[Tensor], radii: Sequence[float], labels: Sequence[str]) -> list[tuple[int, float, int]]:
    """Alg. 1, edit after edit: (edit whose key it is, radius, edit whose value it gives) of every ball.

    With d the distance to the nearest: d > ε + ε_near: a ball of its own.  The same label and d > ε_near: the nearest grows to
    d; with d ≤ ε_near it stays; both ways it gives the newer edit's value.  Another label: the two share the room, d / 2 each.
    """
    balls: list[list[Any]] = []
    for number, (key, radius, label) in enumerate(zip(keys, radii, labels, strict=True)):
        if not balls:
            balls.append([number, radius, number])
            continue
        distances = _distances(key[None], torch.stack([keys[own] for own, _, _ in balls]))[0].tolist()
        nearest = min(range(len(balls)), key=lambda i: (distances[i], -i))
        d, ball = distances[nearest], balls[nearest]
        if d > radius + ball[1]:
            balls.append([number, radius, number])
        elif labels[ball[0]] == label:
            ball[1], ball[2] = max(ball[1], d), number
        else:
            ball[1] = min(ball[1], max(0.0, d / 2 - 1e-5))
            balls.append([number, d / 2, number])
    return [(own, radius, value) for own, radius, value in balls]


def _distances(queries: Tensor, keys: Tensor) -> Tensor:
    """(B, K) euclidean, each from its own pair's difference: no other row or key changes its bits."""
    return torch.stack([(keys - query).double().pow(2).sum(1).sqrt() for query in queries])


def site_of(vlm: VLM, site: str) -> Site:
    """The configured site, or `mlp.out` (where there is none, the block) two thirds up."""
    from ..vlm.measures import default_among

    return vlm.resolve_site(site) if site else default_among(vlm.layers, Site(int(vlm.n_layers * DEPTH), "mlp.out"))


@torch.no_grad()
def usual_distance(vlm: VLM, site: Site) -> float:
    """Median distance, at the last prompt token, between everyday questions and their rewordings; measured once per model."""
    kept = vlm.__dict__.setdefault("_usual_distances", {})
    if site not in kept:
        found = []
        for picture in (None, vlm.black()):
            for question in common_directions.QUESTIONS[:8]:
                asked = [question, *(template.format(question=question) for template in TEMPLATES)]
                encoded = vlm.encode([picture] * len(asked), asked)
                keys = vlm.site_input(vlm.trunk(encoded, site.layer), site)[encoded.last_prompt_mask].float()
                found += _distances(keys[1:], keys[:1])[:, 0].tolist()
        kept[site] = float(torch.tensor(found).median())
    return kept[site]
