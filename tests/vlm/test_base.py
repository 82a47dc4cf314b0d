"""Encoding, and trunk + head against the whole model run by transformers itself."""

from __future__ import annotations

import re
import threading
from copy import deepcopy

import pytest
import torch

from vledit.errors import InputError, PictureError
from vledit.vlm import Site, transformed

from . import more_models
from .models import ANSWERS, QUESTIONS, Full, build, picture, tiny

IMAGES = [picture(0), picture(1), picture(2)]
MIXED = [picture(0), None, picture(2)]
SHAPES = [picture(0, (48, 20)), None, picture(2, (20, 48))]
SEVERAL = [[picture(0), picture(1, (48, 20))], None, picture(2)]
VISUAL = {
    "blip2": 4, "minigpt4": 4, "pocket": 4,
    "qwen2_vl": 16, "qwen2_5_vl": 16, "qwen3_vl": 16,
    "llava": 16, "llava_next": 16 + 4 * 4 + 4, "llava_onevision": 16 + 4 * 4 + 4,
    "instructblip": 4, "idefics3": 20, "smolvlm": 20, "internvl": 4, "gemma3": 4, "paligemma": 4,
}  # fmt: skip
"""Visual tokens of a square picture of 32 pixels; with "anyres" the whole, its tile, and a line's end after each row."""


def in_double(vlm):
    """A model of the same kind in float64.

    Kernels sum in another order for other shapes of a batch; in float64 that stays below the bound on every machine.
    """
    other = build(vlm.name.removeprefix("tiny-"))
    other.model.double()
    return other


def whole(vlm, encoded):
    """The logits (B, T, V) that transformers computes, without any of our code."""
    with torch.no_grad():
        if bool(encoded.has_image.any()) or vlm.anatomy.causal is vlm.model:
            return vlm.model(**encoded.model_inputs).logits
        return vlm.model.language_model(**encoded.model_inputs).logits


def with_weights(vlm, site, change):
    """A copy whose weights really are changed at the site."""
    other = deepcopy(vlm.model)
    copy = type(vlm)(other, vlm.processor, vlm.family)
    linear = copy.site_module(site)
    if linear.bias is None:
        linear.bias = torch.nn.Parameter(linear.weight.new_zeros(linear.out_features), requires_grad=False)
    with torch.no_grad():
        linear.weight += change.weight
        linear.bias += change.bias
    return copy


def close(a, b):
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)
    assert torch.equal(a.argmax(-1), b.argmax(-1))


