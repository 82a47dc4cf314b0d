"""BalancEdit (ICML 2025): an edit is a codebook entry (key, transformation, influence radius) at one layer of a frozen model.

The equations are those of the paper. Where the paper contradicts itself or its released code:

- the key averages the *prompt* tokens only; the released code also averages over the answer, and calibrates the radius on that,
  although no request at inference has an answer (`key_tokens="prompt+answer"` reproduces this);
- the radius is Eq. 10 (α weighs the positive), in agreement with Table 10, Fig. 5 and the code; in Eq. 3 α is swapped;
- every key has its own transformation and its own radius, fixed at edit time; the released code shares one transformation
  and rewrites all radii at each edit;
- training stops early when every answer token leads by a margin, instead of always taking 50 steps.

The default scope is not the paper's. With `scope="last"` the key is the last prompt token and the radius a threshold for the
model, see `reach`; with `scope="paper"` the key is the mean key and each edit has a radius of its own, as above.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..codebook.entry import Entry, make_thumbnail
from ..codebook.relation import SAME_FACT, Fact
from ..codebook.scope import ANCHORS, DISTANCES, KEY_TOKENS, Scope, check_alpha
from ..data.case import EditRequest
from ..errors import InputError, UnknownNameError, VLEditError
from ..vlm.base import VLM, Site
from ..vlm.pictures import picture_key
from .base import Edit, EditorConfig, EditReport, setting
from .fitting import FittingConfig, learnt, train_site
from .fitting_together import train_together
from .making import new_id, opened
from .reach import AUTO
from .rephrase import SOURCES
from .scoping import Begun, Scoping, key_site_of

if TYPE_CHECKING:
    from ..codebook import Codebook, Relation, Transformation

PUBLISHED: dict[str, dict[str, Any]] = {
    "minigpt4": {"scope": "paper", "alpha": 0.2, "site": "31.mlp.up"},
    "blip2": {"scope": "paper", "site": "31.mlp.out"},
}
"""Family → settings of Sec. 4.3: the layer, and α where the paper names it; Euclidean distance, black anchor, Adam."""
SCOPES = ("paper", "last")
STARTS = ("base", "nearest")


@dataclass(frozen=True)
class BalancEditConfig(FittingConfig):
    """Settings of BalancEdit; the defaults are the paper's where it names them."""

    scope: str | None = setting(
        None,
        "last: the key is the last prompt token and the radius is one threshold for the model; "
        "paper: mean key, and a radius per edit that depends on alpha; none: last, or paper if "
        "alpha or key_tokens is given",
    )
    threshold: float | None = setting(
        None,
        "scope=last: the radius; none: the result of `vledit fit-scope` (for pocket it comes with "
        "VLEdit), otherwise found by each edit from its own rewordings and blank pictures",
    )
    key_site: str = setting(
        AUTO,
        "scope=last: the site where the key is read, at or below the edited one, e.g. 24.layer; auto: the one that "
        "`vledit fit-scope` chose, else the edited site",
    )
    scope_fitted: str = setting("", "scope=last: folder written by `vledit fit-scope`; empty: its default folder")
    negatives: str = setting(
        "",
        "scope=last: folder of unlabelled pictures of your own, optionally with a questions.txt "
        "(one question per line); the radius is narrowed until at most 1 % of them lie inside",
    )
    alpha: float | None = setting(
        None,
        "scope=paper: weight of the positive sample in the radius, from 0 (widest) to 1; none: the family's default",
    )
    distance: str = setting("euclidean", "euclidean or cosine (Table 6)")
    key_tokens: str = setting(
        "mean",
        "scope=paper: tokens over which the key is averaged: mean (all of the prompt, as in the "
        "paper), visual, question, last",
    )
    negative: str = setting(
        "black", "scope=paper: negative anchor: black (the paper's), white, mean, noise, random (Tables 7, 8)"
    )
    rephrase: str = setting(
        "auto",
        "source of the positive sample: auto (scope=paper: the backbone first; scope=last: not the "
        "backbone), backbone, supplied, plugin",
    )
    similarity: float = setting(0.6, "smallest cosine similarity between the question and the backbone's rephrasing")
    same_fact: str = setting(
        "record",
        "which older edit a new answer replaces: record (same picture and question) or distance (as "
        "in the paper: also a near one)",
    )
    start: str = setting(
        "base",
        "where training starts: base, or nearest (as in the paper: from the transformation of the "
        "entry whose radius contains the edit; the new edit then includes the older one, which "
        "cannot be removed alone)",
    )
    seed: int = setting(0, "random seed of the noise and random anchors")

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
            name
            for name in ("threshold", "key_site", "scope_fitted", "negatives")
            if getattr(self, name) not in (None, "", AUTO)
        ]:
            raise InputError(
                f"{given[0]}: it belongs to scope=last, while alpha, key_tokens and scope=paper mean the paper's radius; give "
                "the one or the other."
            )
        if self.key_site != AUTO:
            Site.parse(self.key_site)
        if self.threshold is not None and not 0 <= self.threshold < math.inf:
            raise InputError(f"threshold: {self.threshold} given; a number that is not negative is expected.")

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

    def edit(
        self, vlm: VLM, request: EditRequest, codebook: Codebook | None = None, begun: Begun | None = None
    ) -> Edit:
        """Makes one entry; see `Editor.edit`.  The frozen part runs once, on the edit with its answer, positive and negative.

        Args:
            begun: what `begin` made of this request together with others.
        """
        began = time.perf_counter()
        config = self.config
        site = vlm.resolve_site(config.site or vlm.default_site)
        request = _opened(vlm, request) if begun is None else begun.request
        fact = _fact(request)
        if codebook is not None and (known := codebook.holding(fact)) is not None:
            report = EditReport.of_nothing(_since(began))
            return Edit(known.same or "", self.name, request, report, relation=known)
        if begun is None:
            (begun,) = self._scoping(vlm, site).scoped([request])
        if begun.error is not None:
            raise begun.error
        assert begun.scope is not None
        assert begun.trunk is not None
        assert begun.positive is not None
        scope = begun.scope
        relation = self._relation(codebook, scope, fact, begun.key_site)
        alone = relation is not None and relation.kind == "conflict" and relation.inside is None
        if relation is not None and alone and bool(vlm.verify(begun.trunk).exact[0]):
            relation = relation.reverted()
            report = EditReport.of_nothing(_since(began))
            return Edit(relation.retires[0], self.name, request, report, relation=relation)
        start = None
        if config.start == "nearest" and codebook is not None and relation is not None and relation.inside is not None:
            start = codebook.get(relation.inside)
        if begun.fitted is None:
            fitted = train_site(vlm, begun.trunk, site, request, config, _loaded(start), begun.tail)
        else:
            fitted = learnt(begun.fitted, request.answer)
        entry = Entry(
            id=request.id or new_id(request, codebook),
            question=request.question,
            answer=request.answer,
            site=str(site),
            key_site=begun.key_site,
            scopes=(scope,),
            transformation=fitted.transformation,
            image_key=fact.image_key,
            thumbnail=None if request.image is None else make_thumbnail(request.image),  # type: ignore[arg-type]
            parent=None if start is None else start.id,
            notes={
                "editor": self.name,
                "rephrases": list(request.rephrases),
                "same_fact": config.same_fact,
                "refused_rephrases": list(begun.positive.refused),
                **({"radius_from": begun.radius_from} if begun.radius_from else {}),
                "margin": round(fitted.margin, 4),
                "steps": fitted.steps,
            },
        )
        seconds = _since(began) + begun.seconds
        report = EditReport(seconds, fitted.steps, fitted.loss, fitted.margin, entry.nbytes, fitted.trained)
        return Edit(entry.id, self.name, request, report, entry=entry, relation=relation)

    def begin(self, vlm: VLM, requests: Sequence[EditRequest]) -> list[Begun | None]:
        """What of several edits is the same work: their trunk passes are shared and they are trained together.

        Give each to `edit` with its request, in their order: what hangs on the edits that are there already is decided then.
        None for all where edits cannot be trained before that is known: `start="nearest"`, adversarial terms.
        """
        config = self.config
        if config.start != "base" or config.adversarial or len(requests) < 2:
            return [None] * len(requests)
        began = time.perf_counter()
        site = vlm.resolve_site(config.site or vlm.default_site)
        found: list[Begun] = []
        for request in requests:
            try:
                found.append(Begun(_opened(vlm, request)))
            except VLEditError as error:
                found.append(Begun(request, error=error))
        fit = [number for number, one in enumerate(found) if one.error is None]
        scoped = self._scoping(vlm, site).scoped([found[number].request for number in fit]) if fit else []
        ready = [(number, one) for number, one in zip(fit, scoped, strict=True) if one.trunk is not None]
        for number, one in zip(fit, scoped, strict=True):
            found[number] = one
        if ready:
            whole = ready[0][1].together
            assert whole is not None
            fitted = train_together(vlm, whole, site, config, ready[0][1].tail)
            for (number, one), learned in zip(ready, fitted, strict=True):
                found[number] = replace(one, fitted=learned, together=None, tail=None)
        share = _since(began) / len(requests)
        return [replace(one, seconds=share) for one in found]

    def key_site(self, vlm: VLM) -> Site:
        """Where the keys of its edits are read.  Raises: see `scoping.key_site_of`."""
        return key_site_of(vlm, vlm.resolve_site(self.config.site or vlm.default_site), self.config)

    def _scoping(self, vlm: VLM, site: Site) -> Scoping:
        return Scoping(vlm, site, self.config, self.sampler)

    def _relation(self, codebook: Codebook | None, scope: Scope, fact: Fact, key_site: str) -> Relation | None:
        if codebook is None or not len(codebook) or scope.anchors is None:
            return None
        return codebook.relation(
            scope.key[None],
            fact.question,
            fact.answer,
            fact.image_key,
            scope.anchors.d_positive,
            rephrases=fact.rephrases,
            site=key_site,
            same_fact=self.config.same_fact,
        )


def _opened(vlm: VLM, request: EditRequest) -> EditRequest:
    """The request with its picture opened.  Raises: an unfit answer or picture is refused before any work."""
    found = opened(request)
    vlm.answer_tokens(request.question, request.answer, found.image is not None)
    return found


def _fact(request: EditRequest) -> Fact:
    key = None if request.image is None else picture_key(request.image)  # type: ignore[arg-type]
    return Fact(request.question, request.answer, key, tuple(request.rephrases))


def _loaded(entry: Entry | None) -> Transformation | None:
    change = None if entry is None else entry.transformation
    return change.load() if hasattr(change, "load") else change  # type: ignore[union-attr]


def _since(began: float) -> float:
    return time.perf_counter() - began
