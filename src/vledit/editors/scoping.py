"""Keys and radii of BalancEdit's edits (Sec. 3.2, Eq. 10), of one request or of several that share their trunk passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..codebook.scope import Anchors, Scope, anchor_picture, distance, radius
from ..data.case import EditRequest
from ..errors import VLEditError
from ..vlm.base import VLM, Site, Trunk
from ..vlm.tail import SiteTail
from . import own_reach
from .adversary import random_pictures
from .fitting import Fitted
from .own_reach import Asked
from .reach import AUTO, EDITOR, Reach, checked_key_site, measured, reach, read
from .rephrase import Positive, choose
from .together import Row, run
from .training import artefact

if TYPE_CHECKING:
    from torch import Tensor

    from .balancedit import BalancEditConfig

SCOPE = "mean"
SHARED = ("black", "white", "noise")
"""Anchor pictures that are the same for all requests."""


@dataclass(frozen=True, eq=False)
class Begun:
    """An edit as far as it hangs on nothing but its request.

    Args:
        request: with an opened picture.
        key_site: where the scope's key was read.
        error: what is raised when the edit is made; all below is None then.
        trunk: of the edit with its answer; `together`: of all edits that were begun with the first of them.
        tail: what is above the site, for the rows of `together`, or of `trunk` where the edit was begun alone.
        fitted: its transformation where it was trained already.
        seconds: what it took, its share where several were begun together.
    """

    request: EditRequest
    positive: Positive | None = None
    error: Exception | None = None
    scope: Scope | None = None
    key_site: str = ""
    radius_from: str = ""
    trunk: Trunk | None = None
    together: Trunk | None = None
    tail: SiteTail | None = None
    fitted: Fitted | None = None
    seconds: float = 0.0


def key_site_of(vlm: VLM, site: Site, config: BalancEditConfig) -> Site:
    """Where the keys of edits at `site` are read: there by the paper, else as set, or as the model's fitted scope says.

    Raises: InputError for a site that cannot be; for a `scope_fitted` that is not for this model, see `reach`.
    """
    if config.by_paper:
        return site
    if config.key_site != AUTO:
        return checked_key_site(vlm, config.key_site, site)
    fitted = reach(vlm, site, config.distance, config.scope_fitted)
    return site if fitted is None else checked_key_site(vlm, fitted.key_site, site)


def fitting_of(vlm: VLM, config: BalancEditConfig) -> Mapping[str, Any] | None:
    """The manifest of the fitting (`vledit fit-scope`) that says how far edits reach as configured; None: nothing fitted does."""
    site = vlm.resolve_site(config.site or vlm.default_site)
    if config.threshold is not None or Scoping(vlm, site, config).fits is None:
        return None
    return artefact.find(EDITOR, vlm, config.scope_fitted).about


class Scoping:
    """Finds keys and radii as an editor is configured.

    Args:
        sampler: pictures (or a function that draws one) for the "random" anchor.
    """

    def __init__(self, vlm: VLM, site: Site, config: BalancEditConfig, sampler: object = None):
        self.vlm, self.site, self.config, self.sampler = vlm, site, config, sampler
        self.key_site = key_site_of(vlm, site, config)
        self.fits = self._reach()
        self._blank: dict[str, Any] = {}
        self._outside: list[Asked] = []

    def scoped(self, requests: Sequence[EditRequest]) -> list[Begun]:
        """Keys, positives and negatives (Sec. 3.2, Eq. 10) of several edits, and the trunks of the edits with their answers, from
        passes that all of them share.

        The answer stands behind the prompt whose key is read: no token of the prompt sees it, and the key averages the
        prompt alone.
        """
        found = [self._begun(request) for request in requests]
        going = [place for place, one in enumerate(found) if one.error is None]
        rows: list[list[Row]] = []
        for place in going:
            request, positive = requests[place], found[place].positive
            assert positive is not None
            rows.append(self._rows(request, positive))
        if not going:
            return found
        answered = [Row(requests[place].image, requests[place].question, requests[place].answer) for place in going]
        others = [row for some in rows for row in some]
        trunk, tail, keys = run(self.vlm, self.site, answered, others, self.config.tokens, self.key_site)
        start = len(going)
        for number, place in enumerate(going):
            own = keys[start : start + len(rows[number])]
            start += len(rows[number])
            try:
                scope, radius_from = self._scope(found[place], keys[number], own)
            except VLEditError as error:
                found[place] = replace(found[place], error=error)
                continue
            found[place] = replace(
                found[place],
                scope=scope,
                key_site=str(self.key_site),
                radius_from=radius_from,
                trunk=trunk.select([number]),
            )
        kept = [number for number, place in enumerate(going) if found[place].trunk is not None]
        if len(kept) > 1 or (kept and len(requests) > 1):
            first, whole = going[kept[0]], len(kept) == len(trunk)
            found[first] = replace(
                found[first], together=trunk if whole else trunk.select(kept), tail=tail if whole else None
            )
        elif kept:
            found[going[0]] = replace(found[going[0]], tail=tail)
        return found

    def _begun(self, request: EditRequest) -> Begun:
        try:
            positive = choose(self.vlm, request, self._rephraser(request), self.config.similarity)
        except VLEditError as error:
            return Begun(request, error=error)
        return Begun(request, positive)

    def _negative(self, request: EditRequest) -> tuple[Any, str]:
        """Picture and question of the negative anchor; pictures that are the same for all requests are one object."""
        config = self.config
        if (
            request.image is None
        ):  # without a picture there is none to blacken: a question about nothing stands in for it
            return None, "?"
        name, sampler = config.negative, self.sampler
        if name in self._blank:
            return self._blank[name], request.question
        if name == "random" and sampler is None:
            sampler = random_pictures(config.companions)
        picture = anchor_picture(name, self.vlm.image_size, request.image, sampler, config.seed)  # type: ignore[arg-type]
        if name in SHARED:
            self._blank[name] = picture
        return picture, request.question

    def _rows(self, request: EditRequest, positive: Positive) -> list[Row]:
        """The positive, and the paper's negative; or what the edit's own reach is told by, `own_reach.inside` and `outside`,
        where it is."""
        config = self.config
        forced = request.answer if config.tokens == "prompt+answer" else None
        rows = [Row(request.image, positive.question, forced)]
        if config.by_paper:
            return [*rows, Row(*self._negative(request), forced)]
        near, far = self._told_by(request, positive)
        return [*rows, *(Row(*one) for one in [*near, *far])]

    def _told_by(self, request: EditRequest, positive: Positive) -> tuple[list[Asked], list[Asked]]:
        """What has to lie inside, and what outside, as far as a radius that is not the paper's hangs on them."""
        own = request.image is not None and self._share is not None
        near = own_reach.inside(request, positive.question) if own or self.config.negatives else []
        if own and not self._outside:
            self._outside = own_reach.outside(self.vlm, request)
        return near, [(picture, request.question) for picture, _ in self._outside] if own else []

    @property
    def _share(self) -> float | None:
        """Where the radius is put between what an edit makes for itself; None: it does not hang on that."""
        return own_reach.BETWEEN if self.fits is None else self.fits.share

    def _reach(self) -> Reach | None:
        """How far edits of this model reach as it was fitted or given; None: told by each edit, or the paper's."""
        config = self.config
        if config.by_paper:
            return None
        if config.threshold is not None:
            return Reach.given(config.threshold)
        return reach(self.vlm, self.site, config.distance, config.scope_fitted, self.key_site)

    def _scope(self, begun: Begun, key: Tensor, others: Tensor) -> tuple[Scope, str]:
        """The scope from the edit's key and those of its `_rows`; and where the radius comes from, in words, unless it is the
        paper's."""
        config, request, positive = self.config, begun.request, begun.positive
        assert positive is not None
        to_positive, *away = distance(key, others, config.distance)[:, 0].tolist()
        if not config.by_paper:
            near, _ = self._told_by(request, positive)
            anchors = Anchors(positive.source, positive.question, "", to_positive, None)
            return self._last(request, key, anchors, away[: len(near)], away[len(near) :])
        name = "question:?" if request.image is None else config.negative
        anchors = Anchors(positive.source, positive.question, name, to_positive, away[0])
        alpha = self.vlm.default_alpha if config.alpha is None else config.alpha
        within = radius(alpha, to_positive, away[0])
        return Scope(SCOPE, key, within, config.distance, config.key_tokens, alpha, anchors), ""

    def _last(
        self, request: EditRequest, key: Tensor, anchors: Anchors, near: list[float], blank: list[float]
    ) -> tuple[Scope, str]:
        """The scope around the last prompt token, and where its radius comes from.

        Args:
            near, blank: distances of the `own_reach` rows, where the radius hangs on them.
        """
        config, known, share = self.config, self.fits, self._share
        pictured = request.image is not None
        if pictured and share is not None:
            within = own_reach.own(near, blank, share)
            source = (
                f"{share:.2f} of the way from its rewordings ({max(near):.4g}) to a blank picture ({min(blank):.4g})"
            )
        elif known is not None:
            within, source = known.of(pictured), f"one threshold for the model, {known.source}"
        else:
            within, source = (
                measured(self.vlm, self.key_site, config.distance),
                "one threshold for the model, measured on everyday questions",
            )
        if config.negatives:
            asked = own_reach.of_traffic(request, config.negatives)
            keys = read(self.vlm, self.key_site, [picture for picture, _ in asked], [question for _, question in asked])
            wider = within
            within = own_reach.kept_out(within, near, distance(key, keys, config.distance)[:, 0].tolist())
            source += f"; narrowed from {wider:.4g} by '{config.negatives}'" if within < wider else ""
        crowd = () if known is None else known.crowd_of(pictured)
        return Scope("last", key, within, config.distance, "last", None, anchors, crowd=crowd), source

    def _rephraser(self, request: EditRequest) -> str:
        """Where the positive comes from: no radius of `scope=last` hangs on it alone, so that the backbone need not write one."""
        source = self.config.rephrase
        if self.config.by_paper or source != "auto":
            return source
        return "supplied" if any(map(str.strip, request.rephrases)) else "plugin"
