"""LiveEdit: no survivor is the base, weights are the paper's product, and the answer's text decides nothing."""

import math
import random

import pytest
import torch

from tests.contract.fitted import fitted
from tests.evaluate.small import case
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data.case import EditRequest
from vledit.editors.adversarial_fit import usual_probes
from vledit.editors.edited_model import EditedModel
from vledit.editors.liveedit import Experts, Features, LiveEditFit, affinity, edit_of, fused
from vledit.editors.liveedit_fit import INSIDE, LiveEditJob, routing
from vledit.editors.registry import editor
from vledit.editors.training.fitting import Fitting
from vledit.errors import InputError, MissingDataError
from vledit.vlm.acting import layers_acting

REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups", (), "cups")
SMALL = {"steps": 40, "save_every": 100, "width": 16, "heads": 2, "queries": 2, "learning_rate": 0.01}


def logits(model, image, question):
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}
    return torch.cat(model.generate([image], [question], output_logits=True, **options).logits)


@pytest.fixture
def vlm():
    return tiny("pocket")


@pytest.fixture
def edit(vlm):
    return editor("liveedit", fitted=fitted(vlm, "liveedit", REQUEST, SMALL)).edit(vlm, REQUEST)


@pytest.fixture
def model(vlm, edit):
    found = EditedModel(vlm)
    found.memories["liveedit"] = editor("liveedit", fitted=fitted(vlm, "liveedit", REQUEST, SMALL)).memory(vlm)
    found.add(edit)
    return found


def test_the_sentinel_filters_and_what_passes_weighs_by_softmax_times_sigmoid():
    assert fused([0.1, 0.2], [1.0, 1.0], 0.3) == {}
    assert fused([0.1, 0.4], [9.0, 0.0], 0.3) == {1: 0.5}  # one survivor: the sigmoid alone
    assert fused([0.3], [1.0], 0.3) == {}
    found = fused([0.5, 0.6], [0.0, 0.0], 0.3)
    assert found == pytest.approx({0: 0.25, 1: 0.25})


def test_experts_are_those_of_a_loop_token_by_token():
    draw = torch.Generator().manual_seed(0)
    parts = [(w, torch.randn(3, 6, generator=draw), torch.randn(3, 6, generator=draw)) for w in (0.3, 0.7)]
    h = torch.randn(5, 6, generator=draw)
    expected = h.clone()
    for token in range(5):
        normed = (h[token] - h[token].mean()) / (h[token].var(unbiased=False) + 1e-5).sqrt()
        for weight, read, write in parts:
            for row in range(3):
                expected[token] += weight * max(0.0, float(normed @ read[row])) * write[row]
    assert torch.allclose(Experts(parts).apply(h, h), expected, atol=1e-4)


def test_the_edits_request_passes_others_keep_the_bases_bits_and_it_is_kept(vlm, model, tmp_path):
    base = EditedModel(vlm)
    assert model.answer(REQUEST.image, REQUEST.question, 4).decision.fired
    assert not torch.equal(
        logits(model, REQUEST.image, REQUEST.question), logits(base, REQUEST.image, REQUEST.question)
    )
    assert not model.answer(None, QUESTIONS[1], 4).decision.fired
    assert torch.equal(logits(model, None, QUESTIONS[1]), logits(base, None, QUESTIONS[1]))
    model.save_pretrained(tmp_path)
    again = EditedModel.from_pretrained(vlm, tmp_path)
    for row in ((REQUEST.image, REQUEST.question), (None, QUESTIONS[1])):
        assert torch.equal(logits(again, *row), logits(model, *row))
    model.remove("cups")
    assert torch.equal(logits(model, REQUEST.image, REQUEST.question), logits(base, REQUEST.image, REQUEST.question))


