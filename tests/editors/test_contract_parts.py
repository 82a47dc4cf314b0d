"""The parts of the contract, each against a slow reference: points, token scopes, embeddings in prompts, memories, attaching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.codebook import FullTransformation
from vledit.data.case import EditRequest
from vledit.editors.base import Edit, EditReport, Payload
from vledit.editors.edited_model import EditedModel
from vledit.editors.effect import Effect, Insert, decided
from vledit.editors.memory import Memory
from vledit.errors import CodebookError, InputError, ModelMismatchError
from vledit.vlm.acting import FROM_LAST, LAST, VISION, Read, acting, last_columns

REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups", ("What can be seen?",))
ROWS = ([picture(1), picture(9), None], list(QUESTIONS[:3]))
OPTIONS = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "rephrase": "supplied", "transformation": "full"}
FAMILIES = ("pocket", "blip2", "qwen2_5_vl", "llava")


@pytest.fixture(params=FAMILIES)
def vlm(request):
    return tiny(request.param)


class Put:
    """Puts a fixed vector in the place of the output."""

    def __init__(self, value: torch.Tensor, tokens: str = "all"):
        self.value, self.tokens = value, tokens

    def apply(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.value.to(y).expand_as(y)


def base_logits(vlm, images, questions, answers):
    encoded = vlm.encode(images, questions, answers)
    return vlm.head(vlm.trunk(encoded, 0)), encoded


def reference(vlm, encoded, row, change, site):
    """Layer by layer on one row alone, the site's output replaced by hand where the change says so."""
    alone = encoded.select([row])
    trunk = vlm.trunk(alone, 0)
    last = int(last_columns(alone)[0])
    module = vlm.site_module(site)

    def by_hand(_module, _args, output):
        shaped = output.reshape(1, alone.prompt_mask.shape[1], -1).clone()
        if change.tokens == LAST:
            shaped[:, last] = change.value
        else:
            shaped[:, last if change.tokens == FROM_LAST else 0 :] = change.value
        return shaped.reshape(output.shape)

    handle = module.register_forward_hook(by_hand)
    try:
        return vlm.head(trunk)[0]
    finally:
        handle.remove()


@pytest.mark.parametrize("tokens", ["all", FROM_LAST, LAST])
@pytest.mark.parametrize("role", ["mlp.out", "mlp", "layer"])
def test_a_change_acts_on_the_tokens_that_it_names_and_on_its_row_alone(vlm, tokens, role):
    site = vlm.resolve_site(f"0.{role}")
    out, _ = vlm.site_shape(site)
    change = Put(torch.linspace(-1, 1, out), tokens)
    base, encoded = base_logits(vlm, *ROWS, ["a cat", "tea", "a cat"])
    trunk = vlm.trunk(encoded, 0)
    with torch.no_grad(), acting(vlm, [None, {str(site): change}, None], encoded):
        found = vlm.head(trunk)
    real = encoded.attention_mask.bool()
    assert torch.equal(found[0], base[0])
    assert torch.equal(found[2], base[2])
    expected = reference(vlm, encoded, 1, change, site)
    assert torch.allclose(found[1][real[1]], expected[real[1]], atol=1e-4)
    assert not torch.allclose(found[1][real[1]], base[1][real[1]], atol=1e-3)


def test_a_change_on_the_vision_side_moves_pictures_alone(vlm):
    path, linear = next(iter(vlm.vision_linears().items()))
    change = FullTransformation(torch.ones(linear.out_features, linear.in_features))
    rows = [{VISION + path: change}] * 3
    encoded = vlm.encode(*ROWS)
    before = vlm.trunk(encoded, 0).hidden
    with acting(vlm, rows, encoded):
        after = vlm.trunk(encoded, 0).hidden
    text = encoded.attention_mask.bool() & ~encoded.visual_mask
    assert torch.equal(before[text], after[text])
    assert not torch.equal(before[encoded.visual_mask], after[encoded.visual_mask])
    with pytest.raises(InputError, match="all rows"), acting(vlm, [rows[0], None, None], encoded):
        pass


