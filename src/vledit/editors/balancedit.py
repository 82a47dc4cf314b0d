"""BalancEdit (ICML 2025): an edit is a codebook entry (key, transformation, influence radius) at one layer of a frozen model.

The equations are those of the paper; where it contradicts itself or its released code:

- the key averages the *prompt* tokens only; the released code averages the answer in as well, on which the radius is then
  calibrated though no request at inference has it (`key_tokens="prompt+answer"` gives that);
- the radius is Eq. 10 (α weighs the positive), as in Table 10, Fig. 5 and the code; Eq. 3 prints α swapped;
- every key has its own transformation and its own radius, fixed at edit time; the released code shares one transformation
  and rewrites all radii at each edit;
- training stops early when every answer token leads by a margin, instead of always taking 50 steps.

The scope is not the paper's by default. `scope="last"`: the key is the last prompt token and the radius a threshold for the
model, see `reach`; `scope="paper"` is the mean key with a radius of its own for each edit, as above, unchanged.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..codebook.entry import Entry, make_thumbnail
from ..codebook.relation import SAME_FACT, Fact
from ..codebook.scope import (
    ANCHORS,
    DISTANCES,
    KEY_TOKENS,
    Anchors,
    Scope,
    anchor_picture,
    check_alpha,
    distance,
    radius,
)
from ..data.case import EditRequest
from ..errors import InputError, UnknownNameError
from ..vlm.base import VLM, Site, Trunk
from ..vlm.pictures import open_picture, picture_key
from . import own_reach
from .adversary import random_pictures
from .answering import pool
from .base import Edit, EditorConfig, EditReport, setting
from .fitting import FittingConfig, train_site
from .own_reach import Asked
from .reach import Reach, measured, reach, read
from .rephrase import SOURCES, Positive, choose

if TYPE_CHECKING:
    from torch import Tensor

    from ..codebook import Codebook, Relation, Transformation

PUBLISHED: dict[str, dict[str, Any]] = {
    "minigpt4": {"scope": "paper", "alpha": 0.2, "site": "31.mlp.up"},
    "blip2": {"scope": "paper", "site": "31.mlp.out"},
}
"""Family → settings of Sec. 4.3: the layer, and α where the paper names it; Euclidean distance, black anchor, Adam."""
SCOPE = "mean"
SCOPES = ("paper", "last")
STARTS = ("base", "nearest")


@dataclass(frozen=True)
class BalancEditConfig(FittingConfig):
    """Settings of BalancEdit; the defaults are the paper's where it names them."""

    scope: str | None = setting(
        None,
        "last: the key is the last prompt token, the radius a threshold for the model; paper: mean key, a radius for each edit "
        "made with alpha; none: last, or paper where alpha or key_tokens is given, which belong to it",
    )
    threshold: float | None = setting(
        None,
        "scope=last: the radius; none: as `vledit fit-scope` found it (for pocket it comes with VLEdit), or else from rewordings "
        "and other pictures that the edit makes for itself",
    )
    scope_fitted: str = setting("", "scope=last: folder of a fitting by `vledit fit-scope`; empty: where it puts it")
    negatives: str = setting(
        "",
        "scope=last: folder of unlabelled pictures of your own, with a questions.txt (a question a line) where you have one; at "
        "most a hundredth of them is let inside",
    )
    alpha: float | None = setting(
        None, "scope=paper: weight of the positive sample in the radius, 0 widest to 1; none: the family's own"
    )
    distance: str = setting("euclidean", "euclidean or cosine (Table 6)")
    key_tokens: str = setting(
        "mean", "scope=paper: tokens that the key is the mean of: mean (the paper's), visual, question, last"
    )
    negative: str = setting(
        "black", "scope=paper: negative anchor: black (the paper's), white, mean, noise, random (Tables 7, 8)"
    )
    rephrase: str = setting(
        "auto",
        "positive sample from: auto (scope=paper: the backbone first; scope=last: not the backbone), backbone, supplied, plugin",
    )
    similarity: float = setting(0.6, "smallest cosine between the question and the backbone's own rephrasing")
    same_fact: str = setting(
        "record",
        "what a new answer replaces: record (same picture and question) or distance (the paper's: also what is near)",
    )
    start: str = setting(
        "base",
        "where training starts: base, or nearest (the paper's: the change of the entry whose radius holds the edit, which is "
        "then contained in the new one, so that the older edit cannot be removed alone)",
    )
    seed: int = setting(0, "of the noise and random anchors")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (
            ("distance", DISTANCES),
            ("key_tokens", KEY_TOKENS),
            ("negative", ANCHORS),
            ("rephrase", SOURCES),
            ("same_fact", SAME_FACT),
            ("start", STARTS),
            ("scope", SCOPES),
        ):
            if getattr(self, name) not in known and not (name == "scope" and self.scope is None):
                raise UnknownNameError(name, str(getattr(self, name)), known)
        if self.alpha is not None:
            check_alpha(self.alpha, "alpha")
        if not self.by_paper:
            if self.alpha is not None:
                raise InputError("alpha: scope=last has one threshold for the model; give threshold=, or scope=paper.")
            if self.key_tokens not in ("mean", "last"):
                raise InputError(
                    f"key_tokens: '{self.key_tokens}' given, but scope=last has the last prompt token as key."
                )
        elif given := [
            name for name in ("threshold", "scope_fitted", "negatives") if getattr(self, name) not in (None, "")
        ]:
            raise InputError(
                f"{given[0]}: it belongs to scope=last, while alpha, key_tokens and scope=paper mean the paper's radius; give "
                "the one or the other."
            )
        if self.threshold is not None and not 0 <= self.threshold < math.inf:
            raise InputError(f"threshold: {self.threshold} given; a number that is not negative is wanted.")

    @property
    def by_paper(self) -> bool:
        """Whether the scope is the paper's: asked for by name, or by a setting that only it has."""
        paper_only = self.alpha is not None or self.key_tokens != "mean"
        return self.scope == "paper" or (self.scope is None and paper_only)

    @property
    def tokens(self) -> str:
        """The tokens that the key is made of."""
        return self.key_tokens if self.by_paper else "last"


