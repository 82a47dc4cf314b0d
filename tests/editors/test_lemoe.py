"""LEMoE: one edit is an edited model, an expert begins as nothing, keys learn, and the prompt alone decides, row by row."""

import pytest
import torch

from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.editors.lemoe import (
    Expert,
    LemoeConfig,
    Mixture,
    Router,
    everyday,
    gates,
    located,
    means,
    read_means,
    routing_loss,
    site_of,
)
from vledit.editors.registry import editor
from vledit.errors import EditFailedError, InputError
from vledit.vlm.acting import layers_acting

REQUESTS = [
    EditRequest(picture(1), QUESTIONS[0], "two cups", ("What can be seen?",), "cups"),
    EditRequest(picture(2), QUESTIONS[1], "the fox", (), "fox"),
    EditRequest(None, QUESTIONS[2], "tea", (), "tea"),
]
SETTINGS = {"rank": 4, "projector": 4, "steps": 80, "learning_rate": 0.02, "unlearnt": "keep"}


@pytest.fixture(params=["pocket", "blip2", "qwen2_5_vl"])
def vlm(request):
    return tiny(request.param)


def logits(model, image, question):
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}
    return torch.cat(model.generate([image], [question], output_logits=True, **options).logits)


def test_after_one_edit_its_own_request_is_answered_and_others_keep_the_bases_bits(vlm):
    model, base = EditedModel(vlm), EditedModel(vlm)
    edit = model.edit(REQUESTS[0], "lemoe", **SETTINGS)
    answer = model.answer(REQUESTS[0].image, REQUESTS[0].question)
    assert answer.decision.fired
    assert edit.report.trained
    assert answer.text == "two cups"
    for row in ((None, QUESTIONS[2]), (picture(9), QUESTIONS[2])):
        assert not model.answer(*row, 2).decision.fired
        assert torch.equal(logits(model, *row), logits(base, *row))


def test_an_untrained_expert_leaves_the_bases_bits_and_learns_from_there(vlm):
    site = site_of(vlm, "")
    out, width = vlm.site_shape(site)
    expert = Expert.fresh(width, out, LemoeConfig(rank=4), "cpu")
    encoded = vlm.encode([REQUESTS[0].image], [REQUESTS[0].question], ["two cups"])
    trunk = vlm.trunk(encoded, site.layer)
    base = vlm.head(trunk)
    with layers_acting(vlm, [{str(site): expert}], encoded):
        assert torch.equal(vlm.head(trunk), base)
    learned = list(expert.factors().values())
    for tensor in learned:
        tensor.requires_grad_()
    optimizer = torch.optim.Adam(learned, lr=1e-2)
    with torch.enable_grad():
        for _ in range(2):
            optimizer.zero_grad()
            with layers_acting(vlm, [{str(site): expert}], encoded):
                found = vlm.head(trunk, positions=encoded.predict_mask).float()
            torch.nn.functional.cross_entropy(found, encoded.targets).backward()
            optimizer.step()
    for tensor in learned:
        assert bool(torch.isfinite(tensor.grad).all())
        assert float(tensor.grad.abs().max()) > 0


def test_the_key_and_both_projections_have_a_gradient():
    draw = torch.Generator().manual_seed(0)
    router = Router(torch.zeros(2, 4), torch.randn(8, generator=draw), 3)
    inside, outside = torch.randn(2, 8, generator=draw), torch.randn(5, 8, generator=draw)
    optimizer = torch.optim.Adam(router.parameters(), lr=1e-2)
    with torch.enable_grad():
        for _ in range(2):
            optimizer.zero_grad()
            routing_loss(router, inside, outside).backward()
            optimizer.step()
    for name, parameter in router.named_parameters():
        assert float(parameter.grad.abs().max()) > 0, name


