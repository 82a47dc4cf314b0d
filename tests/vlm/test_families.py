"""What each family is said to need: prompts, pictures, positions, sites; and the traps that others fell into."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import nn

from vledit import loading
from vledit.errors import InputError, MissingDataError
from vledit.vlm import VLM, Site, registry
from vledit.vlm.anatomy import module_at
from vledit.vlm.chat import answer_prefix, chat_prompts
from vledit.vlm.families import last_layers
from vledit.vlm.processors import for_pictures

from .models import ANSWERS, QUESTIONS, Full, build, parts, picture, tiny
from .test_base import MIXED, SEVERAL, SHAPES, close, whole

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
LLAVA = ("llava", "llava_next", "llava_onevision")


def own(vlm, image, question):
    """The logits of one prompt as transformers alone computes them: processor, then model."""
    marks = "".join(vlm.family.image_text.format(image=vlm.family.image_token) for _ in image)
    text = vlm.family.prompt.format(question=question, image=marks)
    together = [image] if vlm.family.name == "llava_onevision" else image  # how it is told that they belong together
    inputs = vlm.processor(images=together, text=[text], return_tensors="pt")
    with torch.no_grad():
        return vlm.model(**inputs).logits[0]


class TestPictures:
    @pytest.mark.parametrize("family", [*QWEN, "llava_next", "llava_onevision"])
    def test_visual_tokens_depend_on_the_picture(self, family):
        vlm = tiny(family)
        square, wide, small = picture(0), picture(1, (64, 24)), picture(2, (16, 16))
        counts = vlm.encode([square, wide, small], QUESTIONS).visual_mask.sum(1).tolist()
        assert len(set(counts)) == (3 if family in QWEN else 2)

    def test_black_is_black_at_the_models_own_size(self, vlm):
        """What the processor makes of it has the shape of any picture of that size, and no pattern."""
        black = vlm.read_pictures(vlm.black(), QUESTIONS[0])
        other = vlm.read_pictures(picture(0, vlm.image_size), QUESTIONS[0])
        assert black.placeholders == other.placeholders
        assert {n: v.shape for n, v in black.inputs.items()} == {n: v.shape for n, v in other.inputs.items()}
        pixels = black.inputs["pixel_values"]
        if vlm.family.name in QWEN:  # (patches, channels × time × height × width)
            pixels = pixels.reshape(len(pixels), 3, -1).transpose(0, 1)
        else:
            pixels = pixels.reshape(-1, 3, *pixels.shape[-2:]).transpose(0, 1)
        for channel in pixels:
            padding = {0.0} if vlm.family.name.startswith(("llava_next", "llava_one")) else set()
            assert len(set(channel.unique().tolist()) - padding) == 1
        assert other.inputs["pixel_values"].unique().numel() > 50

    def test_usual_prompt_is_that_of_a_black_picture(self, vlm):
        encoded = vlm.encode([vlm.black()], QUESTIONS[:1])
        assert vlm.prompt(QUESTIONS[0]).ids == encoded.input_ids[0].tolist()

    @pytest.mark.parametrize("images", [SHAPES, SEVERAL], ids=["shapes", "several"])
    def test_answers_with_pictures_of_many_shapes(self, vlm, images):
        together = vlm.answer(images, QUESTIONS, 5)
        assert together == [vlm.answer([i], [q], 5)[0] for i, q in zip(images, QUESTIONS, strict=True)]

    def test_every_picture_of_a_row_matters(self, vlm):
        first, second, other = picture(0), picture(1), picture(5)
        encoded = vlm.encode([[first, second], [first, other], [other, second]], QUESTIONS[:1] * 3)
        logits = vlm.head(vlm.trunk(encoded, 0), positions=encoded.last_prompt_mask)
        assert (logits[0] - logits[1]).abs().max() > 1e-3
        assert (logits[0] - logits[2]).abs().max() > 1e-3

    def test_an_empty_list_is_no_picture(self, vlm):
        assert torch.equal(vlm.encode([[]], QUESTIONS[:1]).input_ids, vlm.encode([None], QUESTIONS[:1]).input_ids)

    def test_too_many_visual_tokens_are_named(self):
        with pytest.raises(InputError, match=r"too long: its prompt has \d+ tokens, \d+ of them for pictures.*fewer"):
            tiny("llava_next").encode([[picture(n, (64, 64)) for n in range(4)]], QUESTIONS[:1])

    def test_of_several_pictures_onevision_cuts_none(self):
        vlm = tiny("llava_onevision")
        one, two = vlm.encode([picture(0)], QUESTIONS[:1]), vlm.encode([[picture(0), picture(1)]], QUESTIONS[:1])
        assert (int(one.visual_mask.sum()), int(two.visual_mask.sum())) == (16 + 16 + 4, 2 * (16 + 1))


class TestPositions:
    """Qwen counts in three dimensions, and only where it is told what is visual (facts: mm_token_type_ids)."""

    @pytest.mark.parametrize("image", [[picture(0)], [picture(1, (48, 20)), picture(2)]], ids=["one", "two"])
    @pytest.mark.parametrize("family", [*QWEN, *LLAVA])
    def test_logits_are_those_of_transformers_alone(self, family, image):
        vlm = tiny(family)
        encoded = vlm.encode([image], QUESTIONS[:1])
        assert torch.equal(vlm.head(vlm.trunk(encoded, 1))[0], own(vlm, image, QUESTIONS[0]))

    @pytest.mark.parametrize("family", QWEN)
    def test_positions_are_those_of_rows_alone(self, family):
        """Left padding moves nothing; a row without a picture counts as text does."""
        vlm = tiny(family)
        encoded = vlm.encode(SHAPES, QUESTIONS)
        assert encoded.model_inputs["position_ids"].shape == (3, *encoded.input_ids.shape)
        for row, (image, question) in enumerate(zip(SHAPES, QUESTIONS, strict=True)):
            alone = vlm.encode([image], [question]).model_inputs["position_ids"][:, 0]
            real = encoded.attention_mask[row].bool()
            assert torch.equal(encoded.model_inputs["position_ids"][:, row, real], alone)
            if image is None:
                assert torch.equal(alone, torch.arange(alone.shape[1]).expand(3, -1))
            else:
                assert not torch.equal(alone[1], alone[2]), "rows and columns of the picture"

    def test_without_token_types_qwen2_5_silently_counts_in_one_dimension(self):
        vlm = tiny("qwen2_5_vl")
        encoded = vlm.encode([picture(0)], QUESTIONS[:1])
        left_out = {k: v for k, v in encoded.model_inputs.items() if k not in ("mm_token_type_ids", "position_ids")}
        vlm.model.model.rope_deltas = None
        with torch.no_grad():
            flat = vlm.model(**left_out).logits
        assert (flat - whole(vlm, encoded)).abs().max() > 1e-3, "so the family gives them"

    @pytest.mark.parametrize("family", QWEN)
    def test_nothing_is_left_of_an_earlier_request(self, family):
        """`rope_deltas` stay on the module: those of another batch must not reach this one."""
        vlm = build(family)
        encoded = vlm.encode([None], QUESTIONS[:1])
        before = vlm.head(vlm.trunk(encoded, 0)), vlm.answer([None], QUESTIONS[:1], 5)
        vlm.answer(SHAPES, QUESTIONS, 3)
        assert vlm.model.model.rope_deltas is not None
        assert torch.equal(vlm.head(vlm.trunk(encoded, 0)), before[0])
        assert vlm.answer([None], QUESTIONS[:1], 5) == before[1]

    def test_deepstack_features_are_part_of_the_trunk(self):
        vlm = tiny("qwen3_vl")
        encoded = vlm.encode(MIXED, QUESTIONS)
        trunk = vlm.trunk(encoded, 0)
        assert len(trunk.calls) == 3
        for call in trunk.calls:
            assert call.added is not None
            assert torch.equal(call.added.abs().sum(-1) > 0, encoded.visual_mask)
        assert all(call.added is None for call in vlm.trunk(vlm.encode([None], QUESTIONS[:1]), 0).calls)


class TestSites:
    def test_sites_lie_in_the_language_model(self, vlm):
        """Names like `mlp.fc1` are in the vision tower too (facts: suffix targets)."""
        inside = {id(module) for module in vlm.layers.modules()}
        for site in vlm.family.three_layers:
            assert id(vlm.site_module(site)) in inside
        for linear in vlm.vision_linears().values():
            assert isinstance(linear, nn.Linear)
            assert id(linear) not in inside

    @pytest.mark.parametrize("family", ["blip2", "minigpt4"])
    def test_lists_of_edited_parameters(self, family):
        """De-VQA, Tables 2 and 3, scaled to these models' layers."""
        vlm = build(family, layers=4)
        names = {id(module): name for name, module in vlm.model.named_modules()}
        found = [names[id(vlm.site_module(site))] for site in vlm.family.three_layers]
        first, second = ("fc1", "fc2") if family == "blip2" else ("mlp.up_proj", "mlp.down_proj")
        where = "language_model.model.decoder.layers" if family == "blip2" else "language_model.model.layers"
        assert found == [f"{where}.{layer}.{name}" for layer in (1, 2, 3) for name in (first, second)]
        vision = [names[id(module)] for module in vlm.vision_linears().values()]
        assert vision == [f"qformer.encoder.layer.{layer}.output_query.dense" for layer in (0, 1, 2)]

    def test_papers_defaults(self):
        blip2, minigpt4 = registry.family("blip2"), registry.family("minigpt4")
        assert (blip2.default_site, blip2.default_alpha) == (Site(-1, "mlp.out"), 0.05)
        assert (minigpt4.default_site, minigpt4.default_alpha) == (Site(-1, "mlp.up"), 0.2)
        assert "BalancEdit" in blip2.defaults_from
        assert "BalancEdit" in minigpt4.defaults_from
        for name in (*QWEN, *LLAVA):
            assert registry.family(name).defaults_from == "", "no paper gives any"

    def test_last_layers(self):
        assert [str(site) for site in last_layers("mlp.out", count=2)] == ["-2.mlp.out", "-1.mlp.out"]

    def test_paths_that_are_not_there_are_named(self):
        model = tiny("llava").model
        with pytest.raises(InputError, match=r"no module 'model\.qformer"):
            module_at(model, "model.qformer.layer")
        with pytest.raises(InputError, match="'99' is not there"):
            module_at(model, "model.language_model.layers.99")
        bare = VLM(model, tiny("llava").processor, replace(tiny("llava").family, vision_sites=()))
        with pytest.raises(InputError, match="names no linear"):
            bare.vision_linears()