class TestEncode:
    def test_masks_part_the_batch(self, vlm):
        encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
        real = encoded.attention_mask.bool()
        assert torch.equal(encoded.prompt_mask | encoded.answer_mask, real)
        assert not (encoded.prompt_mask & encoded.answer_mask).any()
        assert encoded.visual_mask.sum(1).tolist() == [VISUAL[vlm.family.name], 0, VISUAL[vlm.family.name]]
        assert encoded.has_image.tolist() == [True, False, True]
        assert not (encoded.question_mask & ~encoded.prompt_mask).any()
        assert bool(real[:, -1].all()), "left padding"

    def test_question_mask_covers_the_question_text(self, vlm):
        encoded = vlm.encode(MIXED, QUESTIONS)
        for row, question in enumerate(QUESTIONS):
            assert question in vlm.tokenizer.decode(encoded.input_ids[row][encoded.question_mask[row]])

    def test_answers_are_tokenised_in_context_and_end(self, vlm):
        for question, answer in zip(QUESTIONS, ["Lima", "New York", "a golden retriever, of course"], strict=True):
            prompt, tokens = vlm.prompt(question), vlm.answer_tokens(question, answer)
            text = vlm.tokenizer.decode(prompt.ids + tokens)
            end = vlm.family.end_of_answer or vlm.family.end_token or vlm.tokenizer.eos_token
            assert text.endswith(prompt.text[-8:] + vlm.family.answer_prefix + answer + end)
            assert len(tokens) > 1

    def test_ids_are_those_of_the_processor(self, vlm):
        """Our own placement of the placeholders, against the family's processor in transformers."""
        if vlm.family.name in more_models.FAMILIES:
            pytest.skip("in test_more_families: their processors take pictures in ways of their own")
        for image in (IMAGES[0], SHAPES[0], SEVERAL[0]):
            pictures = image if isinstance(image, list) else [image]
            encoded = vlm.encode([image], QUESTIONS[:1])
            if vlm.family.name == "minigpt4":  # Blip2Processor can only put the picture first
                assert vlm.tokenizer.decode(encoded.input_ids[0]).count("<image>") == 4 * len(pictures)
                continue
            if vlm.family.name == "blip2" and len(pictures) > 1:
                continue  # takes one picture per prompt
            marks = "".join(vlm.family.image_text.format(image=vlm.family.image_token) for _ in pictures)
            text = vlm.family.prompt.format(question=QUESTIONS[0], image=marks)
            together = [pictures] if vlm.family.name == "llava_onevision" else pictures
            given = vlm.processor(images=together, text=text, return_tensors="pt")
            assert torch.equal(given["input_ids"], encoded.input_ids)
            assert torch.equal(given["pixel_values"], encoded.model_inputs["pixel_values"])

    def test_targets_are_the_answers_row_after_row(self, vlm):
        encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
        expected = [vlm.answer_tokens(q, a, i is not None) for q, a, i in zip(QUESTIONS, ANSWERS, MIXED, strict=True)]
        assert encoded.targets.tolist() == [token for ids in expected for token in ids]
        assert encoded.target_rows.tolist() == [row for row, ids in enumerate(expected) for _ in ids]
        assert encoded.predict_mask.sum() == len(encoded.targets)
        assert encoded.last_prompt_mask.sum(1).tolist() == [1, 1, 1]
        assert not (encoded.last_prompt_mask & ~encoded.predict_mask).any(), "the last prompt token predicts"

    def test_select_keeps_rows_and_their_pictures(self, vlm):
        encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
        part = encoded.select([2, 1])
        real = part.attention_mask.bool()
        close(whole(vlm, part)[real], whole(vlm, encoded)[[2, 1]][real])
        assert "pixel_values" not in encoded.select([1]).model_inputs

    @pytest.mark.parametrize("images", [SHAPES, SEVERAL], ids=["shapes", "several"])
    def test_select_parts_pictures_of_many_sizes(self, vlm, images):
        vlm = in_double(vlm)
        encoded = vlm.encode(images, QUESTIONS, ANSWERS)
        for rows in ([2], [2, 0], [0, 0, 1], [1, 2]):
            part = encoded.select(rows)
            real = part.attention_mask.bool()
            close(whole(vlm, part)[real], whole(vlm, encoded)[rows][real])

    @pytest.mark.parametrize(
        ("images", "questions", "answers", "words"),
        [
            ([None], [""], None, "question is empty"),
            ([None], ["  \n"], None, "question is empty"),
            ([None], [3], None, "question: expected text"),
            ([None], ["what is {image}?"], None, "question holds '{image}'"),
            ([None], ["what?"], [""], "answer is empty"),
            ([None], ["what?"], ["tea " * 200], "answer is .* tokens long; at most 64"),
            ([None], ["what? " * 200], None, "question is too long"),
            ([], [], None, "equally many"),
            ([None], ["a?", "b?"], None, "equally many"),
            ([None], ["a?"], ["b", "c"], "equally many"),
        ],
    )
    def test_unfit_input_is_named(self, vlm, images, questions, answers, words):
        token = vlm.family.image_token
        questions = [q.replace("{image}", token) if isinstance(q, str) else q for q in questions]
        with pytest.raises(InputError, match=words.replace("{image}", re.escape(token))):
            vlm.encode(images, questions, answers)

    def test_missing_picture_is_named(self, vlm, tmp_path):
        with pytest.raises(PictureError, match="there is no file"):
            vlm.encode([tmp_path / "no.png"], ["what?"])

    def test_template_tokens_in_a_question_are_refused(self):
        tokens = {"pocket": "<|im_end|>", "blip2": "</s>", "minigpt4": "</s>", "qwen2_vl": "<|vision_start|>"}
        for family, token in tokens.items():
            with pytest.raises(InputError, match="holds"):
                tiny(family).encode([None], [f"so {token} what?"])

    def test_batches_cover_all_and_sort_by_length(self, vlm):
        class Item:
            def __init__(self, question, image):
                self.question, self.image = question, image

        items = [Item("what? " * n, None if n % 2 else IMAGES[0]) for n in (5, 1, 9, 2, 7)]
        batches = list(vlm.batches(items, 2))
        assert sorted(i for batch in batches for i in batch) == [0, 1, 2, 3, 4]
        lengths = [
            len(vlm.prompt(items[i].question, items[i].image is not None).ids) for batch in batches for i in batch
        ]
        assert lengths == sorted(lengths)

    def test_missing_placeholder_is_an_error(self):
        """BLIP-2 without placeholders ignores the picture without a word (facts.md, 4)."""
        vlm = tiny("blip2")
        encoded = vlm.encode(IMAGES, QUESTIONS)
        encoded.visual_mask[0, :] = False
        with pytest.raises(InputError, match="placeholders"):
            vlm.trunk(encoded, 0)


