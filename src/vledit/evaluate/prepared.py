"""One case made ready for scoring: base answers first, then the trunk of every probe, run once and shared by all editors.

Everything below the edited site is frozen, so these are the same for every edit.  The prompt's part of a teacher-forced trunk
is that of the prompt alone (attention is causal), so keys are read from it over the prompt's tokens only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..data.case import EditCase, EditRequest, Probe
from ..editors.balancedit import pool
from ..vlm.base import VLM, Site, Trunk, Verified
from ..vlm.pictures import open_picture

RELIABILITY = "reliability"


@dataclass
class Asked:
    """One probe with its place in the case."""

    family: str
    cell: str
    index: int
    probe: Probe
    target: str
    base_answer: str = ""


@dataclass
class PreparedCase:
    """A case with base answers and trunks.

    Args:
        asked: the edit itself (family "reliability") and all probes.
        targets: trunk of prompt + the answer that generality asks for, one row per probe.
        sames: trunk of prompt + the base's own answer.
        keys: key tokens → (B, in) keys.
    """

    case: EditCase
    site: Site
    asked: list[Asked]
    targets: Trunk
    sames: Trunk
    base: Verified
    keys: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def request(self) -> EditRequest:
        """The request with its picture opened."""
        request = self.case.request
        image = None if request.image is None else open_picture(request.image)
        return EditRequest(image, request.question, request.answer, request.rephrases, request.id)


def prepare(
    vlm: VLM, case: EditCase, site: Site, key_tokens: tuple[str, ...] = ("mean",), batch_size: int = 64
) -> PreparedCase:
    """Base answers (greedy) of all probes, then both trunks.  The model must be the base: nothing may act on it."""
    answer = case.request.answer
    asked = [Asked(RELIABILITY, "edit", 0, Probe(case.request.image, case.request.question), answer)]
    for family, cell, index, probe in case.probes():
        target = probe.answer if family == "portability" and probe.answer else answer
        asked.append(Asked(family, cell, index, probe, target))
    pictures = [None if one.probe.image is None else open_picture(one.probe.image) for one in asked]
    questions = [one.probe.question for one in asked]
    answers: list[str] = []
    for start in range(0, len(asked), batch_size):
        part = slice(start, start + batch_size)
        answers += vlm.answer(pictures[part], questions[part], max_new_tokens=16)
    for one, text in zip(asked, answers, strict=True):
        one.base_answer = text
    targets = vlm.trunk(vlm.encode(pictures, questions, [one.target for one in asked]), site.layer)
    # an empty answer cannot be forced; its row stands for the target instead and is never `same` unless it does not fire
    sames = vlm.trunk(vlm.encode(pictures, questions, [one.base_answer or one.target for one in asked]), site.layer)
    inputs = vlm.site_input(targets, site)
    keys = {tokens: pool(inputs, targets.encoded, tokens) for tokens in key_tokens}
    return PreparedCase(case, site, asked, targets, sames, vlm.verify(targets, site), keys)


def score(vlm: VLM, trunk: Trunk, site: Site, change: object, rows: list[int]) -> tuple[Tensor, Tensor]:
    """(exact, token) of the rows with the change acting, each (len(rows),)."""
    if not rows:
        return torch.zeros(0, dtype=torch.bool), torch.zeros(0)
    verified = vlm.verify(trunk.select(rows), site, change)  # type: ignore[arg-type]
    return verified.exact, verified.token
