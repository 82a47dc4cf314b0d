"""Today's families: mixtures of experts, layers that carry a state, pictures by cross attention; against transformers itself."""

from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING

from vledit import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.loading import load_vlm
from vledit.vlm import VLM, registry
from vledit.vlm.columns import UnpackableError
from vledit.vlm.forest import Forest
from vledit.vlm.places import is_recurrent
from vledit.vlm.site import BLOCK

from .models import ANSWERS, QUESTIONS, TODAY, build, picture, tiny
from .tokens import SIZE

IMAGES = [picture(0), None, picture(2, (2 * SIZE, SIZE))]
MIXTURES = ("qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe", "llama4")
RECURRENT = ("qwen3_5", "qwen3_5_moe", "lfm2_vl", "minicpm_v_4_6", "minicpm_v_4_7")
MARKS = {"ovis2": "<image>", "mllama": "<|image|>", "llama4": "<|image|>", "molmo2": "<|image|>"}
"""What users of transformers write for a picture, where it is not the placeholder."""
STARTED = {"mllama": {"add_special_tokens": False}}
"""Its processor writes the start token into the text itself."""


def whole(vlm: VLM, encoded) -> torch.Tensor:
    with torch.no_grad():
        return vlm.model(**encoded.model_inputs).logits


@pytest.mark.parametrize("name", TODAY)
def test_trunk_and_head_are_the_whole_model(name):
    vlm = tiny(name)
    encoded = vlm.encode(IMAGES, QUESTIONS, ANSWERS)
    expected = whole(vlm, encoded)
    for layer in range(vlm.n_layers):
        found = vlm.head(vlm.trunk(encoded, layer))
        assert torch.equal(found[encoded.attention_mask.bool()], expected[encoded.attention_mask.bool()])


@pytest.mark.parametrize("name", TODAY)
def test_a_left_padded_batch_is_its_rows(name):
    vlm = tiny(name)
    together = whole(vlm, vlm.encode(IMAGES, QUESTIONS, ANSWERS))
    for row, (image, question, answer) in enumerate(zip(IMAGES, QUESTIONS, ANSWERS, strict=True)):
        alone = whole(vlm, vlm.encode([image], [question], [answer]))[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", TODAY)
def test_answer_is_that_of_the_processor_and_generate(name):
    """Nothing of ours takes part in what is expected, but the processors of Mistral 3 and Gemma 4 and the `readers`."""
    vlm, one = tiny(name), picture(0, (2 * SIZE, SIZE))
    family = vlm.family
    mark = family.image_text.replace("{image}", MARKS.get(name, family.image_token))
    text = family.prompt.replace("{image}", mark).replace("{question}", QUESTIONS[0])
    inputs = vlm.processor(images=[one], text=[text], return_tensors="pt", **STARTED.get(name, {}))
    inputs = inputs.to(vlm.dtype)  # Llama 4's pixels are in bfloat16
    encoded = vlm.encode([one], QUESTIONS[:1])
    assert torch.equal(encoded.input_ids, inputs["input_ids"])
    assert torch.equal(encoded.model_inputs["pixel_values"], inputs["pixel_values"])
    ids = vlm.model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=vlm._prompter.end_ids)
    ids = ids[0, inputs["input_ids"].shape[1] :].tolist()
    assert vlm.answer([one], QUESTIONS[:1], 6) == [vlm._prompter.text(ids)]


@pytest.mark.parametrize("name", TODAY)
def test_saved_and_loaded_it_is_the_same_model(name, tmp_path):
    vlm = tiny(name)
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    loaded = load_vlm(tmp_path)
    assert loaded.family.name == vlm.family.name
    assert loaded.default_site == vlm.default_site
    assert loaded.fingerprint == vlm.fingerprint
    assert torch.equal(
        whole(loaded, loaded.encode(IMAGES, QUESTIONS, ANSWERS)), whole(vlm, vlm.encode(IMAGES, QUESTIONS, ANSWERS))
    )


@pytest.mark.parametrize("name", TODAY)
def test_the_picture_reaches_the_answer(name):
    vlm = tiny(name)
    one, other = (whole(vlm, vlm.encode([picture(seed)], QUESTIONS[:1]))[0, -1] for seed in (0, 1))
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("name", TODAY)
def test_the_vision_side_s_linears_are_there(name):
    vlm = tiny(name)
    if vlm.family.vision_sites:
        assert len(vlm.vision_linears()) == len(vlm.family.vision_sites)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_routing_flips_and_the_edit_holds(name):
    """All experts are alike, so that the base says the same whichever a token is sent to; then the router names others."""
    vlm = build(name)
    block = vlm.site_module("-1.mlp")
    router = block.router if hasattr(block, "router") else block.gate
    most = vlm.model.config.text_config.num_experts_per_tok
    with torch.no_grad():
        for parameter in block.experts.parameters():
            parameter[:] = parameter[0].clone()
    assert vlm.default_site.role == BLOCK
    model = EditedModel(vlm)
    request = EditRequest(picture(1), QUESTIONS[0], "two cups", ("What is shown in this picture?",))
    model.edit(request, rephrase="supplied", alpha=1.0, steps=200, learning_rate=0.05)

    def asked():
        chosen = []
        handle = router.register_forward_hook(lambda _m, _a, out: chosen.append(_experts(out, most)))
        try:
            return model.answer(request.image, request.question), chosen
        finally:
            handle.remove()

    before, routed = asked()
    with torch.no_grad():
        router.weight.copy_(router.weight.roll(1, 0))
    after, other = asked()
    assert all(not torch.equal(*pair) for pair in zip(routed, other, strict=True))
    assert before.text == after.text == "two cups"
    assert after.decision.fired
    assert after.decision == before.decision