def test_embeddings_in_a_prompt_are_what_words_would_be(vlm):
    """The embeddings of a word's own tokens in the place of the word: the same hidden states, padded or alone."""
    ids = vlm.tokenizer("two cups", add_special_tokens=False)["input_ids"]
    soft = vlm.model.get_input_embeddings().weight[torch.tensor(ids)].detach()
    encoded = vlm.encode(*ROWS, soft=[soft, None, soft])
    with acting(vlm, [None] * 3, encoded):
        found = vlm.trunk(encoded, 1).hidden
    words = vlm.encode(*ROWS, soft=[soft, None, soft])
    words.model_inputs["input_ids"] = words.input_ids.clone()
    words.model_inputs["input_ids"][words.soft_mask] = torch.tensor(ids * 2)
    words.soft = None
    assert torch.allclose(found, vlm.trunk(words, 1).hidden, atol=1e-5)
    assert int(encoded.soft_mask.sum()) == 2 * len(ids)
    alone = encoded.select([2])
    with acting(vlm, [None], alone):
        assert torch.allclose(vlm.trunk(alone, 1).hidden[0], found[2], atol=1e-5)


def test_generated_answers_see_embeddings_with_and_without_a_cache(vlm):
    soft = torch.randn(3, vlm.model.get_input_embeddings().weight.shape[1], generator=torch.Generator().manual_seed(0))
    encoded = vlm.encode(*ROWS, soft=[soft] * 3)
    with acting(vlm, [None] * 3, encoded):
        said = vlm.answer_encoded(encoded, 4)
    for row in range(3):
        one = vlm.encode([ROWS[0][row]], [ROWS[1][row]], soft=[soft])
        with acting(vlm, [None], one):
            assert vlm.answer_encoded(one, 4) == [said[row]]


class TextMemory(Memory):
    """Puts the fact before every question that shares its first word."""

    when = "request"

    def request_effects(self, images, questions):
        found: list[Effect | None] = []
        for question in questions:
            hit = next((one for one in self.active() if one.fact.question.split()[0] == question.split()[0]), None)
            insert = None if hit is None else Insert(before=f"{hit.fact.question} {hit.fact.answer}. ")
            reason = "It begins alike." if hit else "Nothing begins alike."
            found.append(Effect(decided(None if hit is None else hit.edit.id, reason), insert=insert))
        return found


class LastMemory(Memory):
    """Puts a vector where the last prompt token's input is nearest to the edit's and near enough."""

    when = "prefill"

    def reads(self):
        return (Read("0.mlp.out", lambda x, encoded: x[encoded.last_prompt_mask]),)

    def points(self):
        return ("0.mlp.out",)

    def prefill_effects(self, seen: Mapping[Any, torch.Tensor], rows: int):
        keys = torch.stack([one.payload.tensors["key"] for one in self.active()])
        distances = torch.cdist(seen["0.mlp.out", False, ""].float(), keys)
        found: list[Effect | None] = []
        for row in range(rows):
            nearest = int(distances[row].argmin())
            one = self.active()[nearest]
            if distances[row, nearest] <= 1e-3:
                put = Put(one.payload.tensors["value"], FROM_LAST)
                found.append(Effect(decided(one.edit.id, "It is the edit's own prompt."), {"0.mlp.out": put}))
            else:
                found.append(Effect(decided(None, "Too far.", one.edit.id)))
        return found


def edit_of(memory: Memory, request: EditRequest, id: str, seed: int = 0) -> Edit:
    vlm = memory.vlm
    out, _ = vlm.site_shape("0.mlp.out")
    encoded = vlm.encode([request.image], [request.question])
    key = vlm.site_input(vlm.trunk(encoded, 0), "0.mlp.out")[encoded.last_prompt_mask][0].float()
    value = 3 * torch.randn(out, generator=torch.Generator().manual_seed(seed))
    report = EditReport.of_nothing(0.0)
    return Edit(id, memory.editor, request, report, payload=Payload({"key": key, "value": value}, {"seed": seed}))


@pytest.fixture(params=[TextMemory, LastMemory])
def held(request, vlm):
    """An edited model whose one memory holds one edit."""
    memory = request.param(vlm, "own")
    model = EditedModel(vlm, memories={"own": memory})
    model.add(edit_of(memory, REQUEST, "one"))
    return model


def logits(model, image, question):
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    return torch.cat(model.generate([image], [question], output_logits=True, **options).logits)