class TestProcessors:
    @pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
    @pytest.mark.parametrize("family", [*QWEN, "llava_onevision"])
    def test_load_without_torchvision_from_a_folder_that_names_a_video_processor(self, family, tmp_path):
        """As the published folders do; the processor of transformers refuses them where torchvision is not there."""
        vlm = tiny(family)
        vlm.processor.save_pretrained(tmp_path)
        (tmp_path / "video_preprocessor_config.json").write_text('{"video_processor_type": "Qwen2VLVideoProcessor"}')
        loaded = vlm.family.load_processor(str(tmp_path), vlm.model.config)
        assert type(loaded).__name__ == type(vlm.processor).__name__
        for image in (picture(0), picture(1, (48, 20))):
            again = VLM(vlm.model, loaded, vlm.family).encode([image], QUESTIONS[:1]).model_inputs
            expected = vlm.encode([image], QUESTIONS[:1]).model_inputs
            assert all(torch.equal(again[name], value) for name, value in expected.items())

    def test_one_class_per_processor(self):
        from transformers import Qwen2VLProcessor

        assert for_pictures(Qwen2VLProcessor) is for_pictures(Qwen2VLProcessor)
        assert issubclass(for_pictures(Qwen2VLProcessor), Qwen2VLProcessor)

    def test_a_processor_that_does_not_count_is_named(self):
        vlm = tiny("blip2")
        uncounted = VLM(vlm.model, vlm.processor, replace(vlm.family, count_image_tokens=None))
        with pytest.raises(InputError, match="Blip2Processor does not say how a picture is written"):
            uncounted.encode([picture(0)], QUESTIONS[:1])