def test_a_batch_is_its_rows_alone(vlm):
    model = EditedModel(vlm)
    for request in REQUESTS[:2]:
        model.edit(request, "lemoe", **SETTINGS)
    rows = [(one.image, one.question) for one in REQUESTS] + [(picture(9), QUESTIONS[1])]
    together = model.route(*zip(*rows, strict=True))
    for row, decision in zip(rows, together, strict=True):
        (alone,) = model.route([row[0]], [row[1]])
        assert alone.entry == decision.entry
        assert alone.distance == pytest.approx(decision.distance, abs=1e-3)


def test_of_three_edits_each_prompt_finds_its_own_expert_and_a_removed_one_leaves_no_trace(vlm):
    edits = [editor("lemoe", **SETTINGS).edit(vlm, one) for one in REQUESTS]
    model = EditedModel(vlm)
    for edit in edits:
        model.add(edit)
    found = model.route([one.image for one in REQUESTS], [one.question for one in REQUESTS])
    assert [one.entry for one in found] == ["cups", "fox", "tea"]
    model.remove("fox")
    without = EditedModel(vlm)
    without.add(edits[0])
    without.add(edits[2])
    for one in REQUESTS:
        assert torch.equal(logits(model, one.image, one.question), logits(without, one.image, one.question))


def test_visual_and_text_tokens_are_averaged_apart_by_a_loop(vlm):
    images, questions = [picture(1), None], [QUESTIONS[0], QUESTIONS[2]]
    encoded = vlm.encode(images, questions)
    site = site_of(vlm, "")
    x = vlm.site_input(vlm.trunk(encoded, site.layer), site)
    found = means(x, encoded)
    for row in range(2):
        sums, counts = torch.zeros(2, x.shape[-1]), [0, 0]
        for column in range(x.shape[1]):
            if bool(encoded.prompt_mask[row, column]):
                half = int(not encoded.visual_mask[row, column])
                sums[half] += x[row, column]
                counts[half] += 1
        expected = torch.cat([sums[i] / max(counts[i], 1) for i in range(2)])
        assert torch.allclose(found[row], expected, atol=1e-4)
    assert torch.allclose(read_means(vlm, site, images[1:], questions[1:])[0], found[1], atol=1e-3)
    assert located(everyday(vlm, site), torch.zeros(2, x.shape[-1])).norm(dim=1).max() <= 1 + 1e-4


def test_gates_are_a_softmax_over_the_highest_and_the_null_anchor():
    e = 2.718281828
    assert gates([1.0, 3.0], 1, True) == {1: 1.0}
    assert gates([-1.0, -3.0], 1, True) == {}
    assert gates([0.0], 1, True) == {}  # the null anchor comes first
    assert gates([-1.0, -3.0], 1, False) == {0: 1.0}
    assert gates([2.0, 2.0], 1, True) == {0: 1.0}  # of equal ones the lower index
    found = gates([1.0, 0.5], 3, True)
    total = e + e**0.5 + 1
    assert found == pytest.approx({0: e / total, 1: e**0.5 / total})
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    parts = [Expert.fresh(5, 4, LemoeConfig(rank=2, seed=i), "cpu") for i in range(2)]
    for part in parts:
        part.write = torch.ones(4, 2)
    mixed = Mixture([(0.25, parts[0]), (0.5, parts[1])]).delta(x)
    assert torch.allclose(mixed, 0.25 * parts[0].delta(x) + 0.5 * parts[1].delta(x), atol=1e-6)


def test_without_the_null_anchor_some_expert_acts_on_everything_and_settings_are_checked():
    vlm = tiny("pocket")
    model = EditedModel(vlm)
    model.edit(REQUESTS[0], "lemoe", **SETTINGS, null=False)
    assert model.answer(None, QUESTIONS[2], 2).decision.fired
    with pytest.raises(EditFailedError, match="more steps"):
        editor("lemoe", steps=1, learning_rate=1e-6).edit(vlm, REQUESTS[0])
    with pytest.raises(InputError, match="topk"):
        editor("lemoe", topk=0)
    with pytest.raises(InputError, match="at several"):
        model.edit(REQUESTS[1], "lemoe", **SETTINGS, site="0.mlp")