def test_what_a_memory_decides_is_the_same_inside_the_pass_beforehand_and_when_forced(held):
    images, questions = ROWS
    answers = held.answers(images, questions, 4)
    assert [one.decision.fired for one in answers] == [one.fired for one in held.route(images, questions)]
    assert answers[0].decision.entry == "one"
    assert not answers[1].decision.fired or isinstance(held.memories["own"], TextMemory)
    base = EditedModel(held.vlm).answers(images, questions, 4)
    for row, answer in enumerate(answers):
        assert held.answers([images[row]], [questions[row]], 4)[0].text == answer.text
        if not answer.decision.fired:
            assert answer.text == base[row].text
    assert not torch.equal(
        logits(held, images[0], questions[0]), logits(EditedModel(held.vlm), images[0], questions[0])
    )
    texts = [one.text or "tea" for one in held.answers(images, questions, 4)]
    chunks = held.generate([images[0]], [questions[0]], max_new_tokens=4, do_sample=False, prefill_chunk_size=5)
    if not isinstance(held.memories["own"], TextMemory):
        whole = held.generate([images[0]], [questions[0]], max_new_tokens=4, do_sample=False)
        assert torch.equal(chunks, whole)
    verified = held.verify(images, questions, texts)
    assert len(verified.exact) == 3


def test_memories_keep_retire_remove_restore_and_come_back(held, tmp_path, monkeypatch):
    memory = held.memories["own"]
    before = logits(held, REQUEST.image, REQUEST.question)
    again = held.add(edit_of(memory, REQUEST, "again"))
    assert again.relation is not None
    assert again.relation.kind == "same"
    second = held.add(edit_of(memory, replace(REQUEST, answer="the beach"), "two", seed=5))
    assert second.relation is not None
    assert second.relation.retires == ("one",)
    with pytest.raises(InputError, match="already"):
        held.add(edit_of(memory, replace(REQUEST, answer="other"), "two"))
    held.remove("two")
    assert torch.equal(logits(held, REQUEST.image, REQUEST.question), before)
    held.restore("two")
    assert memory.get("one").status == "retired"
    held.save_pretrained(tmp_path)
    loaded = type(memory)(held.vlm, "own")
    loaded.load(tmp_path / "memories" / "own")
    model = EditedModel(held.vlm, memories={"own": loaded})
    assert torch.equal(logits(model, REQUEST.image, REQUEST.question), logits(held, REQUEST.image, REQUEST.question))
    assert {id: one.status for id, one in loaded.kept.items()} == {"one": "retired", "two": "active"}
    held.purge("two")
    assert torch.equal(logits(held, REQUEST.image, REQUEST.question), before)
    with held.disable():
        base = logits(held, REQUEST.image, REQUEST.question)
    assert torch.equal(base, logits(EditedModel(held.vlm), REQUEST.image, REQUEST.question))
    data = (tmp_path / "memories" / "own" / "memory.safetensors").read_bytes()
    (tmp_path / "memories" / "own" / "memory.safetensors").write_bytes(data[:-1] + b"\x01")
    with pytest.raises(CodebookError, match="damaged"):
        loaded.load(tmp_path / "memories" / "own")
    other = type(memory)(tiny("internvl"), "own")
    with pytest.raises(ModelMismatchError):
        other.load(tmp_path / "memories" / "own")


def test_several_requests_are_several_edits():
    model = EditedModel(tiny("pocket"))
    made = model.edit([REQUEST, EditRequest(None, QUESTIONS[1], "tea", ("Say it.",))], **OPTIONS)
    assert [one.request.answer for one in made] == ["two cups", "tea"]
    assert model.edits() == [one.id for one in made]


def test_many_low_rank_changes_at_once_are_what_each_gives_alone(vlm):
    """One batched product for all rows, of different ranks, with a row on which nothing acts and beams."""
    from vledit.codebook import SpanTransformation
    from vledit.vlm.acting import change_rows

    out, width = vlm.site_shape("0.mlp.out")
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    changes = [SpanTransformation(draw(out, rank), draw(rank, width)) for rank in (1, 3, 2, 4, 1)]
    rows = [None, *({"0.mlp.out": change} for change in changes), {"0.mlp.out": changes[0]}]
    x, y = draw(14, 3, width), draw(14, 3, out)
    last = torch.zeros(7, dtype=torch.long)
    found = change_rows(rows, "0.mlp.out", x, y, last, 0)
    for row in range(7):
        for beam in (2 * row, 2 * row + 1):
            alone = change_rows([rows[row]], "0.mlp.out", x[[beam]], y[[beam]], last[:1], 0)
            assert torch.allclose(found[[beam]], alone, atol=1e-4)
    assert torch.equal(found[:2], y[:2])
