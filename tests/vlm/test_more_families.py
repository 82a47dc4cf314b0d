"""What InstructBLIP, Idefics3, SmolVLM, InternVL, Gemma 3 and PaliGemma each have of their own.

What they share with all families is tested where all families are (`test_base`, `test_answers`, `test_tail`,
`test_registry`): their rows are in `more_models.BUILDERS`.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import Blip2Config, InstructBlipConfig, T5Config
from transformers.models.smolvlm import processing_smolvlm

from vledit.errors import InputError
from vledit.vlm import VLM, registry
from vledit.vlm.idefics import IDEFICS3, SMOLVLM, START

from .models import QUESTIONS, picture, tiny
from .more_models import BUILDERS, TILE_TOKENS, idefics_tokenizer
from .tokens import SIZE

TEXTS = {
    "instructblip": "Question: {} Short answer:",
    "idefics3": "User:<image>{}<end_of_utterance>\nAssistant:",
    "smolvlm": "<|im_start|>User:<image>{}<end_of_utterance>\nAssistant:",
    "internvl": "<|im_start|>user\n<IMG_CONTEXT>\n{}<|im_end|>\n<|im_start|>assistant\n",
    "gemma3": "<start_of_turn>user\n<start_of_image>{}<end_of_turn>\n<start_of_turn>model\n",
    "paligemma": "<image>answer en {}",
    "paligemma2": "<image>answer en {}",
}
"""What users of transformers give the whole processor; it writes out the pictures (and PaliGemma's start and line break)."""
MARKS = {"internvl": "<IMG_CONTEXT>\n", "gemma3": "<start_of_image>"}
SHAPES = {"square": (SIZE, SIZE), "wide": (2 * SIZE, SIZE), "tall": (SIZE, 2 * SIZE), "odd": (50, 37)}
WORDS = ["What is shown in the picture?", "Who is shown in the picture?"]


def given(name, pictures, question, **more):
    """What the true processor makes of one question."""
    mark = MARKS.get(name, "<image>")
    text = TEXTS[name].format(question).replace(mark, mark * len(pictures))
    together = [pictures] if name in ("idefics3", "smolvlm") else pictures  # one list for each prompt
    return tiny(name).processor(images=together, text=text, return_tensors="pt", **more)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", BUILDERS)
def test_inputs_are_those_of_the_processor(name, shape):
    vlm, one = tiny(name), picture(0, SHAPES[shape])
    found = vlm.encode([one], QUESTIONS[:1]).model_inputs
    expected = given(name, [one], QUESTIONS[0])
    assert set(expected) - {"labels"} <= set(found)
    for key in set(expected) - {"labels"}:
        assert torch.equal(found[key], expected[key]), key
    assert set(found) - set(expected) == {"position_ids"}


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "instructblip"])
def test_several_pictures_are_written_as_the_processor_does(name):
    vlm, two = tiny(name), [picture(0, (2 * SIZE, SIZE)), picture(1)]
    found = vlm.encode([two], QUESTIONS[:1]).model_inputs
    expected = given(name, two, QUESTIONS[0])
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert torch.equal(found["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize("name", BUILDERS)
def test_answer_is_that_of_the_processor_and_generate(name):
    """Nothing of ours takes part in what is expected."""
    vlm, one = tiny(name), picture(0, (2 * SIZE, SIZE))
    inputs = {key: value for key, value in given(name, [one], QUESTIONS[0]).items() if key != "labels"}
    ids = vlm.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    ids = ids[0, inputs["input_ids"].shape[1] :]
    assert vlm.answer([one], QUESTIONS[:1], 8) == [vlm.tokenizer.decode(ids, skip_special_tokens=True).strip()]


@pytest.mark.parametrize("name", ["smolvlm", "internvl"])
def test_processors_load_without_the_packages_for_videos(name, tmp_path, monkeypatch):
    """From folders that name a video processor, as the published ones do."""
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    vlm = tiny(name)
    vlm.processor.save_pretrained(tmp_path)
    (tmp_path / "video_preprocessor_config.json").write_text('{"video_processor_type": "SmolVLMVideoProcessor"}')
    loaded = vlm.family.load_processor(str(tmp_path), vlm.model.config)
    assert type(loaded).__name__ == type(vlm.processor).__name__
    image = picture(0, SHAPES["wide"])
    again = VLM(vlm.model, loaded, vlm.family).encode([image], QUESTIONS[:1]).model_inputs
    expected = vlm.encode([image], QUESTIONS[:1]).model_inputs
    assert all(torch.equal(again[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", BUILDERS)
def test_no_paper_says_where_these_are_edited(name):
    family = tiny(name).family
    assert family.defaults_from == ""
    assert {one.hub_id for one in family.published} == set(family.checkpoints.values())


def hidden_of(vlm, images, questions, answers=None, layer=-1):
    """(B, T, H) entering the last layer, and the batch."""
    encoded = vlm.encode(images, questions, answers)
    return vlm.trunk(encoded, layer).hidden, encoded


class TestInstructBlip:
    def test_the_question_reaches_the_picture(self):
        vlm = tiny("instructblip")
        encoded = vlm.encode([picture(0)] * 2, WORDS)
        embeds = vlm.language_inputs(encoded)["inputs_embeds"][encoded.visual_mask].reshape(2, TILE_TOKENS, -1)
        assert not torch.allclose(embeds[0], embeds[1])

    def test_instructions_are_filled_up_on_the_right(self):
        """The Q-Former counts absolute positions."""
        vlm = tiny("instructblip")
        inputs = vlm.encode([picture(0), None, picture(1)], ["What?", "What?", QUESTIONS[2]]).model_inputs
        mask = inputs["qformer_attention_mask"]
        assert len(mask) == 2, "one for each picture"
        assert mask[0].tolist() == sorted(mask[0].tolist(), reverse=True)
        assert 0 in mask[0].tolist()
        alone = vlm.encode([picture(0)], ["What?"]).model_inputs["qformer_input_ids"]
        assert torch.equal(inputs["qformer_input_ids"][0][mask[0].bool()], alone[0])

    @pytest.mark.parametrize("config", [InstructBlipConfig, Blip2Config])
    def test_encoder_decoders_are_refused(self, config):
        with pytest.raises(InputError, match="'t5' are not supported: it is an encoder-decoder"):
            registry.family_of(config(text_config=T5Config(d_model=8, num_layers=1).to_dict()))


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
class TestIdefics:
    def test_tiles_depend_on_the_shape(self, name):
        vlm = tiny(name)
        images = [picture(seed, size) for seed, size in enumerate(SHAPES.values())]
        encoded = vlm.encode([None, *images], [QUESTIONS[0]] * 5)
        tiles = [0, 5, 3, 3, 5]  # 2 × 2, 1 × 2, 2 × 1, 2 × 2, and each time the whole
        assert encoded.visual_mask.sum(1).tolist() == [TILE_TOKENS * count for count in tiles]
        assert encoded.model_inputs["pixel_values"].shape == (4, 5, 3, SIZE, SIZE)

    @pytest.mark.parametrize("grey", [0, 127, 128, 255])
    def test_no_picture_is_taken_for_filling(self, name, grey):
        """The model drops tiles that are 0 everywhere, to it a mark of filling."""
        vlm, plain = tiny(name), Image.new("RGB", (2 * SIZE, SIZE), (grey,) * 3)
        encoded = vlm.encode([plain, picture(0)], QUESTIONS[:2])
        with torch.no_grad():
            features = vlm.model.get_image_features(**encoded.picture_inputs).pooler_output
        assert [len(row) for row in features] == encoded.visual_mask.sum(1).tolist() == [12, 20]

    def test_only_the_tiles_themselves_are_visual(self, name):
        vlm = tiny(name)
        prompt = vlm.prompt(QUESTIONS[0])
        others = [i for i, visual in zip(prompt.ids, prompt.visual, strict=True) if not visual]
        written = vlm.tokenizer.decode(others)
        assert written.count("<fake_token_around_image>") == 6
        assert "<row_2_col_2>" in written
        assert "<image>" not in written

    def test_prompts_are_those_of_the_published_template(self, name):
        vlm = tiny(name)
        family, start = (vlm.family, "") if name == "smolvlm" else (IDEFICS3, START)
        template = processing_smolvlm.DEFAULT_CHAT_TEMPLATE
        text = {"type": "text", "text": "{question}"}
        for content, prompt in (([{"type": "image"}, text], family.prompt), ([text], family.text_prompt)):
            messages = [{"role": "user", "content": content}]
            written = vlm.tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=True
            )
            assert start + prompt.replace("{image}", "<image>") == written

    def test_first_smolvlm_have_a_start_token_in_the_prompt(self, name):
        found = IDEFICS3.complete(None, SimpleNamespace(tokenizer=idefics_tokenizer(llama3=False)))
        assert found.name == "idefics3"
        assert found.prompt == SMOLVLM.prompt
        assert IDEFICS3.complete(None, SimpleNamespace(tokenizer=idefics_tokenizer(llama3=True))) is IDEFICS3


class TestInternVL:
    def test_pictures_are_cut_as_the_processor_cuts_them(self):
        """Asked by itself, the image processor makes one tile of every picture."""
        vlm = tiny("internvl")
        encoded = vlm.encode([picture(0), picture(1, (3 * SIZE, SIZE)), None], QUESTIONS)
        assert encoded.visual_mask.sum(1).tolist() == [TILE_TOKENS, 4 * TILE_TOKENS, 0]
        assert encoded.model_inputs["pixel_values"].shape == (5, 3, SIZE, SIZE)
        assert encoded.picture_sizes == {"pixel_values": (1, 4, 0)}
        alone = vlm.processor.image_processor(picture(1, (3 * SIZE, SIZE)), return_tensors="pt")
        assert len(alone["pixel_values"]) == 1


class TestGemma3:
    def test_a_picture_s_tokens_see_each_other(self):
        vlm = tiny("gemma3")
        encoded = vlm.encode([picture(0)], QUESTIONS[:1])
        inputs = dict(encoded.model_inputs)
        types = inputs.pop("token_type_ids")
        assert torch.equal(types.bool(), encoded.visual_mask)
        with torch.no_grad():
            both_ways, causal = vlm.model(**inputs, token_type_ids=types).logits, vlm.model(**inputs).logits
        first = int(encoded.visual_mask[0].nonzero()[0])
        assert torch.equal(both_ways[0, :first], causal[0, :first])
        assert (both_ways[0, first] - causal[0, first]).abs().max() > 1e-3
        found = vlm.head(vlm.trunk(encoded, 0))
        assert torch.equal(found, both_ways)

    def test_pictures_do_not_see_later_ones(self):
        vlm = tiny("gemma3")
        one, encoded = hidden_of(vlm, [[picture(0), picture(1)]], QUESTIONS[:1])
        other, _ = hidden_of(vlm, [[picture(0), picture(2)]], QUESTIONS[:1])
        visual = encoded.visual_mask[0].nonzero()[:, 0]
        assert torch.equal(one[0, visual[:TILE_TOKENS]], other[0, visual[:TILE_TOKENS]])
        assert not torch.equal(one[0, visual[TILE_TOKENS:]], other[0, visual[TILE_TOKENS:]])

    def test_layers_are_called_each_in_its_way(self):
        vlm = tiny("gemma3")
        low, middle, high = (call.inputs for call in vlm.trunk(vlm.encode([picture(0)], QUESTIONS[:1]), 0).calls)
        assert low["attention_mask"] is high["attention_mask"], "both have the window"
        seen, window = middle["attention_mask"], low["attention_mask"]
        assert seen.shape == window.shape
        assert not torch.equal(seen, window)
        assert not torch.equal(low["position_embeddings"][0], middle["position_embeddings"][0])

    def test_the_chat_model_s_own_end_is_taught(self):
        vlm = tiny("gemma3")
        end = vlm.tokenizer.convert_tokens_to_ids("<end_of_turn>")
        assert vlm.answer_tokens(QUESTIONS[0], "a cat")[-1] == end
        assert vlm._prompter.text([*vlm.tokenizer("tea", add_special_tokens=False)["input_ids"], 1, 9]) == "tea"
        assert set(vlm._prompter.end_ids) == {end, vlm.tokenizer.eos_token_id}


@pytest.mark.parametrize("name", ["paligemma", "paligemma2"])
class TestPaliGemma:
    def test_answers_are_those_of_the_processor(self, name):
        """Answer, end and token types, as the processor makes them for fine-tuning."""
        found = tiny(name).encode([picture(0)], QUESTIONS[:1], ["golden retriever"]).model_inputs
        expected = given(name, [picture(0)], QUESTIONS[0], suffix="golden retriever")
        for key in ("input_ids", "token_type_ids", "attention_mask"):
            assert torch.equal(found[key], expected[key]), key
        assert found["token_type_ids"].sum() > 2

    def test_start_token_stands_behind_the_picture(self, name):
        vlm = tiny(name)
        bos = vlm.tokenizer.bos_token_id
        assert vlm.prompt(QUESTIONS[0]).ids.index(bos) == TILE_TOKENS
        assert vlm.prompt(QUESTIONS[0]).ids.count(bos) == vlm.prompt(QUESTIONS[0], False).ids.count(bos) == 1

    def test_positions_count_from_one(self, name):
        positions = tiny(name).encode([picture(0), None], QUESTIONS[:2]).model_inputs["position_ids"]
        assert positions[0, 0] == 1
        assert torch.equal(positions[:, -1] - positions[:, -2], torch.tensor([1, 1]))

    def test_the_prompt_is_seen_in_both_directions(self, name):
        vlm = tiny(name)
        one, encoded = hidden_of(vlm, [picture(0)] * 2, WORDS)
        visual = one[encoded.visual_mask].reshape(2, TILE_TOKENS, -1)
        assert (visual[0] - visual[1]).abs().max() > 1e-3, "the question reaches the picture before it"
        inputs = {key: value for key, value in encoded.model_inputs.items() if key != "token_type_ids"}
        with torch.no_grad():
            causal = vlm.model(**inputs).logits
        assert (vlm.head(vlm.trunk(encoded, 0)) - causal)[encoded.prompt_mask].abs().max() > 1e-3

    def test_the_answer_is_not(self, name):
        vlm = tiny(name)
        one, encoded = hidden_of(vlm, [picture(0)], WORDS[:1], ["a cat"])
        other, _ = hidden_of(vlm, [picture(0)], WORDS[:1], ["a dog"])
        if one.shape != other.shape:
            pytest.fail("the two answers are meant to have equally many tokens")
        assert torch.equal(one[encoded.prompt_mask], other[encoded.prompt_mask])

    def test_a_prompt_read_in_chunks_is_another_one(self, name):
        """What comes in a later chunk is not there yet for the tokens of an earlier one."""
        vlm = tiny(name)
        inputs = {k: v for k, v in vlm.encode([None], QUESTIONS[:1]).model_inputs.items() if k != "position_ids"}
        settings = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        whole, chunks = (
            vlm.model.generate(**inputs, **settings, **more).logits[0] for more in ({}, {"prefill_chunk_size": 5})
        )
        encoded = vlm.encode([None], QUESTIONS[:1])
        ours = vlm.head(vlm.trunk(encoded, 0), positions=encoded.last_prompt_mask)
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=2e-5)
        assert (chunks - whole).abs().max() > 1e-3

    def test_logits_are_capped_where_the_model_caps_them(self, name):
        vlm = tiny(name)
        cap = getattr(vlm.model.config.text_config, "final_logit_softcapping", None)
        assert (cap is not None) == (name == "paligemma2")
        encoded = vlm.encode([picture(0)], QUESTIONS[:1], ["a cat"])
        with torch.no_grad():
            expected = vlm.model(**encoded.model_inputs).logits
        raw = vlm.anatomy.lm_head(vlm.anatomy.finish(vlm.run_layers(trunk := vlm.trunk(encoded, 1), trunk.hidden, 1)))
        assert torch.equal(vlm.head(trunk), expected)
        assert torch.equal(raw, expected) == (cap is None)
        tail = vlm.site_tail(trunk, "-1.mlp.out")
        torch.testing.assert_close(tail.logits(), expected[encoded.predict_mask], rtol=1e-5, atol=2e-5)