def test_a_batch_is_its_rows_alone_and_the_answer_decides_nothing(vlm, model):
    rows = [(REQUEST.image, REQUEST.question), (picture(9), QUESTIONS[2]), (None, QUESTIONS[1])]
    together = model.route(*zip(*rows, strict=True))
    for row, decision in zip(rows, together, strict=True):
        (alone,) = model.route([row[0]], [row[1]])
        assert (alone.entry, alone.distance) == (decision.entry, pytest.approx(decision.distance, abs=1e-3))
    memory = model.memories["liveedit"]
    (read,) = memory.reads()
    site = vlm.resolve_site(memory.site)
    seen = []
    for answer in ("two cups", "the fox"):
        encoded = vlm.encode([REQUEST.image], [REQUEST.question], [answer])
        seen.append(read.pool(vlm.site_output(vlm.trunk(encoded, site.layer), site), encoded))
    assert torch.allclose(*seen, atol=1e-4)


def test_an_expert_does_not_depend_on_other_edits(vlm, model, edit):
    again = editor("liveedit", fitted=fitted(vlm, "liveedit", REQUEST, SMALL)).edit(
        vlm, REQUEST, model.memories["liveedit"]
    )
    for name, tensor in edit.payload.tensors.items():
        assert torch.equal(again.payload.tensors[name], tensor)


def test_every_parameter_learns(vlm, tmp_path):
    job = LiveEditJob.of(Fitting(vlm, [case(0), case(1)], tmp_path, LiveEditFit(**SMALL)))
    with torch.enable_grad():
        spoken, light = job.losses(0, random.Random(0)), job.light_losses(0, random.Random(0))
        torch.stack([*spoken.values(), *light.values()]).sum().backward()
    missing = {
        name for name, one in job.module.named_parameters() if one.grad is None or not float(one.grad.abs().max()) > 0
    }
    assert missing <= {"blind"}  # the token of prompts without a picture learns where such a prompt is drawn


def test_routing_terms_have_steps_of_their_own_and_are_those_of_a_loop(vlm, tmp_path):
    """Read once and put together in one pass, prompt by prompt the same features; the terms as Sec. 3.4 has them."""
    cases = [case(number) for number in range(3)]
    apart, joint = (
        LiveEditJob.of(Fitting(vlm, cases, tmp_path, LiveEditFit(**SMALL, routing_steps=count))) for count in (2, 0)
    )
    assert "visual" not in apart.losses(0, random.Random(0))
    assert {"visual", "text", "sentinel"} <= set(joint.losses(0, random.Random(0)))
    network = apart.module
    read = [apart.frozen[number] for number in range(3)]
    prompts = [apart._prompt(one, row) for one in read for row in range(len(one))]
    many = apart._features("of_request", prompts)
    for row, (question, visual) in enumerate(prompts):
        alone = network.of_request(question, visual if len(visual) else network.blind, network.sentinel)
        for one, together in zip(alone, many, strict=True):
            assert torch.allclose(one, together[row], atol=1e-5)

    phi, psi = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    seen = Features(*torch.randn(3, 3, 3, 5))  # two requests in scope, one out of it
    found = routing(seen, [0, 1, 1], 2, phi, psi)

    def score(one, other):
        return float(sum(float(a @ b) for a, b in zip(one, other, strict=True)) / 3 / 5**0.5)

    sums = {"visual": 0.0, "text": 0.0}
    for row in (0, 1):
        gates = [score(seen.phi[row], phi[0]), score(seen.phi[row], phi[1]), score(seen.phi[row], seen.sentinel[row])]
        words = [score(seen.psi[row], psi[0]), score(seen.psi[row], psi[1])]
        sums["visual"] -= math.log(math.exp(gates[row]) / sum(map(math.exp, gates))) / 2
        sums["text"] -= math.log(math.exp(words[row]) / sum(map(math.exp, words))) / 2
        sums["text"] += math.log(1 + math.exp(-words[row])) / 2 + math.log(1 + math.exp(words[1 - row])) / 2
    away = [score(seen.phi[2], phi[1]), score(seen.phi[2], seen.sentinel[2])]
    assert float(found["visual"]) == pytest.approx(sums["visual"], rel=1e-4)
    assert float(found["text"]) == pytest.approx(sums["text"], rel=1e-4)
    assert float(found["sentinel"]) == pytest.approx(-away[1] + math.log(sum(map(math.exp, away))), rel=1e-4)
    with pytest.raises(InputError, match="routing_steps"):
        LiveEditFit(routing_steps=-1)


