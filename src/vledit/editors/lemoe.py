"""LEMoE: one low-rank expert per edit at one MLP, found by its own key and value projector; the base where none is asked for.

Source: Wang & Li, LEMoE, EMNLP 2024, Sec. 4 (module insertion, key-value anchor routing); for vision-language models LiveEdit's
version, which De-VQA ran.  Departures from that, each for a defect of it: an edit acts at once, not when twenty are there; keys
are trained; an expert starts as nothing (one factor is zero); routing reads the prompt alone, the means of visual and of text
tokens apart, row by row; and there is a null anchor, so that the base can be chosen.  Each expert is trained for itself and
then stands still, so that what remains after a removal is what would be there without it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.case import EditRequest
from ..errors import InputError, UnknownNameError
from ..vlm.acting import Read, layers_acting
from ..vlm.base import VLM, Encoded, Site, Trunk
from ..vlm.surroundings import lasting
from . import common_directions
from .base import Edit, EditorConfig, Payload, setting
from .effect import Effect, decided
from .fitting import UNLEARNT, margins, refuse_unlearnt, unlearnt
from .making import opened, reported
from .memory import Kept, Memory
from .rephrase import TEMPLATES

DEPTH = 2 / 3
"""Where the default site lies (18 of 32 layers in the paper's settings, 30 in LiveEdit's)."""
FACTORS = ("read", "widen", "narrow", "write")
ROUTER = ("down", "up", "key", "threshold", "centre")


@dataclass(frozen=True)
class LemoeConfig(EditorConfig):
    """Settings of LEMoE."""

    site: str = setting(
        "", "MLP block (or linear layer) beside which experts are added, e.g. '20.mlp'; empty: two thirds of the way up"
    )
    rank: int = setting(16, "rank of an expert's two matrices")
    width: int = setting(0, "neurons of an expert; 0: twice the site's inputs")
    projector: int = setting(64, "inner width of a value projector")
    topk: int = setting(1, "how many of the experts (and the null anchor) act together; more than 1 are mixed")
    null: bool = setting(True, "whether the router may choose the base; if not, some expert acts on every request")
    steps: int = setting(60, "maximum number of Adam steps for the expert")
    learning_rate: float = setting(5e-3, "Adam's learning rate for the expert")
    routing_steps: int = setting(100, "steps of Adam for key and projector")
    routing_rate: float = setting(2e-3, "Adam's learning rate for key and projector")
    margin: float = setting(2.0, "training stops when every answer token leads by this many logits")
    unlearnt: str = unlearnt()
    seed: int = setting(0, "random seed of the initial values")

    def __post_init__(self) -> None:
        if self.unlearnt not in UNLEARNT:
            raise UnknownNameError("unlearnt", self.unlearnt, UNLEARNT)
        for name in ("rank", "projector", "topk", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} given; at least 1 is needed.")
        for name in ("width", "routing_steps", "margin"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: {getattr(self, name)} given; it must not be negative.")
        for name in ("learning_rate", "routing_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: {getattr(self, name)} given; it must be positive.")


class Expert:
    """E(x) = relu(x R W₁ᵀ) N W₂ᵀ: a bypass of low rank; read R (in, r), widen W₁ (n, r), narrow N (n, r), write W₂ (out, r)."""

    def __init__(self, factors: Mapping[str, Tensor]):
        self.read, self.widen, self.narrow, self.write = (factors[name] for name in FACTORS)

    @classmethod
    def fresh(cls, width: int, out: int, config: LemoeConfig, device: Any) -> Expert:
        """One that does nothing yet: W₂ is zero, so that the base's bits stay until it learns."""
        generator = torch.Generator().manual_seed(config.seed)
        inner = config.width or 2 * width

        def draw(rows: int, fan: int) -> Tensor:
            return (torch.randn(rows, config.rank, generator=generator, dtype=torch.float32) / fan**0.5).to(device)

        return cls(
            {
                "read": draw(width, width),
                "widen": draw(inner, config.rank),
                "narrow": draw(inner, inner),
                "write": torch.zeros(out, config.rank, dtype=torch.float32, device=device),
            }
        )

    def factors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in FACTORS}

    def delta(self, x: Tensor) -> Tensor:
        """(N, in) → (N, out)."""
        return ((x.to(self.read) @ self.read @ self.widen.T).relu() @ self.narrow @ self.write.T).to(x.dtype)


