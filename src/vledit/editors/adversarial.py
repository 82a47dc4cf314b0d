"""The adversarial locality loss of "transient blindness" (Eqs. 9, 10), for any editor that learns by gradient.

An edit is trained to keep the base's distribution where the edited question meets another picture or none, and where a similar
question meets its own picture:

    loss = λ1 · L_edit + λ2 · L_locality + λ3 · Σ KL(base ‖ edited)     over RI (T1I3), NI (T1I4) and CI (T2I2)

Each term can be left out (the paper's Table 10 has all subsets).  An editor without a pass of its own over the probes does this:

    probes = AdversarialProbes.of(vlm, plan(wrap_request(companions, request), terms), layer)   # once per edit
    logits = vlm.head(probes.trunk, site, change, positions=probes.positions)                     # in every step
    loss = total_loss(edit, locality, probes.divergences(logits), weights)

One that trains over wrapped cases anyway asks for the cells `cells_of(terms)` and calls `divergences` on what it gets.

The probes of an edit must not be those it is scored with: `companions` is a `DevQA` over the *training* records.  (T1I4 is the
edited question without a picture; there is no other.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.case import EditCase, Probe
from ..errors import InputError, UnknownNameError
from ..vlm import generation
from ..vlm.base import VLM, Trunk
from .training.losses import kl_from_base

if TYPE_CHECKING:
    from ..data.case import EditRequest
    from ..data.devqa import DevQA

TERMS: Mapping[str, str] = {"RI": "T1I3", "NI": "T1I4", "CI": "T2I2"}
"""Term → the De-VQA cell that it is computed on."""
LONGEST = 16
"""Tokens of the base's answer that are kept; as in scoring."""


@dataclass(frozen=True)
class Weights:
    """λ1, λ2, λ3 of Eq. 10, with the paper's values.  Raises: InputError for a negative one."""

    edit: float = 0.1
    locality: float = 1.0
    adversarial: float = 1.0

    def __post_init__(self) -> None:
        for name in ("edit", "locality", "adversarial"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}_weight: {getattr(self, name)} given; it must not be negative.")