def _experts(out, most):
    """For every token whether each expert is among those with the largest scores."""
    scores = out[0] if isinstance(out, tuple) else out
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, scores.topk(most, -1).indices, True)


@pytest.mark.parametrize("name", RECURRENT)
def test_rows_with_a_state_share_no_prefix(name):
    vlm = tiny(name)
    assert [is_recurrent(layer) for layer in vlm.layers] == [True, True, False]
    with pytest.raises(UnpackableError, match="carry a state"):
        Forest.grow(vlm, 1, [IMAGES[0]] * 2, QUESTIONS[:2], [["a cat"], ["tea"]])


class TestLlama32Vision:
    def test_without_a_picture_it_is_the_text_only_model(self):
        """transformers leaves the cross attention out; ours attends to nothing, and adds exactly nothing."""
        vlm = tiny("mllama")
        encoded = vlm.encode([None, picture(0), None], QUESTIONS)
        found = whole(vlm, encoded)
        for row in (0, 2):
            ids = encoded.input_ids[row : row + 1, encoded.attention_mask[row].argmax() :]
            with torch.no_grad():
                expected = vlm.model(input_ids=ids).logits[0]
            torch.testing.assert_close(found[row, -len(expected) :], expected, rtol=0, atol=1e-4)

    def test_inputs_are_those_of_the_processor(self):
        vlm, two = tiny("mllama"), [picture(0, (2 * SIZE, SIZE)), picture(1)]
        text = vlm.family.prompt.replace("{image}", "<|image|><|image|>").replace("{question}", QUESTIONS[0])
        expected = vlm.processor(images=[two], text=[text], return_tensors="pt", **STARTED["mllama"])
        found = vlm.encode([two], QUESTIONS[:1]).model_inputs
        for key in expected:
            assert torch.equal(found[key], expected[key]), key

    def test_rows_of_a_trunk_keep_their_own_picture(self):
        """Chosen rows, in another order and some of them twice, say what they say by themselves."""
        vlm, last = tiny("mllama"), slice(-1, None)
        images = [picture(0), picture(1), None]
        whole_trunk = vlm.trunk(vlm.encode(images, QUESTIONS[:1] * 3), 0)
        found = vlm.head(whole_trunk.select([1, 0, 2, 1]))[:, last]
        for row, image in zip(found, [images[1], images[0], None, images[1]], strict=True):
            alone = vlm.head(vlm.trunk(vlm.encode([image], QUESTIONS[:1]), 0))[0, last]
            torch.testing.assert_close(row, alone, rtol=0, atol=1e-4)
        assert not torch.allclose(found[0], found[1], atol=1e-3)

    def test_one_mark_stands_for_a_picture(self):
        assert tiny("mllama").encode(IMAGES, QUESTIONS).visual_mask.sum(1).tolist() == [1, 0, 1]


def test_a_tokenizer_that_starts_a_text_itself_is_not_told_to():
    from vledit.vlm.glm4v import GLM4V, START

    vlm = tiny("glm4v")
    assert vlm.family.prompt == GLM4V.prompt
    assert vlm.prompt("What?").ids.count(vlm.tokenizer.convert_tokens_to_ids("[gMASK]")) == 1

    class Starting:
        convert_tokens_to_ids = staticmethod(lambda token: 7)

        def __call__(self, text):
            return {"input_ids": [7, 8, 9]}

    processor = type("Processor", (), {"tokenizer": Starting()})
    assert GLM4V.complete is not None
    assert GLM4V.complete(vlm.model, processor).prompt == GLM4V.prompt.removeprefix(START)


def test_pictures_of_mistral_are_rows():
    vlm = tiny("mistral3")
    written = vlm.read_pictures(picture(0, (2 * SIZE, SIZE)), "what?").placeholders[0]
    assert written == "[IMG][IMG][IMG][IMG][IMG_BREAK][IMG][IMG][IMG][IMG][IMG_END]"


@pytest.mark.parametrize("name", TODAY)
def test_no_paper_says_where_these_are_edited(name):
    family = registry.family(tiny(name).family.name)
    assert family.defaults_from == ""
    assert any(kind in CONFIG_MAPPING for kind, _ in family.model_types)