class Mixture:
    """Several experts that act together."""

    def __init__(self, parts: Sequence[tuple[float, Expert]]):
        self.parts = list(parts)

    def delta(self, x: Tensor) -> Tensor:
        return torch.stack([weight * expert.delta(x) for weight, expert in self.parts]).sum(0)


class Router(nn.Module):
    """s(x̄) = v·κ − c, with v = x̂ + W_up SiLU(W_down x̂): above 0 this edit is asked for, as far as it knows.

    x̂ is x̄ less what everyday prompts have in common, either half of length 1.  The key starts on the edit's own prompt.
    """

    key: Tensor
    centre: Tensor

    def __init__(self, centre: Tensor, own: Tensor, width: int):
        """centre: (2, H); own: (2 H,), x̂ of the edit's prompt."""
        super().__init__()
        self.register_buffer("centre", centre)
        self.down = nn.Parameter(torch.randn(width, len(own), dtype=torch.float32) / len(own) ** 0.5)
        self.up = nn.Parameter(torch.zeros(len(own), width, dtype=torch.float32))
        self.key = nn.Parameter(10.0 * own.clone())
        self.threshold = nn.Parameter(torch.zeros((), dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2 H) x̂ → (N,) scores, each row by itself, so that its bits do not depend on its neighbours."""
        return torch.stack([self._score(row) for row in x])

    def _score(self, x: Tensor) -> Tensor:
        value = x + self.up @ F.silu(self.down @ x)
        return (value * self.key).sum() - self.threshold

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).detach().clone() for name in ROUTER}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], device: Any) -> Router:
        """One that was kept."""
        held = {name: tensors[name].to(device) for name in ROUTER}
        made = cls(held["centre"], torch.zeros_like(held["key"]), len(held["down"])).to(device)
        made.load_state_dict(held)
        return made.requires_grad_(False)


class Lemoe:
    """Source: Wang & Li, EMNLP 2024."""

    name: ClassVar[str] = "lemoe"
    gated: ClassVar[bool] = True
    Config: ClassVar[type[EditorConfig]] = LemoeConfig

    def __init__(self, config: LemoeConfig | None = None):
        self.config = config or LemoeConfig()

    @classmethod
    def published(cls, family: str) -> Mapping[str, Any]:
        """LiveEdit's settings of the expert; that it waits for twenty edits is a defect and left out."""
        known = family in ("blip2", "minigpt4", "llava")
        return {"site": "30.mlp", "rank": 32, "steps": 100, "learning_rate": 1e-4, "topk": 1} if known else {}

    def memory(self, vlm: VLM) -> LemoeMemory:
        return LemoeMemory(vlm, self.name, asdict(self.config))

    def edit(self, vlm: VLM, request: EditRequest, memory: Any = None) -> Edit:
        """Trains an expert on the answer, to the question and its supplied rephrases, then key and projector on the prompts.

        Raises: EditFailedError where the answer is not learnt; InputError.
        """
        began = time.perf_counter()
        config = self.config
        request = opened(request)
        image = request.image
        site = site_of(vlm, config.site)
        asked = [request.question, *request.rephrases[:2]]
        encoded = vlm.encode([image] * len(asked), asked, [request.answer] * len(asked))
        trunk = vlm.trunk(encoded, site.layer)
        out, width = vlm.site_shape(site)
        expert, taken, loss, lead = train(vlm, trunk, site, Expert.fresh(width, out, config, vlm.device), config)
        advice = "Give more steps, a larger learning_rate or rank, or a shorter answer."
        refuse_unlearnt(request.answer, taken, lead, config.unlearnt, advice)
        router = train_router(vlm, site, image, asked, config)
        payload = Payload({**expert.factors(), **router.tensors()}, {"site": str(site)})
        return reported(self.name, request, began, taken, loss, lead, payload.nbytes, payload=payload)


def train(vlm: VLM, trunk: Trunk, site: Site, expert: Expert, config: LemoeConfig) -> tuple[Expert, int, float, float]:
    """The expert that gives the answers of the trunk the surest, steps taken, loss and margin of the first row (the edit)."""
    encoded = trunk.encoded
    own = encoded.target_rows == 0
    learned = list(expert.factors().values())
    best: tuple[float, dict[str, Tensor], int, float] | None = None
    with torch.inference_mode(False), torch.enable_grad():
        for tensor in learned:
            tensor.requires_grad_()
        optimizer = torch.optim.Adam(learned, lr=config.learning_rate)
        for taken in range(config.steps + 1):
            with layers_acting(vlm, [{str(site): expert}] * len(trunk), encoded):
                logits = vlm.head(trunk, positions=encoded.predict_mask).float()
            leads = margins(logits.detach(), encoded.targets)
            lead = float(leads[own].min())
            if best is None or lead > best[0]:
                loss = float(F.cross_entropy(logits.detach()[own], encoded.targets[own]))
                best = (lead, {n: one.detach().clone() for n, one in expert.factors().items()}, taken, loss)
            if float(leads.min()) >= config.margin or taken == config.steps:
                break
            optimizer.zero_grad()
            F.cross_entropy(logits, encoded.targets).backward()
            optimizer.step()
    assert best is not None
    return Expert(best[1]), best[2], best[3], best[0]


# --- routing ------------------------------------------------------------------------------------------------------------


def means(x: Tensor, encoded: Encoded) -> Tensor:
    """(B, T, H) → (B, 2 H) float32: the mean over the prompt's visual tokens (zeros without any), and over its others."""
    rows = []
    for row, prompt, visual in zip(x.float(), encoded.prompt_mask, encoded.visual_mask, strict=True):
        seen = row[visual].mean(0) if bool(visual.any()) else row.new_zeros(row.shape[-1])
        rows.append(torch.cat([seen, row[prompt & ~visual].mean(0)]))
    return torch.stack(rows)


def located(x: Tensor, centre: Tensor) -> Tensor:
    """x̄ (N, 2 H) → x̂: either half less its centre (2, H), of length 1; a half of zeros (no picture) stays so."""
    halves = x.reshape(len(x), 2, -1)
    there = halves.abs().sum(-1, keepdim=True) > 0
    return torch.where(there, F.normalize(halves - centre, dim=-1), torch.zeros_like(halves)).flatten(1) / 2**0.5


@lasting
def everyday(vlm: VLM, site: Site) -> Tensor:
    """(m, 2 H): x̄ of everyday questions, without a picture and with plain-coloured ones; measured once per model."""
    from PIL import Image as Pictures

    kept = vlm.__dict__.setdefault("_everyday_means", {})
    if site not in kept:
        questions = list(common_directions.QUESTIONS)
        found = [read_means(vlm, site, [None] * len(questions), questions)]
        for number, colour in enumerate(common_directions.COLOURS):
            some = questions[number::4]
            found.append(read_means(vlm, site, [Pictures.new("RGB", vlm.image_size, colour)] * len(some), some))
        kept[site] = torch.cat(found)
    return kept[site]


def read_means(vlm: VLM, site: Site, images: Sequence[Any], questions: Sequence[str]) -> Tensor:
    """(B, 2 H): x̄ of some prompts."""
    encoded = vlm.encode(images, questions)
    return means(vlm.site_input(vlm.trunk(encoded, site.layer), site), encoded)


def centre_of(usual: Tensor) -> Tensor:
    """(2, H): what everyday prompts have in common, of the visual half over those with a picture."""
    halves = usual.reshape(len(usual), 2, -1)
    seen = halves[:, 0].abs().sum(1) > 0
    return torch.stack([halves[seen, 0].mean(0), halves[:, 1].mean(0)])


def train_router(vlm: VLM, site: Site, image: Any, wordings: Sequence[str], config: LemoeConfig) -> Router:
    """Key and projector of one edit: its wordings score above 0; other questions about its picture, its question about plain
    pictures and about none, and everyday prompts, below."""
    from PIL import Image as Pictures

    usual = everyday(vlm, site)
    asked = [*wordings, *(template.format(question=wordings[0]) for template in TEMPLATES)]
    inside = read_means(vlm, site, [image] * len(asked), asked)
    others = [(image, question) for question in common_directions.QUESTIONS[:8]]
    plain = [Pictures.new("RGB", vlm.image_size, colour) for colour in common_directions.COLOURS]
    others += [(one, wordings[0]) for one in (*([] if image is None else [None]), *plain)]
    outside = torch.cat([read_means(vlm, site, *zip(*others, strict=True)), usual])
    centre = centre_of(usual)
    yes, no = located(inside, centre), located(outside, centre)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(config.seed)
        router = Router(centre, yes[0], config.projector).to(vlm.device)
        with torch.no_grad():  # half way between the edit's own prompts and the nearest of the others
            router.threshold += (router(yes).min() + router(no).max()) / 2
        optimizer = torch.optim.Adam(router.parameters(), lr=config.routing_rate)
        for _ in range(config.routing_steps):
            optimizer.zero_grad()
            routing_loss(router, yes, no).backward()
            optimizer.step()
    return router.requires_grad_(False)


def routing_loss(router: Router, inside: Tensor, outside: Tensor) -> Tensor:
    """−log of the softmax over {this expert, null}, of the right one; both sides weigh alike."""
    return F.softplus(-router(inside)).mean() + F.softplus(router(outside)).mean()


class LemoeMemory(Memory):
    """Experts, and which of them a prompt asks for."""

    when: ClassVar[str] = "prefill"

    @property
    def site(self) -> str:
        return next((one.payload.meta["site"] for one in self.active()), "")

    def changed(self) -> None:
        if len({one.payload.meta["site"] for one in self.active()}) > 1:
            raise InputError("site: the experts of LEMoE stand at one site; these edits were made at several.")

    def reads(self) -> tuple[Read, ...]:
        return (Read(self.site, means, name="means"),)

    def points(self) -> tuple[str, ...]:
        return (self.site,)

    def prefill_effects(self, seen: Mapping[tuple[str, bool, str], Tensor], rows: int) -> list[Effect | None]:
        x, active = seen[self.site, False, "means"], self.active()
        with torch.no_grad():
            scores = torch.stack([self._router(one)(located(x, self._router(one).centre)) for one in active], 1)
        return [self._effect(active, row) for row in scores.tolist()]

    def _router(self, one: Kept) -> Router:
        if "router" not in one.cache:
            one.cache["router"] = Router.of(one.payload.tensors, self.vlm.device)
        return one.cache["router"]

    def _expert(self, one: Kept) -> Expert:
        """One object per edit, so that rows that share it are computed together."""
        if "expert" not in one.cache:
            one.cache["expert"] = Expert({name: one.payload.tensors[name].to(self.vlm.device) for name in FACTORS})
        return one.cache["expert"]

    def _effect(self, active: Sequence[Kept], scores: Sequence[float]) -> Effect:
        weights = gates(scores, int(self.settings.get("topk", 1)), bool(self.settings.get("null", True)))
        best = min(range(len(scores)), key=lambda i: (-scores[i], i))
        id, score = active[best].edit.id, scores[best]
        if not weights:
            text = f"The base answers. The nearest expert is that of edit '{id}', but its score {score:.3g} is not above 0."
            return Effect(decided(None, text, id, distance=-score, radius=0.0, site=self.site))
        text = f"The expert of edit '{id}' answers: its score {score:.3g} is the highest"
        text += f", with {len(weights) - 1} others." if len(weights) > 1 else "."
        alone = len(weights) == 1 and next(iter(weights.values())) == 1.0
        acting = (
            self._expert(active[best]) if alone else Mixture([(w, self._expert(active[i])) for i, w in weights.items()])
        )
        return Effect(decided(id, text, id, distance=-score, radius=0.0, site=self.site), {self.site: acting})


def gates(scores: Sequence[float], topk: int, null: bool) -> dict[int, float]:
    """Expert → its weight: a softmax over the `topk` highest of the scores and the null anchor's 0; of equal ones the first, and
    the null anchor before all.  Empty where the null anchor is the highest."""
    entries = sorted(
        [*([(0.0, -1)] if null else []), *((score, i) for i, score in enumerate(scores))], key=lambda e: (-e[0], e[1])
    )
    chosen = entries[:topk]
    if not chosen or chosen[0][1] < 0:
        return {}
    shares = torch.tensor([score for score, _ in chosen], dtype=torch.float64).softmax(0).tolist()
    return {i: share for (_, i), share in zip(chosen, shares, strict=True) if i >= 0}


def site_of(vlm: VLM, site: str) -> Site:
    """The configured site, or the MLP block two thirds up."""
    return vlm.resolve_site(site or f"{int(vlm.n_layers * DEPTH)}.mlp")