class TestChatTemplates:
    def test_llava_next_takes_the_checkpoint_s_own(self):
        family = tiny("llava_next").family
        assert family.prompt == "[INST] {image}\n{question} [/INST]", "the tokenizer puts the start token there itself"
        assert family.text_prompt == "[INST] {question} [/INST]"
        assert family.answer_prefix == " "

    def test_without_a_template_the_family_s_own_prompt_stays(self):
        model, processor = parts("llava_next")
        processor.chat_template = None
        assert (
            VLM(model, processor, registry.family("llava_next")).family.prompt == registry.family("llava_next").prompt
        )

    def test_templates_that_leave_something_out_are_not_used(self):
        _, processor = parts("llava_next")
        processor.chat_template = "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"
        assert chat_prompts(processor, "<image>") is None

    def test_answer_prefix(self):
        found = [answer_prefix(text) for text in ("ASSISTANT:", "[/INST]", "model\n", "<|assistant|>", "A: ")]
        assert found == [" ", " ", "", "", ""]


class TestGeneric:
    """Models that no family covers."""

    @pytest.fixture
    def unknown(self, monkeypatch):
        """As if there were no families but the generic one."""
        monkeypatch.setattr(registry, "_BUILT_IN", {})
        monkeypatch.setattr(registry, "_installed", dict)

    @pytest.mark.parametrize("family", ["llava_next", "llava", "qwen2_5_vl", "qwen3_vl"])
    def test_stands_in_and_says_what_it_assumed(self, unknown, family):
        known = tiny(family)
        assert registry.family_of(known.model.config).name == "generic"
        with pytest.warns(UserWarning, match="no family covers .*Assumed: prompt .*Compare its answers"):
            vlm = VLM(known.model, known.processor, registry.family_of(known.model.config))
        encoded = vlm.encode(MIXED, QUESTIONS, ANSWERS)
        real = encoded.attention_mask.bool()
        for layer in range(3):
            assert torch.equal(vlm.head(vlm.trunk(encoded, layer))[real], whole(vlm, encoded)[real])
        site = str(vlm.default_site)
        assert vlm.answer(MIXED, QUESTIONS, 4, Full(vlm, site, scale=1.0)) != vlm.answer(MIXED, QUESTIONS, 4)
        if family == "llava_next":  # has a chat template, so that the prompt is the family's to the letter
            assert vlm.family.prompt == known.family.prompt
            assert vlm.answer(MIXED, QUESTIONS, 6) == known.answer(MIXED, QUESTIONS, 6)
        alone = torch.cat([
            vlm.head(vlm.trunk(vlm.encode([i], [q], [a]), 0))[0] for i, q, a in zip(MIXED, QUESTIONS, ANSWERS, strict=True)
        ])  # fmt: skip
        close(vlm.head(vlm.trunk(encoded, 0))[real], alone)

    def test_loads_from_a_folder(self, unknown, tmp_path):
        known = tiny("llava_next")
        known.model.save_pretrained(tmp_path)
        known.processor.save_pretrained(tmp_path)
        with pytest.warns(UserWarning, match="no family covers LlavaNextForConditionalGeneration"):
            loaded = loading.load_vlm(tmp_path)
        assert loaded.family.title == "generic (LlavaNextForConditionalGeneration)"
        assert loaded.answer(MIXED, QUESTIONS, 5) == known.answer(MIXED, QUESTIONS, 5)

    @pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
    def test_a_processor_that_needs_torchvision_is_named_with_the_build_that_fits(self, unknown, tmp_path):
        known = tiny("qwen2_vl")
        known.model.save_pretrained(tmp_path)
        known.processor.save_pretrained(tmp_path)
        with pytest.raises(
            MissingDataError, match=r"needs torchvision, in the build that fits torch .* 'torchvision==0"
        ):
            loading.load_vlm(tmp_path)

    def test_a_guessed_prompt_is_called_a_guess(self, unknown):
        known = tiny("llava")
        with pytest.warns(UserWarning, match="a guess: the processor has no usable chat template"):
            VLM(known.model, known.processor, registry.family_of(known.model.config))

    def test_processors_that_do_not_fit_are_refused(self, unknown):
        known = tiny("blip2")
        with pytest.raises(InputError, match=r"no family covers Blip2ForConditionalGeneration.*replace_image_token"):
            VLM(known.model, known.processor, registry.family_of(known.model.config))


