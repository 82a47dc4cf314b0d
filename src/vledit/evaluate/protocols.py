"""Protocols: `single` (edit, score, undo), `sequential` (scored after N edits) and `batch` (several edits scored together).

The base never changes, so nothing can accumulate unnoticed: what is scored is the base and the edits that `Held` holds.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..data.case import EditCase
from ..editors.base import Edit
from ..editors.effect import Effect
from ..errors import CheckFailedError, VLEditError
from ..vlm.base import VLM
from .checks import BaseGuard
from .held import NEVER, Held, Routed, digest
from .manifest import Variant
from .outcomes import Outcome, decided
from .prepared import PreparedCase, Score

PROTOCOLS = ("single", "sequential", "batch")
STOPPING = (MemoryError, CheckFailedError)
"""Exceptions that end a run; KeyboardInterrupt and the like are no `Exception`s and do so by themselves."""


@dataclass(frozen=True)
class Failure:
    """Why there is no edit, or no score.  `stage`: "prepare", "edit" or "score"."""

    stage: str
    kind: str
    message: str

    @classmethod
    def of(cls, stage: str, error: Exception) -> Failure:
        """What went wrong; where it was no error of ours, with the line of code that raised it."""
        message = str(error) or type(error).__name__
        if not isinstance(error, VLEditError):
            frames = traceback.extract_tb(error.__traceback__)
            message += f" ({frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno})" if frames else ""
        return cls(stage, type(error).__name__, message)


@dataclass(frozen=True)
class Scored:
    """What one edit gave.

    Args:
        failure: why there is no edit, or no outcome; None where all went well.
        after, order: see docs/results_format.md.
    """

    case: str
    outcomes: list[Outcome]
    edit: Edit | None = None
    failure: Failure | None = None
    after: int = 1
    order: int = 1

    def record(self, variant: str, seconds: float) -> dict[str, Any]:
        """Its line in the results file."""
        failure = self.failure or Failure("", "", "")
        found: dict[str, Any] = {
            "variant": variant,
            "case": self.case,
            "after": self.after,
            "order": self.order,
            "error": failure.message,
            "error_type": failure.kind,
            "stage": failure.stage,
            "seconds": round(seconds, 4),
        }
        if self.edit is not None:
            found["edit"] = {**asdict(self.edit.report), **_scope_record(self.edit), "digest": digest(self.edit)}
        found["outcomes"] = [decided(outcome) for outcome in self.outcomes]
        return found


def _scope_record(edit: Edit) -> dict[str, Any]:
    """Radii and what they were measured with; of an entry with several scopes, one by one."""
    scopes = () if edit.entry is None else edit.entry.scopes
    found = []
    for scope in scopes:
        one: dict[str, Any] = {"alpha": scope.alpha, "radius": scope.radius}
        if scope.anchors is not None:
            one["d_positive"] = scope.anchors.d_positive
            if scope.anchors.d_negative is not None:
                one["d_negative"] = scope.anchors.d_negative
            one["positive_source"] = scope.anchors.positive_source
            one["positive_question"] = scope.anchors.positive_question
        found.append(one)
    if len(found) == 1:
        return found[0]
    # with several radii none of them can be tried anew by itself, so their figures do not stand where α's curve looks
    return {"scopes": [{"name": s.name, **one} for s, one in zip(scopes, found, strict=True)]} if found else {}


# --- scoring ----------------------------------------------------------------------------------------------------------


def outcomes_of(
    prepared: PreparedCase,
    editor: str,
    acting: Sequence[Effect | None],
    routing: Sequence[Routed],
    texts: bool = False,
) -> list[Outcome]:
    """Scores every probe of a case.

    Args:
        acting: per probe what would act on it, fired or not (None: nothing ever acts).
        routing: per probe why it fires or not.
        texts: generate the free text of every probe that fires and says neither the target nor what the base says.
    """
    asked = prepared.asked
    rows = [row for row in range(len(asked)) if acting[row] is not None]
    locality = [row for row in rows if asked[row].is_locality]
    with prepared.expecting(rows, [acting[row] for row in rows]):
        same = prepared.score_sames(locality, [acting[row] for row in locality])
        # who answers as the base did does not give another answer; for `exact` only the others may have the new one
        tried = [row for row in rows if prepared.tokens or not asked[row].is_locality or not same[row].exact]
        new = prepared.score_targets(tried, [acting[row] for row in tried])
    found = []
    for row, one in enumerate(asked):
        routed = routing[row]
        if acting[row] is None:
            routed, new_score, same_score = routed._replace(fired=False), Score(one.base_new, one.base_new_token), _KEPT
        else:
            same_score = same.get(row)
            new_score = new.get(row, Score(one.base_new, math.nan))  # the same answer as before, so as new as before
            if one.is_locality and not prepared.tokens:  # a share of those that were tried alone would mislead
                new_score = Score(new_score.exact, math.nan)
        known = new_score.exact or (same_score is not None and same_score.exact)
        written = texts and routed.fired and not known  # else its text is the target's, or the base's
        found.append(
            Outcome(
                case=prepared.case.id,
                editor=editor,
                family=one.family,
                cell=one.cell,
                index=one.index,
                base_new=one.base_new,
                base_new_token=one.base_new_token,
                changed_new=new_score.exact,
                changed_same=None if same_score is None else same_score.exact,
                changed_new_token=new_score.token,
                changed_same_token=math.nan if same_score is None else same_score.token,
                changed_top10=math.nan if same_score is None else same_score.top10,
                distance=routed.distance,
                radius=routed.radius,
                fired=routed.fired,
                entry=routed.entry,
                readings=routed.readings,
                base_answer=one.base_answer or "",
                tags=one.tags(),
                question=one.probe.question,
                target=one.target,
                answer=prepared.answer([row], [acting[row]])[0] if written else "",
            )
        )
    return found


_KEPT = Score(True, 1.0, 1.0)


def unedited(prepared: PreparedCase, editor: str) -> list[Outcome]:
    """What the base alone gives."""
    return outcomes_of(prepared, editor, [None] * len(prepared), [NEVER] * len(prepared))


# --- protocols --------------------------------------------------------------------------------------------------------


def single(
    vlm: VLM,
    prepared: PreparedCase,
    variant: Variant,
    guard: BaseGuard | None = None,
    texts: bool = False,
    begun: Any = None,
) -> Scored:
    """One edit alone.  A case that cannot be edited is reported, not skipped: its probes count as the base answers them.

    Args:
        begun: what `Held.begun` made of it together with others.

    Raises: BaseChangedError where the model is not the base before the edit; what `STOPPING` names.
    """
    if guard is not None:
        guard.look()  # `prepare` has checked it for this case
    held = Held(vlm, variant)
    case = prepared.case.id
    try:
        edit = held.make(prepared.request, begun)
    except STOPPING:
        raise
    except Exception as error:
        return Scored(case, unedited(prepared, variant.name), failure=Failure.of("edit", error))
    try:
        acting, routing = held.acting(prepared, alone=True)
        return Scored(case, outcomes_of(prepared, variant.name, acting, routing, texts), edit)
    except STOPPING:
        raise
    except Exception as error:
        return Scored(case, [], edit, Failure.of("score", error))


class Chain:
    """Edits of one variant made one after the other on one base (Table 4's setting)."""

    def __init__(self, vlm: VLM, variant: Variant):
        self.held = Held(vlm, variant)
        self.variant = variant
        self.failures: dict[str, Failure] = {}
        self.order: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.order)

    def add(self, case: EditCase, begun: Any = None) -> Edit | None:
        """The next edit; one that cannot be made is noted, and the chain goes on without it."""
        self.order[case.id] = len(self.order) + 1
        try:
            return self.held.make(case.request, begun)
        except STOPPING:
            raise
        except Exception as error:
            self.failures[case.id] = Failure.of("edit", error)
            return None

    def score(self, prepared: PreparedCase, after: int, texts: bool = False) -> Scored:
        """All probes of a case, with all edits that have been made so far."""
        case = prepared.case.id
        edit, order = self.held.edits.get(case), self.order[case]
        try:
            acting, routing = self.held.acting(prepared)
            found = outcomes_of(prepared, self.variant.name, acting, routing, texts)
            return Scored(case, found, edit, self.failures.get(case), after, order)
        except STOPPING:
            raise
        except Exception as error:
            return Scored(case, [], edit, Failure.of("score", error), after, order)
