"""`attached` beyond one request at a time: beams, batches, no cache, pipelines, keys of the question, several kinds of edits.

That every editor in every family answers attached as it does in `EditedModel.answers` is in the contract suite
(`test_contract_attached`).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.contract.fitted import fitted
from tests.vlm.models import FAMILIES, QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.editors.registry import editor
from vledit.errors import InputError
from vledit.vlm.asked import asked

REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups", ("What can be seen?",))
OTHER = EditRequest(picture(2), QUESTIONS[1], "a tree", ("Which one is it?",))
ROWS = [(picture(1), QUESTIONS[0]), (picture(9), QUESTIONS[1])]
OPTIONS = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "transformation": "full"}
GATED = {**OPTIONS, "rephrase": "supplied", "alpha": 1.0}


def hooks(vlm):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules())


def inputs(vlm, rows):
    encoded = vlm.encode(*map(list, zip(*rows, strict=True)))
    return {name: value for name, value in encoded.model_inputs.items() if name != "position_ids"}


def said(vlm, hf_model, rows, **settings):
    given = inputs(vlm, rows)
    ends = {"eos_token_id": vlm._prompter.end_ids, "pad_token_id": vlm._prompter.end_ids[0]}
    with torch.inference_mode():
        ids = hf_model.generate(**given, do_sample=False, max_new_tokens=5, **ends, **settings)
    return [vlm._prompter.text(row) for row in ids[:, given["input_ids"].shape[1] :].tolist()]


@pytest.fixture(params=["llava", "blip2", "minigpt4", "instructblip", "pocket"])
def edited(request):
    """A model with one gated edit that fires on the first of `ROWS` and not on the second."""
    model = EditedModel(tiny(request.param))
    model.edit(REQUEST, **GATED)
    return model


def test_a_batch_is_decided_row_by_row(edited):
    expected = [answer.text for answer in edited.answers(*map(list, zip(*ROWS, strict=True)), 5)]
    assert expected[0] == REQUEST.answer
    with edited.attached() as hf_model:
        assert said(edited.vlm, hf_model, ROWS) == expected
        assert said(edited.vlm, hf_model, ROWS[::-1]) == expected[::-1]


def test_beams_and_decoding_without_a_cache(edited):
    """Without a cache transformers' own classes of BLIP-2 and its kin lose the picture after the first token."""
    vlm = edited.vlm
    text = edited.answer(*ROWS[0], 5).text
    ends = {"eos_token_id": vlm._prompter.end_ids, "pad_token_id": vlm._prompter.end_ids[0]}
    settings = {"num_beams": 2, "do_sample": False, "max_new_tokens": 4, **ends}
    images, questions = map(list, zip(*ROWS, strict=True))
    length = inputs(vlm, ROWS)["input_ids"].shape[1]
    texts = lambda ids: [vlm._prompter.text(row) for row in ids[:, length:].tolist()]  # noqa: E731
    expected = texts(edited.generate(images, questions, **settings))
    base = texts(EditedModel(vlm).generate(images, questions, **settings))
    with edited.attached() as hf_model:
        beams = texts(hf_model.generate(**inputs(vlm, ROWS), **settings))
        uncached = said(vlm, hf_model, ROWS[:1], use_cache=False) if vlm.family.name in ("llava", "pocket") else [text]
    assert beams == expected != base
    assert uncached == [text]


def test_a_plain_call_shows_the_edits(edited):
    """Logits of one forward pass, with padding on the right as trainers and harnesses have it."""
    vlm = edited.vlm
    given = inputs(vlm, ROWS[:1])
    with edited.attached() as hf_model, torch.inference_mode():
        logits = hf_model(**given).logits[0, -1]
        pad = lambda tensor: torch.nn.functional.pad(tensor, (0, 2))  # noqa: E731
        wide = {name: pad(value) if value.shape == given["input_ids"].shape else value for name, value in given.items()}
        padded = hf_model(**wide).logits[0, -3]
    base = vlm.model(**given).logits[0, -1]
    torch.testing.assert_close(padded, logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits, base, atol=1e-2)


def test_what_cannot_be_attached_says_so():
    model = EditedModel(tiny("blip2"))
    model.edit(REQUEST, "ike")
    with (
        pytest.raises(InputError, match="'ike' cannot work so: its edits put something into the prompt"),
        model.attached(),
    ):
        pass
    model = EditedModel(tiny("llava"))
    model.edit(REQUEST, **GATED)
    model.edit(OTHER, "ft_v", steps=20, learning_rate=0.05, unlearnt="keep")
    before = hooks(model.vlm)
    with pytest.raises(InputError, match=r"'ft_v'.* beside edits that act on some requests"), model.attached():
        pass
    assert hooks(model.vlm) == before


def test_embeddings_whose_ids_nobody_knows_are_refused():
    model = EditedModel(tiny("llava"))
    model.edit(REQUEST, **GATED)
    before = hooks(model.vlm)
    with model.attached() as hf_model, pytest.raises(InputError, match="called with embeddings"):
        hf_model.generate(inputs_embeds=torch.zeros(1, 4, 32), max_new_tokens=2)
    assert hooks(model.vlm) == before


