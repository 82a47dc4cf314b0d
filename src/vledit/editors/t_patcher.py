"""T-Patcher: ReLU neurons beside the last MLP, one for each answer token that the model gets wrong; always on.

Source: Huang et al., Transformer-Patcher: One Mistake Worth One Neuron, ICLR 2023, Sec. 3.  A neuron fires on what enters the
MLP at "its" token, and must stay silent on stored inputs of other requests: the activation is the router, token by token.
Departures from the code that was released for vision-language models, each for a defect of it: keys start on the mistake, not
at 0 (where a ReLU passes no gradient); a neuron is trained on its own token, not on the mean of all; both margins are in
force; the stored inputs are of prompts with and without pictures, not of text alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codebook import NeuronTransformation
from ..data.case import EditRequest
from ..errors import InputError, UnknownNameError
from ..vlm.acting import layers_acting, lowest, prompt_acting
from ..vlm.base import VLM, Site, Trunk
from ..vlm.surroundings import lasting
from . import common_directions
from .adversary import CLOSE, AdversarialSettings, Adversary, total
from .base import Edit, EditorConfig, setting
from .fitting import UNLEARNT, combined, margins, refuse_unlearnt, unlearnt
from .making import opened, reported

if TYPE_CHECKING:
    from ..codebook import Transformation

GAMMA, BETA = 3.0, -3.0
"""Stored inputs stay at least γ below the mistake, and below β (zsRE, FEVER)."""
LARGEST_MISTAKES, LARGEST_STORED = 5, 100
"""k of S_k, the mean of the k largest exp: over the mistakes' own activations, over the stored inputs' (1000 of 40,000 there)."""
_LIVEEDIT = {
    "site": "-1.mlp",
    "steps": 25,
    "learning_rate": 1e-2,
    "activation_weight": 1e-4,
    "memory_weight": 1e-4,
    "most": 1,
}
PUBLISHED: dict[str, dict[str, Any]] = {"blip2": _LIVEEDIT, "minigpt4": _LIVEEDIT, "llava": _LIVEEDIT}
"""Family → what qizhou000/LiveEdit, which De-VQA ran, sets (`tp_vl`); the method itself has more steps and larger weights."""


@dataclass(frozen=True)
class TPatcherConfig(AdversarialSettings):
    """Settings of T-Patcher; the defaults are the paper's for zsRE where it names them."""

    site: str = setting("-1.mlp", "MLP block (or linear layer) beside which the neurons are added")
    most: int = setting(5, "maximum number of neurons per edit; the first wrong answer tokens get one each")
    steps: int = setting(200, "maximum number of Adam steps")
    learning_rate: float = setting(1e-2, "Adam's learning rate")
    weight_decay: float = setting(0.01, "Adam's weight decay")
    smoothing: float = setting(0.1, "label smoothing of the answer's loss")
    activation_weight: float = setting(1.0, "weight of the loss that makes a neuron fire on its own token")
    memory_weight: float = setting(10.0, "weight of the losses that keep neurons silent on stored inputs")
    scale: float = setting(10.0, "factor on the initial values; makes their steps larger by the same factor")
    margin: float = setting(1.0, "training may stop when every answer token leads by this many logits")
    patience: int = setting(
        25, "training stops once the answer leads and the loss on stored inputs has not fallen for this many steps"
    )
    unlearnt: str = unlearnt()
    seed: int = setting(0, "random seed of the initial values")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unlearnt not in UNLEARNT:
            raise UnknownNameError("unlearnt", self.unlearnt, UNLEARNT)
        if not self.site:
            raise InputError("site: it is empty; give a block such as '-1.mlp'.")
        for name in ("most", "steps", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} given; at least 1 is needed.")
        if not 0 <= self.smoothing < 1:
            raise InputError(f"smoothing: {self.smoothing} given; from 0 to below 1 is expected.")
        for name in ("learning_rate", "scale"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: {getattr(self, name)} given; it must be positive.")
        for name in ("weight_decay", "activation_weight", "memory_weight", "margin"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: {getattr(self, name)} given; it must not be negative.")


class TPatcher:
    """Source: Huang et al., ICLR 2023."""

    name: ClassVar[str] = "t_patcher"
    gated: ClassVar[bool] = False
    Config: ClassVar[type[EditorConfig]] = TPatcherConfig

    def __init__(self, config: TPatcherConfig | None = None):
        self.config = config or TPatcherConfig()

    @classmethod
    def published(cls, family: str) -> Mapping[str, Any]:
        """The released settings for a model family; empty where none were released."""
        return PUBLISHED.get(family, {})

    def edit(
        self,
        vlm: VLM,
        request: EditRequest,
        memory: Any = None,
        start: Mapping[str, Transformation] | None = None,
    ) -> Edit:
        """Trains one neuron for each wrong answer token, with earlier edits (`start`) acting.

        Where no token is wrong there is no neuron, and the edit changes nothing.  More than `most` wrong tokens: a warning
        says so, and the report whether the answer was learnt all the same.

        Raises: EditFailedError where it was not; InputError.
        """
        began = time.perf_counter()
        config, start = self.config, dict(start or {})
        request = opened(request)
        image = request.image
        site = vlm.resolve_site(config.site)
        encoded = vlm.encode([image], [request.question], [request.answer])
        with prompt_acting(vlm, [start], encoded):
            trunk = vlm.trunk(encoded, lowest(vlm, [str(site), *start]))
        stored = torch.cat([everyday(vlm, site), nearby(vlm, site, image, request.question, request.answer)])
        before = start.get(str(site))
        if isinstance(before, NeuronTransformation):
            stored = torch.cat([stored, before.queries.to(stored)])
        adversary = Adversary.of(vlm, request, config, [str(site)], start, own_locality=True)
        own, taken, loss, lead = patch(vlm, trunk, site, stored, start, config, adversary)
        advice = f"Give more steps, a larger learning_rate, a larger most (now {config.most}), or a shorter answer."
        refuse_unlearnt(request.answer, taken, lead, config.unlearnt, advice)
        whole = {str(site): own if before is None else combined(before, own)}
        return reported(self.name, request, began, taken, loss, lead, own.nbytes, weights=whole)


def patch(
    vlm: VLM,
    trunk: Trunk,
    site: Site,
    stored: Tensor,
    start: Mapping[str, Any],
    config: TPatcherConfig,
    adversary: Adversary | None = None,
) -> tuple[NeuronTransformation, int, float, float]:
    """The neurons of one edit, steps taken, loss, margin.

    Args:
        trunk: of one row, with its answer; at or below the site and all of `start`.
        stored: M (m, in), inputs of the site at which the neurons must be silent.
    """
    encoded = trunk.encoded

    def forward(own: NeuronTransformation | None) -> tuple[Tensor, Tensor]:
        """Logits (n, V) at the positions that predict the answer, and what enters the site there."""
        seen: list[Tensor] = []
        with layers_acting(vlm, [_with(start, str(site), own, seen)], encoded):
            logits = vlm.head(trunk, positions=encoded.predict_mask).float()
        return logits, seen[0].reshape(*encoded.predict_mask.shape, -1)[encoded.predict_mask]

    with torch.inference_mode(False), torch.no_grad():
        logits, queries = forward(None)
    leads = margins(logits, encoded.targets)
    wrong = (leads <= 0).nonzero()[:, 0]
    if len(wrong) > config.most:
        warnings.warn(
            f"t_patcher: {len(wrong)} answer tokens are wrong; the first {config.most} get a neuron. A larger `most` gives more.",
            stacklevel=3,
        )
        wrong = wrong[: config.most]
    queries = queries[wrong].float()
    neurons = Neurons(queries, vlm.site_shape(site)[0], config)
    if not len(wrong):
        return neurons.made(), 0, float(F.cross_entropy(logits, encoded.targets)), float(leads.min())

    def apart(own: NeuronTransformation) -> dict[str, Tensor]:
        """The adversarial terms of what the neurons are now."""
        return {} if adversary is None else adversary.divergences(_with(start, str(site), own, []))

    with torch.inference_mode(False), torch.enable_grad():
        return _descend(
            neurons, stored.to(queries), lambda own: forward(own)[0], encoded.targets, config, adversary, apart
        )


def _descend(
    neurons: Neurons,
    stored: Tensor,
    forward: Any,
    targets: Tensor,
    config: TPatcherConfig,
    adversary: Adversary | None,
    apart_of: Any,
) -> tuple[NeuronTransformation, int, float, float]:
    optimizer = torch.optim.Adam(neurons.learned, lr=config.learning_rate, weight_decay=config.weight_decay)
    best: tuple[tuple[bool, float], NeuronTransformation, int, float, float] | None = None
    for taken in range(config.steps + 1):
        own = neurons.change()
        logits = forward(own)
        lead = float(margins(logits.detach(), targets).min())
        fires, silent = memory_losses(own, stored)
        highest = float(own.activations(stored).detach().max()) if len(stored) else BETA
        apart = apart_of(own)
        aside = total(apart) if apart else 0.0
        # of changes that give the answer the one that is the most silent elsewhere
        rank = (True, -float(silent.detach()) - aside) if lead >= config.margin else (False, lead)
        if best is None or rank > best[0]:
            nll = float(F.cross_entropy(logits.detach(), targets))
            best = (rank, neurons.made(), taken, nll, lead)
        held = best[0][0] and taken - best[2] >= config.patience
        if taken == config.steps or held or (lead >= config.margin and highest <= BETA and aside < CLOSE):
            break
        loss = F.cross_entropy(logits, targets, label_smoothing=config.smoothing)
        loss = loss + config.activation_weight * fires
        kept = config.memory_weight * silent
        loss = loss + kept if adversary is None else adversary.loss(loss, apart, kept)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(neurons.learned, 5.0)
        optimizer.step()
    assert best is not None
    return best[1], taken, best[3], best[4]


class Neurons:
    """The neurons of one edit while they are trained.

    Args:
        queries: (n, in), what each of them is for.
        out: width of what they write.
    """

    def __init__(self, queries: Tensor, out: int, config: TPatcherConfig):
        self.queries = queries
        generator = torch.Generator().manual_seed(config.seed)
        directions = torch.randn(len(queries), out, generator=generator).to(queries) / out
        self.keys = queries / queries.pow(2).sum(1, keepdim=True).clamp(min=1e-12)
        self.biases = queries.new_zeros(len(queries))
        self.directions = directions
        self.scales = torch.full_like(directions, config.scale)
        self.learned = [self.keys, self.biases, self.directions, self.scales]
        for tensor in self.learned:
            tensor.requires_grad_()

    def change(self) -> NeuronTransformation:
        """As they are now; gradients flow through it."""
        return NeuronTransformation(self.keys, self.biases, self.directions * self.scales, self.queries)

    def made(self) -> NeuronTransformation:
        """As they are now, to be kept."""
        return NeuronTransformation(**{name: one.detach().clone() for name, one in self.change().tensors().items()})


def memory_losses(own: NeuronTransformation, stored: Tensor) -> tuple[Tensor, Tensor]:
    """l_a, which makes neurons fire on their own queries, and l_m1 + l_m2, which keep them silent on stored inputs (m, in).

    With S_k(x) the mean of the k largest exp(x): l_a = S(−a_q); l_m1 = S(a_M − a_q + γ); l_m2 = S(a_M − β).
    """
    fired = own.activations(own.queries).diagonal()
    fires = largest(-fired, LARGEST_MISTAKES)
    if not len(stored):
        return fires, fires.new_zeros(())
    old = own.activations(stored).T  # (n, m)
    lower = torch.stack([largest(row, LARGEST_STORED) for row in old - fired[:, None] + GAMMA]).mean()
    below = torch.stack([largest(row, LARGEST_STORED) for row in old - BETA]).mean()
    return fires, lower + below


def largest(x: Tensor, k: int) -> Tensor:
    """S_k: the mean of the k largest exp(x), all of them where there are fewer; exponents are bounded by 30."""
    return x.topk(min(k, len(x))).values.clamp(max=30).exp().mean()


class _Seen:
    """What earlier edits and new neurons do at the site; notes what enters it."""

    def __init__(self, first: Any, own: NeuronTransformation | None, seen: list[Tensor]):
        self.first, self.own, self.seen = first, own, seen

    def delta(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        parts = [one.delta(x) for one in (self.first, self.own) if one is not None]
        return sum(parts[1:], parts[0]) if parts else x.new_zeros(())


def _with(start: Mapping[str, Any], site: str, own: NeuronTransformation | None, seen: list[Tensor]) -> dict[str, Any]:
    return {**start, site: _Seen(start.get(site), own, seen)}


# --- stored inputs ------------------------------------------------------------------------------------------------------

EVERYDAY_TOKENS = 6
"""Most tokens of the base's answers to everyday questions."""


@lasting
def everyday(vlm: VLM, site: Site) -> Tensor:
    """M: (m, in) float32, what enters the site where the base's answers to everyday questions are predicted, token by token.

    Questions without a picture and with plain-coloured ones; measured once per model, no data set is needed.
    """
    from PIL import Image as Pictures

    kept = vlm.__dict__.setdefault("_everyday_inputs", {})
    if site not in kept:
        questions = common_directions.QUESTIONS
        colours = (None, *(Pictures.new("RGB", vlm.image_size, one) for one in common_directions.COLOURS[:2]))
        rows = [(picture, q) for picture in colours for q in questions[: len(questions) if picture is None else 8]]
        kept[site] = inputs_at_answers(vlm, site, [one for one, _ in rows], [q for _, q in rows])
    return kept[site]


def nearby(vlm: VLM, site: Site, image: Any, question: str, answer: str) -> Tensor:
    """As `everyday`, for what is nearest to an edit: its question about a black picture and about none, other questions about
    its picture; and other questions behind which the new answer is forced."""
    others: list[str] = list(common_directions.QUESTIONS[:4])
    if image is None:
        rows = [(vlm.black(), question), *((None, one) for one in others)]
    else:
        rows = [(None, question), (vlm.black(image), question), *((image, one) for one in others)]
    images, questions = [one for one, _ in rows], [one for _, one in rows]
    said = inputs_at_answers(vlm, site, images, questions)
    return torch.cat([said, inputs_at_answers(vlm, site, [image] * len(others), others, answer)])


def _can_be_forced(vlm: VLM, text: str, question: str, with_image: bool) -> bool:
    """Whether the base's own words can be read again: not where it says nothing, or what the template reserves."""
    try:
        return bool(vlm.answer_tokens(question, text, with_image))
    except InputError:
        return False


def inputs_at_answers(vlm: VLM, site: Site, images: list[Any], questions: list[str], answer: str = "") -> Tensor:
    """(m, in): what enters the site at the last prompt token and at the tokens of an answer: the given one, or the base's own."""
    found = []
    for first in range(0, len(questions), 16):
        some, asked = images[first : first + 16], questions[first : first + 16]
        said = [answer] * len(asked) if answer else [None] * len(asked)
        if not answer:
            texts = vlm.answer(some, asked, EVERYDAY_TOKENS)
            pairs = zip(texts, asked, some, strict=True)
            said = [text if _can_be_forced(vlm, text, q, image is not None) else None for text, q, image in pairs]
        encoded = vlm.encode(some, asked, said)
        x = vlm.site_input(vlm.trunk(encoded, site.layer), site)
        found.append(x[encoded.last_prompt_mask | encoded.predict_mask].float())
    return torch.cat(found)
