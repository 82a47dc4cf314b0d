"""Edits that are begun and trained together are those that are made one by one, up to rounding."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.editors.fitting import FittingConfig
from vledit.editors.fitting_together import train_together
from vledit.editors.registry import editor
from vledit.editors.scoping import Scoping
from vledit.errors import EditFailedError, InputError
from vledit.vlm.hooks import layer_hidden

FIT = {"steps": 200, "margin": 1.0, "common_directions": 4, "rephrase": "supplied"}
WAYS = {
    "full": {**FIT, "learning_rate": 0.05},
    "span": {**FIT, "transformation": "span", "learning_rate": 1.0},
    "lower site": {**FIT, "learning_rate": 0.05, "site": "0.mlp.out"},
    "paper": {**FIT, "learning_rate": 0.05, "scope": "paper"},
    "whole prompt and answer": {**FIT, "learning_rate": 0.05, "key_tokens": "prompt+answer"},
}
REQUESTS = [
    EditRequest(picture(1), QUESTIONS[0], "two cups", ("What can be seen?",)),
    EditRequest(picture(2), QUESTIONS[1], "tea", ("Say it.",)),
    EditRequest(None, QUESTIONS[2], "a red bus", ("Tell it.",)),
    EditRequest(picture(1), QUESTIONS[1], "five", ("Say it all.",)),
    EditRequest(picture(3), QUESTIONS[0], "a cat", ("What is to be seen?",)),
]


def close(mine, theirs, scale: float = 2e-3) -> None:
    assert mine.entry.question == theirs.entry.question
    assert mine.report.steps == theirs.report.steps
    assert mine.report.margin == pytest.approx(theirs.report.margin, abs=2e-2)
    for own, other in zip(mine.entry.scopes, theirs.entry.scopes, strict=True):
        assert torch.allclose(torch.tensor(own.key), torch.tensor(other.key), atol=1e-4)
        assert own.radius == pytest.approx(other.radius, rel=1e-3)
    for name, tensor in theirs.entry.transformation.tensors().items():
        found = mine.entry.transformation.tensors()[name]
        assert float((found - tensor).norm()) <= scale * max(1.0, float(tensor.norm())), name


@pytest.mark.parametrize(
    ("family", "way"), [*(("pocket", way) for way in WAYS), ("blip2", "span"), ("qwen2_vl", "full")]
)
def test_edits_made_together_are_those_made_one_by_one(family, way):
    vlm, settings = tiny(family), WAYS[way]
    alone = [EditedModel(vlm).edit(request, **settings) for request in REQUESTS]
    model = EditedModel(vlm)
    together = model.edit(REQUESTS, **settings)
    for mine, theirs in zip(together, alone, strict=True):
        close(mine, theirs)
    assert len(model.codebook) == len(REQUESTS)
    for request, edit in zip(REQUESTS, together, strict=True):
        assert edit.report.trained
        assert model.answer(request.image, request.question).text == request.answer


def test_each_edit_stops_by_itself():
    """Different numbers of steps, as by themselves, and some stop long before the others."""
    vlm = tiny("pocket")
    settings = {**WAYS["full"], "learning_rate": 0.02}
    together = EditedModel(vlm).edit(REQUESTS, **settings)
    steps = [edit.report.steps for edit in together]
    assert steps == [EditedModel(vlm).edit(request, **settings).report.steps for request in REQUESTS]
    assert len(set(steps)) > 1


def test_what_hangs_on_earlier_edits_is_decided_in_their_order():
    vlm, settings = tiny("pocket"), WAYS["span"]
    again = replace(REQUESTS[0], answer="tea")
    model = EditedModel(vlm)
    first, second, third = model.edit([REQUESTS[0], again, again], **settings)
    assert second.relation.retires == (first.id,)
    assert third.relation.kind == "same"
    assert third.id == second.id
    assert [entry.answer for entry in model.codebook] == ["tea"]


def test_one_that_fails_stops_the_list_there_and_spoils_no_other():
    vlm, settings = tiny("pocket"), {**WAYS["full"], "steps": 200}
    model = EditedModel(vlm)
    unfit = EditRequest(picture(4), QUESTIONS[0], "")
    with pytest.raises(InputError, match="answer"):
        model.edit([REQUESTS[0], unfit, REQUESTS[1]], **settings)
    assert [entry.answer for entry in model.codebook] == ["two cups"]
    begun = editor("balancedit", **settings).begin(vlm, [REQUESTS[0], unfit, REQUESTS[1]])
    assert [one.error is None for one in begun] == [True, False, True]
    with pytest.raises(EditFailedError, match="does not answer"):
        EditedModel(vlm).edit(REQUESTS[:2], **{**settings, "steps": 1, "learning_rate": 1e-6})


def test_edits_that_start_from_earlier_ones_are_made_one_by_one():
    method = editor("balancedit", **WAYS["full"], start="nearest")
    assert method.begin(tiny("pocket"), REQUESTS) == [None] * len(REQUESTS)


@pytest.mark.parametrize("requests", [REQUESTS[:1], REQUESTS[:4]], ids=["alone", "together"])
@pytest.mark.parametrize("way", ["paper", "whole prompt and answer"])
def test_the_layer_of_the_site_runs_once_for_each_row(way, requests, monkeypatch):
    """One row for the edit with its answer, which gives its key and is trained on, and those that its radius is told by."""
    vlm, rows, told = tiny("pocket"), [], []
    told_by = Scoping._rows
    monkeypatch.setattr(Scoping, "_rows", lambda *given: told.append(told_by(*given)) or told[-1])
    settings = {**WAYS[way], "steps": 1, "learning_rate": 1e-6}
    attention = vlm.layers[vlm.resolve_site(vlm.default_site).layer].get_submodule("self_attn")
    handle = attention.register_forward_pre_hook(
        lambda _module, args, kwargs: rows.append(len(layer_hidden(args, kwargs))), with_kwargs=True
    )
    try:
        with pytest.raises(EditFailedError, match="after 1 steps"):
            EditedModel(vlm).edit(list(requests), **settings)
    finally:
        handle.remove()
    assert len(told) == len(requests)
    assert sum(rows) == len(requests) + sum(map(len, told))


def test_training_goes_on_from_the_run_that_the_key_was_read_from():
    """What the tail hands out is what `site_input` gives, bit for bit."""
    vlm = tiny("pocket")
    site = vlm.resolve_site(vlm.default_site)
    trunk = vlm.trunk(vlm.encode([picture(1)], [QUESTIONS[0]], ["two cups"]), site.layer)
    seen = []
    tail = vlm.site_tail(trunk, site, seen.append)
    assert torch.equal(seen[0], vlm.site_input(trunk, site))
    assert torch.equal(tail.inputs, seen[0][tail.positions])


class Counted(TorchDispatchMode):
    """Counts the operations that torch runs."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["full", "span"])