class BalancEdit:
    """Source: BalancEdit, Sec. 3."""

    name: ClassVar[str] = "balancedit"
    gated: ClassVar[bool] = True
    Config: ClassVar[type[EditorConfig]] = BalancEditConfig

    def __init__(self, config: BalancEditConfig | None = None, sampler: object = None):
        """`sampler`: pictures (or a function that draws one) for the "random" anchor."""
        self.config = config or BalancEditConfig()
        self.sampler = sampler

    @classmethod
    def published(cls, family: str) -> Mapping[str, Any]:
        """The paper's settings for a model family: α is named for MiniGPT-4 alone."""
        return PUBLISHED.get(family, {})

    def edit(self, vlm: VLM, request: EditRequest, codebook: Codebook | None = None) -> Edit:
        """Makes one entry; see `Editor.edit`.  The frozen part runs once, on the edit with its answer, positive and negative."""
        began = time.perf_counter()
        config = self.config
        site = vlm.resolve_site(config.site or vlm.default_site)
        image = None if request.image is None else open_picture(request.image)
        request = EditRequest(image, request.question, request.answer, request.rephrases, request.id)
        vlm.answer_tokens(
            request.question, request.answer, image is not None
        )  # an unfit answer is refused before any work
        fact = Fact(
            request.question, request.answer, None if image is None else picture_key(image), tuple(request.rephrases)
        )
        if codebook is not None and (known := codebook.holding(fact)) is not None:
            report = EditReport.of_nothing(_since(began))
            return Edit(known.same or "", self.name, request, report, relation=known)
        positive = choose(vlm, request, self._rephraser(request), config.similarity)
        scope, radius_from, trunk = self._scope(vlm, request, positive, site)
        relation = self._relation(codebook, scope, fact, site)
        alone = relation is not None and relation.kind == "conflict" and relation.inside is None
        if relation is not None and alone and bool(vlm.verify(trunk).exact[0]):
            relation = relation.reverted()
            report = EditReport.of_nothing(_since(began))
            return Edit(relation.retires[0], self.name, request, report, relation=relation)
        start = None
        if config.start == "nearest" and codebook is not None and relation is not None and relation.inside is not None:
            start = codebook.get(relation.inside)
        fitted = train_site(vlm, trunk, site, request, config, _loaded(start))
        entry = Entry(
            id=request.id or new_id(request, codebook),
            question=request.question,
            answer=request.answer,
            site=str(site),
            scopes=(scope,),
            transformation=fitted.transformation,
            image_key=fact.image_key,
            thumbnail=None if image is None else make_thumbnail(image),
            parent=None if start is None else start.id,
            notes={
                "editor": self.name,
                "rephrases": list(request.rephrases),
                "same_fact": config.same_fact,
                "refused_rephrases": list(positive.refused),
                **({"radius_from": radius_from} if radius_from else {}),
                "margin": round(fitted.margin, 4),
                "steps": fitted.steps,
            },
        )
        report = EditReport(_since(began), fitted.steps, fitted.loss, fitted.margin, entry.nbytes, fitted.trained)
        return Edit(entry.id, self.name, request, report, entry=entry, relation=relation)

    def _scope(self, vlm: VLM, request: EditRequest, positive: Positive, site: Site) -> tuple[Scope, str, Trunk]:
        """Key, positive and negative (Sec. 3.2, Eq. 10), and the trunk of the edit with its answer, from one pass.

        Beside them: where the radius comes from, in words, unless it is the paper's.

        The answer stands behind the prompt whose key is read: no token of the prompt sees it, and the key averages the
        prompt alone.
        """
        config = self.config
        image = request.image
        negative_name = config.negative
        if image is None:  # without a picture there is none to blacken: a question about nothing stands in for it
            negative, negative_question, negative_name = None, "?", "question:?"
        else:
            sampler = self.sampler
            if negative_name == "random" and sampler is None:
                sampler = random_pictures(config.companions)
            negative = anchor_picture(negative_name, vlm.image_size, image, sampler, config.seed)  # type: ignore[arg-type]
            negative_question = request.question
        questions = [request.question, positive.question, negative_question]
        others = request.answer if config.tokens == "prompt+answer" else None
        encoded = vlm.encode([image, image, negative], questions, [request.answer, others, others])
        trunk = vlm.trunk(encoded, site.layer)
        keys = pool(vlm.site_input(trunk, site), encoded, config.tokens)
        d_positive, d_negative = distance(keys[:1], keys[1:], config.distance)[:, 0].tolist()
        anchors = Anchors(positive.source, positive.question, negative_name, d_positive, d_negative)
        if not config.by_paper:
            scope, radius_from = self._last(vlm, site, request, keys[0], anchors)
            return scope, radius_from, trunk.select([0])
        alpha = vlm.default_alpha if config.alpha is None else config.alpha
        within = radius(alpha, d_positive, d_negative)
        return Scope(SCOPE, keys[0], within, config.distance, config.key_tokens, alpha, anchors), "", trunk.select([0])

    def _rephraser(self, request: EditRequest) -> str:
        """Where the positive comes from: no radius of `scope=last` hangs on it alone, so that the backbone need not write one."""
        source = self.config.rephrase
        if self.config.by_paper or source != "auto":
            return source
        return "supplied" if any(map(str.strip, request.rephrases)) else "plugin"

    def _last(self, vlm: VLM, site: Site, request: EditRequest, key: Tensor, anchors: Anchors) -> tuple[Scope, str]:
        """The scope around the last prompt token, and where its radius comes from."""
        config = self.config
        known = None if config.threshold is None else Reach.given(config.threshold)
        known = known or reach(vlm, site, config.distance, config.scope_fitted)

        def away(asked: list[Asked]) -> list[float]:
            keys = read(vlm, site, [picture for picture, _ in asked], [question for _, question in asked])
            return distance(key, keys, config.distance)[:, 0].tolist()

        pictured = request.image is not None
        share = own_reach.BETWEEN if known is None else known.share
        near: list[float] = []
        if config.negatives or (pictured and share is not None):
            near = away(own_reach.inside(request, anchors.positive_question))
        if pictured and share is not None:
            blank = away(own_reach.outside(vlm, request))
            within = own_reach.own(near, blank, share)
            source = (
                f"{share:.2f} of the way from its rewordings ({max(near):.4g}) to a blank picture ({min(blank):.4g})"
            )
        elif known is not None:
            within, source = known.of(pictured), f"one threshold for the model, {known.source}"
        else:
            within, source = (
                measured(vlm, site, config.distance),
                "one threshold for the model, measured on everyday questions",
            )
        if config.negatives:
            wider = within
            within = own_reach.kept_out(within, near, away(own_reach.of_traffic(request, config.negatives)))
            source += f"; narrowed from {wider:.4g} by '{config.negatives}'" if within < wider else ""
        crowd = known.crowd if known is not None and pictured else ()
        return Scope("last", key, within, config.distance, "last", None, anchors, crowd=crowd), source

    def _relation(self, codebook: Codebook | None, scope: Scope, fact: Fact, site: Site) -> Relation | None:
        if codebook is None or not codebook.active() or scope.anchors is None:
            return None
        return codebook.relation(
            scope.key[None],
            fact.question,
            fact.answer,
            fact.image_key,
            scope.anchors.d_positive,
            rephrases=fact.rephrases,
            site=str(site),
            same_fact=self.config.same_fact,
        )


def new_id(request: EditRequest, codebook: Codebook | None = None) -> str:
    """A short id from the edit's content; numbered where the codebook has it already."""
    picture = "" if request.image is None else picture_key(request.image)  # type: ignore[arg-type]
    text = "\0".join([picture, request.question, request.answer])
    stem = hashlib.sha256(text.encode()).hexdigest()[:8]
    return stem if codebook is None else codebook.free_id(stem)


def _loaded(entry: Entry | None) -> Transformation | None:
    change = None if entry is None else entry.transformation
    return change.load() if hasattr(change, "load") else change  # type: ignore[union-attr]


def _since(began: float) -> float:
    return time.perf_counter() - began