class TestReplay:
    @pytest.mark.parametrize(
        "images",
        [IMAGES, MIXED, [None] * 3, SHAPES, SEVERAL],
        ids=["pictures", "mixed", "text", "shapes", "several"],
    )
    @pytest.mark.parametrize("layer", [0, 1, 2, -1])
    def test_head_of_trunk_is_the_whole_model(self, vlm, images, layer):
        encoded = vlm.encode(images, QUESTIONS, ANSWERS)
        trunk = vlm.trunk(encoded, layer)
        expected = whole(vlm, encoded)
        real = encoded.attention_mask.bool()
        assert torch.equal(vlm.head(trunk)[real], expected[real])
        close(vlm.head(trunk, positions=encoded.predict_mask), expected[encoded.predict_mask])

    def test_layers_above_the_trunk_are_not_run(self, vlm):
        calls = []
        inside = [vlm.site_module(Site(layer, "mlp.out")) for layer in range(3)]
        handles = [module.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, module in enumerate(inside)]
        try:
            vlm.trunk(vlm.encode(MIXED, QUESTIONS), 1)
            assert calls == [0]
            assert not any("forward" in vars(layer) for layer in vlm.layers), "put back as they were"
        finally:
            for handle in handles:
                handle.remove()

    @pytest.mark.parametrize("images", [MIXED, SHAPES, SEVERAL], ids=["mixed", "shapes", "several"])
    def test_rows_do_not_depend_on_their_neighbours(self, vlm, images):
        vlm = in_double(vlm)
        encoded = vlm.encode(images, QUESTIONS, ANSWERS)
        together = vlm.head(vlm.trunk(encoded, 1))[encoded.attention_mask.bool()]
        alone = []
        for image, question, answer in zip(images, QUESTIONS, ANSWERS, strict=True):
            one = vlm.encode([image], [question], [answer])
            alone.append(vlm.head(vlm.trunk(one, 1))[0])
        close(together, torch.cat(alone))

    @pytest.mark.parametrize(
        ("shape", "images"),
        [
            ({"do_layer_norm_before": False}, MIXED),
            ({"_remove_final_layer_norm": True}, MIXED),
            ({"word_embed_proj_dim": 16}, [None] * 3),  # transformers' own BLIP-2 cannot put a picture into that one
        ],
        ids=["norm after", "no final norm", "projected"],
    )
    def test_other_opt_shapes(self, shape, images):
        """OPT-350M's oddities: norms after attention and MLP, no final norm, projections around the decoder."""
        vlm = build("blip2", **shape)
        encoded = vlm.encode(images, QUESTIONS, ANSWERS)
        real = encoded.attention_mask.bool()
        assert torch.equal(vlm.head(vlm.trunk(encoded, 1))[real], whole(vlm, encoded)[real])

    @pytest.mark.parametrize("site", ["0.mlp.up", "1.mlp.in", "-1.mlp.out"])
    def test_site_input_is_what_enters_the_linear(self, vlm, site):
        encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
        seen = []
        handle = vlm.site_module(site).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        whole(vlm, encoded)
        handle.remove()
        for start in range(Site.parse(site).resolve(3).layer + 1):
            found = vlm.site_input(vlm.trunk(encoded, start), site)
            assert torch.equal(found, seen[0].reshape(found.shape))

    def test_select_of_trunk(self, vlm):
        trunk = vlm.trunk(vlm.encode(MIXED, QUESTIONS, ANSWERS), 1)
        part = trunk.select([2, 0])
        close(vlm.head(part), vlm.head(trunk)[[2, 0]])

    def test_raised_trunk_is_the_trunk(self, vlm):
        encoded = vlm.encode(MIXED, QUESTIONS)
        assert torch.equal(vlm.raise_trunk(vlm.trunk(encoded, 0), 2).hidden, vlm.trunk(encoded, 2).hidden)

    def test_trunk_made_in_inference_mode_can_be_trained_on(self, vlm):
        with torch.inference_mode():
            trunk = vlm.trunk(vlm.encode(MIXED, QUESTIONS, ANSWERS), 1)
        change = Full(vlm, "1.mlp.out")
        change.weight.requires_grad_()
        vlm.head(trunk, "1.mlp.out", change).sum().backward()
        assert change.weight.grad is not None

    def test_bfloat16(self, vlm):
        copy = type(vlm)(deepcopy(vlm.model).to(torch.bfloat16), vlm.processor, vlm.family)
        encoded = copy.encode(MIXED, QUESTIONS, ANSWERS)
        real = encoded.attention_mask.bool()
        assert torch.equal(copy.head(copy.trunk(encoded, 1))[real], whole(copy, encoded)[real])