def test_a_step_takes_as_many_operations_for_many_edits_as_for_two(kind):
    vlm = tiny("pocket")
    site = vlm.resolve_site(vlm.default_site)

    def operations(edits: int, steps: int) -> int:
        trunk = vlm.trunk(vlm.encode([picture(1)] * edits, [QUESTIONS[0]] * edits, ["two cups"] * edits), site.layer)
        config = FittingConfig(transformation=kind, steps=steps, learning_rate=1e-6, margin=1e6, common_directions=4)
        with Counted() as counted:
            fitted = train_together(vlm, trunk, site, config)
        assert [one.steps for one in fitted] == [steps] * edits
        return counted.count

    two, eight = (operations(edits, 12) - operations(edits, 2) for edits in (2, 8))
    assert two == eight > 0


@pytest.mark.parametrize("kind", ["full", "span"])
def test_fine_tunes_of_the_base_that_are_trained_together_are_those_made_one_by_one(kind, monkeypatch):
    """Each by itself; one that follows another starts from it and takes nothing from what was begun."""
    vlm, settings = tiny("pocket"), {name: one for name, one in WAYS[kind].items() if name != "rephrase"}
    method = editor("ft", **settings)
    unfit = EditRequest(picture(4), QUESTIONS[0], "")
    begun = method.begin_apart(vlm, [*REQUESTS, unfit])
    assert begun[-1] is None
    alone = [method.edit(vlm, request) for request in REQUESTS]
    after = method.edit(vlm, REQUESTS[1], start=alone[0].weights)
    with monkeypatch.context() as patched:
        patched.setattr("vledit.editors.ft.train_site", None)  # nothing is trained any more
        together = [method.edit(vlm, request, begun=one) for request, one in zip(REQUESTS, begun, strict=False)]
    for mine, theirs in zip(together, alone, strict=True):
        assert mine.report.steps == theirs.report.steps
        assert mine.report.margin == pytest.approx(theirs.report.margin, abs=2e-2)
        for site, change in theirs.weights.items():
            for name, tensor in change.tensors().items():
                found = mine.weights[site].tensors()[name]
                assert float((found - tensor).norm()) <= 2e-3 * max(1.0, float(tensor.norm())), name
    again = method.edit(vlm, REQUESTS[1], start=alone[0].weights, begun=begun[1])
    for site, change in after.weights.items():
        for name, tensor in change.tensors().items():
            assert torch.equal(again.weights[site].tensors()[name], tensor)
    few = editor("ft", **{**settings, "steps": 1, "learning_rate": 1e-9})
    untaught = few.begin_apart(vlm, REQUESTS)[0]
    with pytest.raises(EditFailedError, match="after 1 steps"):
        few.edit(vlm, REQUESTS[0], begun=untaught)