def test_unfit_settings_and_a_model_without_a_fitting_are_told(vlm):
    with pytest.raises(InputError, match="heads"):
        LiveEditFit(width=10, heads=4)
    with pytest.raises(MissingDataError, match="vledit fit --editor liveedit"):
        editor("liveedit").edit(vlm, REQUEST)


def test_the_layers_below_the_experts_run_once_for_each_edit_and_dropped_ones_come_back_to_the_same_bits(vlm, tmp_path):
    cases = [case(number) for number in range(2)]
    runs = []
    own, vlm.trunk = vlm.trunk, lambda *given: runs.append(given) or own(*given)
    kept, dropped = (
        LiveEditJob.of(Fitting(vlm, cases, tmp_path, LiveEditFit(**SMALL, memory_gb=memory))) for memory in (1.0, 0.0)
    )
    dropped.module.load_state_dict(kept.module.state_dict())
    found = {}
    for name, job in (("kept", kept), ("dropped", dropped)):
        runs.clear()
        found[name] = [job.losses_of([0, 1], random.Random(step)) for step in range(3)]
        found[name].append(job.light_losses(0, random.Random(0)))
        assert len(runs) == (2 if name == "kept" else 8)
    for some, others in zip(found["kept"], found["dropped"], strict=True):
        assert {name: one.item() for name, one in some.items()} == {name: one.item() for name, one in others.items()}


def test_the_terms_of_a_step_are_those_of_requests_that_are_run_one_by_one(vlm, tmp_path):
    """From the pictures up, one request at a time: the answer where it is in scope, the divergence from the base where not."""
    job = LiveEditJob.of(Fitting(vlm, [case(0), case(1)], tmp_path, LiveEditFit(**SMALL)))
    found = job.losses_of([0, 1], random.Random(3))
    draw, network, layer = random.Random(3), job.module, vlm.resolve_site(job.site).layer
    answer, away = [], []
    for number in (0, 1):
        request, frozen = job.cases[number].request, job.frozen[number]
        rows, names = job._chosen(frozen, draw)
        probes = list(usual_probes(job.cases[number]))
        asked = [(request.image, request.question, request.answer)]
        asked += [(one.image, one.question, request.answer) for known, one in probes if known]
        asked += [(one.image, one.question, one.answer or request.answer) for known, one in probes if not known]
        trunk = vlm.trunk(vlm.encode(*([one] for one in asked[0])), layer)
        own, expert = edit_of(network, vlm.site_output(trunk, job.site)[0], trunk.encoded)
        for row, name in zip(rows, names, strict=True):
            trunk = vlm.trunk(vlm.encode(*([one] for one in asked[row])), layer)
            tokens, encoded = vlm.site_output(trunk, job.site)[0], trunk.encoded
            seen = network.features(network.of_request, tokens, encoded.question_mask[0], encoded.visual_mask[0])
            gate = float(affinity(seen.psi, own.psi).sigmoid())
            base = vlm.head(trunk, positions=encoded.predict_mask).log_softmax(-1)
            with layers_acting(vlm, [{job.site: Experts([(gate, *expert)])}], encoded):
                edited = vlm.head(trunk, positions=encoded.predict_mask).log_softmax(-1)
            if name == INSIDE:
                answer += (-edited[torch.arange(len(edited)), encoded.targets]).tolist()
            else:
                away += (base.exp() * (base - edited)).sum(-1).tolist()
    assert float(found["answer"]) == pytest.approx(sum(answer) / len(answer), rel=1e-3)
    assert float(found["locality"]) == pytest.approx(sum(away) / len(away), rel=1e-2, abs=1e-6)