@pytest.mark.parametrize("family", ["llava", "blip2", "pocket"])
def test_always_on_edits_stand_beside_gated_ones(family):
    """The base reads the prompt once more to decide: where a gated edit fires, the always-on ones do not act."""
    model = EditedModel(tiny(family))
    model.edit(REQUEST, **GATED)
    model.edit(OTHER, "ft", **{**OPTIONS, "site": "1.mlp.out"})
    rows = [ROWS[0], (OTHER.image, QUESTIONS[2])]
    expected = [model.answer(*row, 5).text for row in rows]
    assert expected[0] == REQUEST.answer
    assert expected[1] != EditedModel(model.vlm).answer(*rows[1], 5).text
    assert [answer.decision.fired for answer in model.answers(*map(list, zip(*rows, strict=True)), 5)] == [True, False]
    with model.attached() as hf_model:
        assert [said(model.vlm, hf_model, [row])[0] for row in rows] == expected
        assert said(model.vlm, hf_model, rows) == expected


@pytest.mark.parametrize("family", ["llava", "blip2", "pocket", "qwen2_5_vl"])
@pytest.mark.parametrize("site", ["other site", "question alone"])
def test_keys_that_one_pass_cannot_give_are_read_beforehand(family, site):
    """At several sites, or of the question without its picture."""
    vlm = tiny(family)
    model = EditedModel(vlm)
    model.edit(REQUEST, **GATED)
    if site == "other site":
        model.edit(OTHER, **{**GATED, "site": "0.mlp"})
    else:
        (entry,) = model.codebook.active()
        model = EditedModel(vlm)
        question = vlm.encode([None], [REQUEST.question])
        key = vlm.site_input(vlm.trunk(question, vlm.n_layers - 1), entry.site)[question.prompt_mask].mean(0)
        second = replace(
            entry.scopes[0], name="question", key=key.numpy(), radius=1e-3, prompt="question", anchors=None
        )
        model.codebook.add(replace(entry, scopes=(entry.scopes[0], second)))
    rows = [*ROWS, (REQUEST.image, QUESTIONS[2])]
    answers = [model.answer(*row, 5) for row in rows]
    assert answers[0].decision.fired
    with model.attached() as hf_model:
        assert said(vlm, hf_model, ROWS[:1]) == [REQUEST.answer]
        assert [said(vlm, hf_model, [row])[0] for row in rows] == [answer.text for answer in answers]


def test_keys_of_the_questions_tokens():
    vlm = tiny("llava")
    model = EditedModel(vlm)
    model.edit(REQUEST, **{**GATED, "key_tokens": "question"})
    expected = [model.answer(*row, 5).text for row in ROWS]
    before = hooks(vlm)
    foreign = {"input_ids": vlm.tokenizer("what is this?", return_tensors="pt")["input_ids"]}
    with model.attached() as hf_model:
        assert [said(vlm, hf_model, [row])[0] for row in ROWS] == expected
        with pytest.raises(InputError, match=r"decides by the question, which cannot be found in the prompt .*LLaVA"):
            hf_model.generate(**foreign, max_new_tokens=2)
    assert hooks(vlm) == before


def test_liveedit_reads_question_and_picture():
    vlm = tiny("llava")
    small = {"steps": 10, "save_every": 100, "width": 16, "heads": 2, "queries": 2, "learning_rate": 0.01}
    folder = fitted(vlm, "liveedit", REQUEST, small)
    model = EditedModel(vlm)
    model.memories["liveedit"] = editor("liveedit", fitted=folder).memory(vlm)
    model.add(editor("liveedit", fitted=folder).edit(vlm, REQUEST))
    answers = [model.answer(*row, 5) for row in ROWS]
    assert answers[0].decision.fired
    with model.attached() as hf_model:
        assert [said(vlm, hf_model, [row])[0] for row in ROWS] == [answer.text for answer in answers]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_question_is_found_in_every_familys_prompt(family):
    vlm = tiny(family)
    encoded = vlm.encode([picture(1), None, picture(2)], list(QUESTIONS[:3]))
    for row, question in enumerate(QUESTIONS[:3]):
        found = asked(vlm, encoded.input_ids[row], encoded.prompt_mask[row])
        assert found.question == question
        assert torch.equal(found.mask, encoded.question_mask[row])


@pytest.mark.parametrize("family", ["llava", "blip2"])
def test_a_pipeline_shows_the_edits(family):
    from transformers import pipeline

    vlm = tiny(family)
    model = EditedModel(vlm)
    model.edit(REQUEST, **GATED)
    text = vlm.family.pieces((vlm.family.image_token,))
    prompt = text[0] + REQUEST.question + text[1]
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": vlm._prompter.end_ids}
    with model.attached() as hf_model:
        pipe = pipeline("image-text-to-text", model=hf_model, processor=vlm.processor)
        (found,) = pipe(images=REQUEST.image, text=prompt, return_full_text=False, generate_kwargs=settings)
    assert found["generated_text"].strip().endswith(REQUEST.answer)
    (base,) = pipe(images=REQUEST.image, text=prompt, return_full_text=False, generate_kwargs=settings)
    assert not base["generated_text"].strip().endswith(REQUEST.answer)
