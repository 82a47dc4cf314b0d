"""Edits of `icons` in sequence: nobody is asked to keep what another edit of the sequence changes.

A probe that asks for a fact which is edited in the sequence, with the picture or in words alone, is left out. Where too few
neighbours and unrelated pictures are left, more are drawn from the concepts of the train split, which neither validation nor
test scores otherwise; their tag "from" says "train".
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from vledit.data.case import EditCase, Probe
from vledit.data.icons import probes
from vledit.data.icons.kinds import same_fact
from vledit.data.icons.pictures import IconPicture
from vledit.data.icons.splits import EditSplit


def in_sequence(cases: Sequence[EditCase]) -> list[EditCase]:
    """Return the cases with what the others of them change neither asked for nor missed."""
    edited = {same_fact(case.tags["fact"]) for case in cases}
    return [_spared(case, edited) for case in cases]


def _spared(case: EditCase, edited: set[str]) -> EditCase:
    def kept(some: Sequence[Probe]) -> tuple[Probe, ...]:
        return tuple(probe for probe in some if same_fact(probe.tags.get("fact", "")) not in edited)

    locality = {cell: kept(some) for cell, some in case.locality.items()}
    picture = case.request.image
    if isinstance(picture, IconPicture):
        for cell, spare in (("near_image", _neighbours(case, picture)), ("random_image", _unrelated(case, picture))):
            there = len(case.locality.get(cell, ()))
            locality[cell] = (*locality.get(cell, ()), *kept(spare))[
                :there
            ]  # edits of the train split may be among them
    return replace(case, locality=locality)


def _neighbours(case: EditCase, picture: IconPicture) -> tuple[Probe, ...]:
    data = picture.data
    concept = data.concepts[case.tags["concept"]]
    draw = random.Random(f"sequence/near/{case.id}")
    split = cast("EditSplit", case.tags["split"])
    kind, request = case.tags["kind"], case.request
    others = probes.within(data, concept.domain, "train")
    known = kind in concept.facts
    found = probes.neighbours(data, concept, kind, request.question, request.answer, split, draw, others, answers=known)
    return _from_train(found)


def _unrelated(case: EditCase, picture: IconPicture) -> tuple[Probe, ...]:
    draw = random.Random(f"sequence/random/{case.id}")
    data, split = picture.data, cast("EditSplit", case.tags["split"])
    return _from_train(probes.unrelated(data, data.concepts[case.tags["concept"]], split, draw, ("train",)))


def _from_train(found: Sequence[Probe]) -> tuple[Probe, ...]:
    return tuple(replace(one, id=f"{one.id}/train", tags={**one.tags, "from": "train"}) for one in found)