class TestSites:
    def test_parse(self):
        assert Site.parse("31.mlp.up") == Site(31, "mlp.up")
        assert str(Site.parse("-1.mlp.out")) == "-1.mlp.out"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("mlp.up", "does not start with a layer number"),
            ("3.mlp.uo", "Did you mean 'mlp.u?p?o?u?t?'"),
            ("3", "unknown site role"),
            ("3.mlp.out", "lie in -3..2"),
            ("-4.mlp.out", "lie in -3..2"),
        ],
    )
    def test_bad_sites_are_named(self, text, words):
        with pytest.raises(InputError, match=words):
            tiny("pocket").resolve_site(text)

    def test_roles(self):
        opt, llama = tiny("blip2"), tiny("minigpt4")
        assert opt.site_module("0.mlp.in") is opt.site_module("0.mlp.up") is opt.layers[0].fc1
        assert opt.site_module("-1.mlp.out") is opt.layers[2].fc2
        assert llama.site_module("1.mlp.in") is llama.layers[1].mlp.gate_proj
        assert llama.site_module("1.mlp.up") is llama.layers[1].mlp.up_proj

    def test_site_below_the_trunk_is_refused(self, vlm):
        trunk = vlm.trunk(vlm.encode(MIXED, QUESTIONS), 2)
        with pytest.raises(InputError, match="below the trunk"):
            vlm.head(trunk, "1.mlp.out", Full(vlm, "1.mlp.out"))


class TestTransformations:
    @pytest.mark.parametrize("site", ["0.mlp.in", "1.mlp.up", "2.mlp.out"])
    def test_rows_are_changed_one_by_one(self, vlm, site):
        vlm = in_double(vlm)
        first, second = Full(vlm, site, 1), Full(vlm, site, 2)
        encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
        trunk = vlm.trunk(encoded, 0)
        found = vlm.head(trunk, site, [first, None, second])
        base = vlm.head(trunk)
        real = encoded.attention_mask.bool()
        assert torch.equal(found[1], base[1]), "an untouched row has the base's bits"
        for row, change in ((0, first), (2, second)):
            expected = whole(with_weights(vlm, site, change), encoded)
            close(found[row][real[row]], expected[row][real[row]])
            assert not torch.allclose(found[row][real[row]], base[row][real[row]])

    def test_one_for_all_rows(self, vlm):
        change = Full(vlm, "1.mlp.out")
        trunk = vlm.trunk(vlm.encode(MIXED, QUESTIONS), 1)
        close(vlm.head(trunk, "1.mlp.out", change), vlm.head(trunk, "1.mlp.out", [change] * 3))

    def test_contexts_may_be_nested(self, vlm):
        """At two sites both act; at one site their sum does; and a head inside has its own on top."""
        first, second = Full(vlm, "0.mlp.out", 1), Full(vlm, "2.mlp.up", 2)
        encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
        trunk = vlm.trunk(encoded, 0)
        real = encoded.attention_mask.bool()
        expected = whole(with_weights(with_weights(vlm, "0.mlp.out", first), "2.mlp.up", second), encoded)[real]
        with transformed(vlm, Site(0, "mlp.out"), first):
            close(vlm.head(trunk, "2.mlp.up", second)[real], expected)
            with transformed(vlm, Site(2, "mlp.up"), [second] * 3):
                close(vlm.head(trunk)[real], expected)
        twice = whole(with_weights(with_weights(vlm, "0.mlp.out", first), "0.mlp.out", first), encoded)[real]
        with transformed(vlm, Site(0, "mlp.out"), first), transformed(vlm, Site(0, "mlp.out"), first):
            close(vlm.head(trunk)[real], twice)

    def test_wrong_number_is_refused(self, vlm):
        with pytest.raises(InputError, match="2 given for a batch of 3"):
            vlm.answer(MIXED, QUESTIONS, transforms=[None, None])

    def test_model_is_left_as_it_was(self, vlm):
        before = vlm.fingerprint
        encoded = vlm.encode(MIXED, QUESTIONS)
        base = vlm.head(vlm.trunk(encoded, 0))
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in vlm.model.modules()]  # transformers' own

        class Broken:
            def delta(self, x):
                raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"):
            vlm.head(vlm.trunk(encoded, 0), "1.mlp.out", Broken())
        vlm.answer(MIXED, QUESTIONS, max_new_tokens=3, transforms=Full(vlm, "1.mlp.out"), site="1.mlp.out")
        assert torch.equal(vlm.head(vlm.trunk(encoded, 0)), base)
        assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in vlm.model.modules()]
        del vlm.__dict__["fingerprint"]
        assert vlm.fingerprint == before


def test_requests_from_many_threads_do_not_mix(vlm):
    site = str(vlm.default_site)
    changes = [None, Full(vlm, site, 1, scale=0.5), Full(vlm, site, 2, scale=0.5)]
    expected = [vlm.answer(MIXED, QUESTIONS, 6, transforms=change) for change in changes]
    assert len({tuple(answers) for answers in expected}) == 3
    found: dict[int, list[str]] = {}

    def ask(number: int) -> None:
        found[number] = vlm.answer(MIXED, QUESTIONS, 6, transforms=changes[number % 3])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[n] == expected[n % 3] for n in range(9))
