"""Asking the base: its answer to every probe of a case, before any edit, and the trunks on which scoring is based.

Each probe is run as its metrics require.  Generality: prompt + new answer.  Locality: prompt + the base's own answer, which
is verified if it is the data set's answer and generated otherwise; and prompt + new answer, for the scores by token.  (For
`exact` alone the latter is needed only if the answer changed: a greedy answer is one string, so a model that
gives the base's answer does not give another.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..data.case import EditCase
from ..vlm.base import VLM
from .checks import BaseGuard, check_questions, check_routed_prompts
from .prepared import PreparedCase
from .trunk_rows import TrunkRows

if TYPE_CHECKING:
    from .trunk_cache import TrunkCache


def prepare(
    vlm: VLM,
    case: EditCase,
    layer: int | None = None,
    tokens: bool = True,
    cache: TrunkCache | None = None,
    guard: BaseGuard | None = None,
    key_sites: Sequence[str] = (),
) -> PreparedCase:
    """Base answers and trunks of a case.

    Args:
        layer: decoder layer at which the trunks end (default: that of the family's own site).
        tokens: run what the scores by token need as well.
        cache: where trunks are kept between protocols and runs.
        guard: tells whether the model is the base; made here where none is given, and so of no use against a mistake that
            came before.
        key_sites: lower sites at which keys will be asked for; they are read while the prompts run.

    Raises:
        BaseChangedError: something acts on the model; the answers would not be the base's.
        LeakError: a probe's question ends with the answer that it asks for, or keys see more than the prompt.
    """
    (guard or BaseGuard(vlm)).check()
    layer = vlm.default_site.layer if layer is None else layer
    prepared = PreparedCase.of(vlm, case, layer, tokens, tuple(key_sites))
    check_questions(prepared)
    if cache is None or not cache.load(prepared):
        ask_base(prepared)
        if cache is not None:
            cache.save(prepared)
    check_routed_prompts(prepared)
    return prepared


def ask_base(prepared: PreparedCase) -> None:
    """Fills in base answers, base scores and trunks."""
    asked = prepared.asked
    locality = [row for row, one in enumerate(asked) if one.is_locality]
    told = {row: asked[row].probe.answer or "" for row in locality}
    told = {row: answer for row, answer in told.items() if answer and _forcible(prepared, row, answer)}
    wanted = [row for row in range(len(asked)) if prepared.tokens or not asked[row].is_locality]
    truths = {row: one.probe.tags.get("truth", "") for row, one in enumerate(asked) if not one.is_locality}
    truths = {row: truth for row, truth in truths.items() if truth and _forcible(prepared, row, truth)}
    answers = {
        row: [
            *([told[row]] if row in told else []),
            *([truths[row]] if row in truths else []),
            *([asked[row].target] if row in wanted else []),
        ]
        for row in range(len(asked))
    }
    prepared.grow({row: list(dict.fromkeys(texts)) for row, texts in answers.items()})
    _known_answers(prepared, told)
    _recognised(prepared, truths)
    _spoken_answers(prepared, [row for row in locality if asked[row].base_answer is None])
    prepared.read_base_top()
    for row, score in prepared.score_targets(wanted, [None] * len(wanted)).items():
        asked[row].base_new, asked[row].base_new_token = score.exact, score.token
    for row in locality:
        if row not in wanted:
            asked[row].base_new = asked[row].base_answer == asked[row].target
    # what is in neither kind has no trunk yet, but routing asks for its key
    prepared.need_targets([row for row in range(len(asked)) if row not in prepared.sames and row not in wanted])
    if not asked[0].base_answer:  # of the edit itself: what the base says before it
        asked[0].base_answer = prepared.speak([0])[0]
    prepared.drop_forest()


def _known_answers(prepared: PreparedCase, told: dict[int, str]) -> None:
    """Where the base gives the data set's answer exactly, that is its answer.  `told`: row → that answer."""
    prepared.run_trunks(prepared.sames, told)
    for some, logits, targets, places in prepared.sames.logits(prepared.vlm, list(told), [None] * len(told)):
        right = (logits.float().argmax(-1) == targets).cpu()
        for place, row in enumerate(some):
            if bool(right[places == place].all()):
                prepared.asked[row].base_answer = told[row]
    for row in told:
        if prepared.asked[row].base_answer is None:
            prepared.sames.discard(row)


def _recognised(prepared: PreparedCase, truths: dict[int, str]) -> None:
    """Notes whether the base gives the true answer about other pictures of the edited thing.  `truths`: row → that answer."""
    rows = TrunkRows()
    prepared.run_trunks(rows, truths)
    for some, logits, targets, places in rows.logits(prepared.vlm, list(truths), [None] * len(truths)):
        right = (logits.float().argmax(-1) == targets).cpu()
        for place, row in enumerate(some):
            prepared.asked[row].recognised = bool(right[places == place].all())


def _spoken_answers(prepared: PreparedCase, rows: list[int]) -> None:
    """The other answers are generated; prompt + answer then goes through the trunk."""
    spoken = prepared.speak(rows)
    for row, text in spoken.items():
        prepared.asked[row].base_answer = text
    # an answer that is empty, or holds what may not be typed, cannot be forced: it is generated again when it is scored
    prepared.run_trunks(prepared.sames, {row: text for row, text in spoken.items() if _forcible(prepared, row, text)})


def _forcible(prepared: PreparedCase, row: int, answer: str) -> bool:
    from ..errors import InputError

    probe = prepared.asked[row].probe
    try:
        prepared.vlm.answer_tokens(probe.question, answer, probe.image is not None)
    except InputError:
        return False
    return True