def parse_terms(text: str) -> tuple[str, ...]:
    """ "RI,CI" → ("RI", "CI"), each once and in the order of `TERMS`; "all": all three; "": none.

    Raises: UnknownNameError for another word.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words == ["all"]:
        return tuple(TERMS)
    for word in words:
        if word not in TERMS:
            raise UnknownNameError("adversarial term", word, [*TERMS, "all"])
    return tuple(term for term in TERMS if term in words)


def cells_of(terms: Sequence[str]) -> tuple[str, ...]:
    """The De-VQA cells that these terms are computed on."""
    return tuple(TERMS[term] for term in terms)


def wrap_request(companions: DevQA, request: EditRequest, base_answer: str = "") -> EditCase:
    """A case of a bare request with the De-VQA cells that `companions` finds for it."""
    case = EditCase(request, {}, {}, base_answer=base_answer)
    return companions.wrap_all([case])[0]


def plan(case: EditCase, terms: Sequence[str]) -> dict[str, Probe]:
    """Term → the probe to run.

    An edit of a question without a picture has no NI (that is the edit itself), and a pool may have no fit CI: these are left
    out.

    Raises: InputError where nothing is left of the terms that were asked for.
    """
    found = {term: case.locality[TERMS[term]][0] for term in terms if case.locality.get(TERMS[term])}
    if terms and not found:
        raise InputError(
            f"adversarial: the edit '{case.id}' has none of the cells {', '.join(cells_of(terms))}; wrap it with "
            "vledit.data.devqa.DevQA first."
        )
    return found


@dataclass(frozen=True)
class AdversarialProbes:
    """The probes of one edit, with the frozen part of the model run once.

    Attributes:
        terms: of each row.
        trunk: prompt and the base's own greedy answer (or the answer that is forced) behind it, a row for each probe.
        base: (n, V) float32 log-probabilities of the base where these answers' tokens are predicted.
    """

    terms: tuple[str, ...]
    trunk: Trunk
    base: Tensor

    @classmethod
    def of(cls, vlm: VLM, planned: Mapping[str, Probe], layer: int, forced: str = "") -> AdversarialProbes:
        """Asks the base, and runs what it says through the trunk up to decoder layer `layer`.

        The tokens that it generates are forced as they are, at most `LONGEST`.

        Args:
            forced: this answer is put behind every probe in place of the base's own.  With the edit's new answer, the
                divergence also counts behind its first token, as `mend_adv` trains.

        Raises: InputError where nothing is planned.
        """
        if not planned:
            raise InputError("adversarial: no probe is planned.")
        questions = [probe.question for probe in planned.values()]
        pictures = [vlm.read_pictures(probe.image, probe.question) for probe in planned.values()]
        prompts = [vlm._prompter.prompt(q, p.placeholders) for q, p in zip(questions, pictures, strict=True)]
        if forced:
            suffixes = [vlm._prompter.answer(prompt, forced) for prompt in prompts]
        else:
            with vlm.lock, torch.inference_mode():
                inputs = vlm.language_inputs(vlm.assemble(prompts, [[]] * len(prompts), pictures))
                said = generation.greedy(vlm.anatomy.causal, inputs, vlm._prompter, LONGEST)
            ends, padding = vlm._prompter.end_ids, generation.pad_id(vlm.tokenizer, vlm._prompter.end_ids)
            suffixes = [_to_the_end(row, ends, padding) for row in said]
        encoded = vlm.assemble(prompts, suffixes, pictures)
        trunk = vlm.trunk(encoded, layer)
        with torch.inference_mode(False), torch.no_grad():
            base = vlm.head(trunk, positions=encoded.predict_mask).float().log_softmax(-1)
        return cls(tuple(planned), trunk, base)

    @property
    def positions(self) -> Tensor:
        """(B, T) bool: where the answers' tokens are predicted."""
        return self.trunk.encoded.predict_mask

    def divergences(self, logits: Tensor) -> dict[str, Tensor]:
        """`logits` (n, V) of the edited model at `positions`, row after row → term → KL(base ‖ edited)."""
        return divergences(self.base, logits, self.trunk.encoded.target_rows, self.terms)


def divergences(base: Tensor, logits: Tensor, owners: Tensor, terms: Sequence[str]) -> dict[str, Tensor]:
    """Term → KL(base ‖ edited) in nats, mean over the positions of its probe, over the whole vocabulary.

    Args:
        base: (n, V) log-probabilities of the base.
        logits: (n, V) logits of the edited model; gradients flow into these.
        owners: (n,) int64, the probe of each position; terms: of each probe.

    Raises: InputError where base and edited model were not asked at the same positions.
    """
    if base.shape != logits.shape or len(owners) != len(base):
        raise InputError(
            f"adversarial: the base's {tuple(base.shape)} and the edited model's {tuple(logits.shape)} are not of the "
            f"same {len(owners)} positions."
        )
    return {term: kl_from_base(base[owners == row], logits[owners == row]) for row, term in enumerate(terms)}


def total_loss(
    edit: Tensor, locality: Tensor | None, adversarial: Mapping[str, Tensor], weights: Weights = Weights()
) -> Tensor:
    """λ1 · edit + λ2 · locality + λ3 · Σ of the adversarial terms (Eq. 10).

    Args:
        edit: negative log-likelihood of the new answer. locality: the editor's own locality loss; None where it has none.
    """
    loss = weights.edit * edit
    if locality is not None:
        loss = loss + weights.locality * locality
    for term in adversarial.values():
        loss = loss + weights.adversarial * term
    return loss


def _to_the_end(row: Sequence[int], ends: Sequence[int], padding: int) -> list[int]:
    """Generated tokens up to the end of the answer, itself included; what follows is padding."""
    for place, token in enumerate(row):
        if token in ends:
            return list(row[: place + 1])
        if token == padding and place:  # the answer's end was told by its text
            return list(row[:place])
    return list(row)
