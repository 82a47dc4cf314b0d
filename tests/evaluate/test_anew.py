"""Answers forced behind changed prompts, with shared parts run once: the same numbers as one row per answer."""

from __future__ import annotations

import pytest
import torch

from tests.vlm.models import tiny
from vledit.codebook import SpanTransformation
from vledit.editors.answering import forced_with
from vledit.editors.effect import Effect, Insert, decided
from vledit.evaluate.anew import Anew, shareable
from vledit.evaluate.asking import prepare
from vledit.evaluate.prepared import PreparedCase

from .small import case

FIRED = decided("e", "")


def change(vlm, point: str) -> SpanTransformation:
    out, width = vlm.site_shape(point)
    draw = torch.Generator().manual_seed(3)
    return SpanTransformation(torch.randn(out, 2, generator=draw), 0.3 * torch.randn(2, width, generator=draw))


def effects_of(vlm, prepared: PreparedCase) -> dict[int, Effect]:
    """Two texts before the question, changes from the lowest layer on, and another model, each for some rows."""
    lora = {point: change(vlm, point) for point in ("0.mlp.in", "-1.mlp.out")}
    texts = [Insert("Q: red? A: red. "), Insert("Say: ", " Answer in a word.")]
    kinds = [
        Effect(FIRED, insert=texts[0]),
        Effect(FIRED, lora, texts[0]),
        Effect(FIRED, lora),
        Effect(FIRED, responder=tiny("blip2")),
        Effect(FIRED, insert=texts[1]),
    ]
    return {row: kinds[row % len(kinds)] for row in range(len(prepared))}


def test_forced_answers_are_those_of_one_row_each(any_vlm):
    prepared = prepare(any_vlm, case())
    effects = effects_of(any_vlm, prepared)
    answers = {row: ["two cups", "a cat", "two cups"] for row in effects}
    prompt = lambda row: (prepared.picture(row), prepared.asked[row].probe.question)  # noqa: E731
    anew = Anew(any_vlm, effects, answers, prompt)
    seen = 0
    for text in ("two cups", "a cat"):
        rows = [row for row in effects if anew.holds(row, text)]
        for some, logits, encoded in anew.forced(rows, dict.fromkeys(rows, text)):
            for place, row in enumerate(some):
                picture, question = prompt(row)
                alone, _ = forced_with(any_vlm, [effects[row]], [picture], [question], [text])
                mine = logits[encoded.target_rows == place]
                assert torch.allclose(mine, alone, atol=2e-4, rtol=1e-4)
                seen += 1
    assert seen >= len(effects)  # of models whose prompts cannot share a row at least the responder's
    assert not anew.holds(0, "tea")


def told(scores) -> list[str]:
    """Comparable, though not a number is in it."""
    return [f"{row}: {score}" for row, score in sorted(scores.items())]


def test_scores_are_those_without_sharing(any_vlm, monkeypatch):
    prepared = prepare(any_vlm, case())
    effects = effects_of(any_vlm, prepared)
    rows, acting = list(effects), list(effects.values())
    locality = [row for row in rows if prepared.asked[row].is_locality]
    same = told(prepared.score_sames(locality, [effects[row] for row in locality]))
    new = told(prepared.score_targets(rows, acting))
    with prepared.expecting(rows, acting):
        monkeypatch.setattr("vledit.evaluate.prepared.forced_with", None if any_vlm.name == "pocket" else forced_with)
        assert told(prepared.score_sames(locality, [effects[row] for row in locality])) == same
        assert told(prepared.score_targets(rows, acting)) == new
    assert prepared._anew is None


@pytest.mark.parametrize("reason", ["soft", "vision", "last token"])
def test_what_does_not_act_on_every_token_alike_is_run_by_itself(vlm, reason):
    one = change(vlm, "-1.mlp.out")
    if reason == "last token":
        object.__setattr__(one, "tokens", "last_prompt")
    insert = Insert(soft=torch.zeros(1, 4)) if reason == "soft" else None
    point = "vision:x" if reason == "vision" else "-1.mlp.out"
    effect = Effect(FIRED, {} if reason == "soft" else {point: one}, insert)
    assert not shareable(effect)
    assert not Anew(vlm, {0: effect}, {0: ["tea"]}, lambda row: (None, "What is this?")).holds(0, "tea")
    assert shareable(Effect(FIRED, insert=Insert("a")))