class TestRecordedCalls:
    def test_layers_that_are_not_called_are_an_error(self):
        from vledit.vlm.hooks import record_calls

        layers = [nn.Linear(2, 2) for _ in range(3)]
        chain = nn.Sequential(layers[0], layers[2])
        with pytest.raises(RuntimeError, match="2 of 3 decoder layers were called"):
            record_calls(lambda: chain(torch.ones(1, 2)), layers, None)
        assert chain(torch.ones(1, 2)).shape == (1, 2)
        assert not any("forward" in vars(layer) for layer in layers)

    def test_what_is_added_between_and_after_layers_is_seen(self):
        from vledit.vlm.hooks import record_calls

        layers = [nn.Linear(2, 2) for _ in range(3)]
        end = nn.Identity()

        def run() -> None:
            hidden = torch.ones(1, 2)
            for number, layer in enumerate(layers):
                hidden = layer(hidden)
                hidden = hidden + number if number else hidden
            end(hidden)
            raise AssertionError("nothing after the end is run")

        with torch.no_grad():
            hidden, calls = record_calls(run, layers[1:], end)
        assert torch.equal(hidden, layers[0](torch.ones(1, 2)))
        assert [call.added.tolist() for call in calls] == [[[1.0, 1.0]], [[2.0, 2.0]]]

    def test_a_forward_that_was_put_on_a_layer_stays_on_it(self):
        """As accelerate does where a model is spread over devices."""
        vlm = build("llava")
        layer = vlm.layers[2]
        inner, seen = layer.forward, []

        def forward(*args, **kwargs):
            seen.append(1)
            return inner(*args, **kwargs)

        layer.forward = forward
        encoded = vlm.encode(MIXED, QUESTIONS)
        trunk = vlm.trunk(encoded, 1)
        assert layer.forward is forward
        assert not seen
        assert torch.equal(vlm.head(trunk), tiny("llava").head(tiny("llava").trunk(encoded, 1)))
        assert seen
