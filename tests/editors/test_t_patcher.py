"""T-Patcher: neurons start on the mistake, learn, are silent elsewhere, and are what wider matrices would be."""

import copy

import pytest
import torch
from torch import nn

from tests.vlm.models import QUESTIONS, build, picture, tiny
from vledit.codebook import FullTransformation, NeuronTransformation
from vledit.data.case import EditRequest
from vledit.editors.edited_model import EditedModel
from vledit.editors.fitting import combined
from vledit.editors.registry import editor
from vledit.editors.t_patcher import BETA, Neurons, TPatcherConfig, largest, memory_losses, patch
from vledit.errors import EditFailedError, InputError
from vledit.vlm import VLM

REQUEST = EditRequest(picture(1), QUESTIONS[0], "two cups")
OTHER = EditRequest(None, QUESTIONS[1], "tea")
SETTINGS = {"steps": 60, "unlearnt": "keep"}


@pytest.fixture(params=["pocket", "blip2", "qwen2_5_vl"])
def vlm(request):
    return tiny(request.param)


def trunk_of(vlm):
    return vlm.trunk(vlm.encode([REQUEST.image], [REQUEST.question], [REQUEST.answer]), vlm.n_layers - 1)


def logits(model, image, question):
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}
    return torch.cat(model.generate([image], [question], output_logits=True, **options).logits)


def test_at_the_start_each_neuron_is_active_by_one_on_its_own_token():
    queries = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)) * 4
    made = Neurons(queries, 12, TPatcherConfig()).made()
    assert torch.allclose(made.activations(queries).diagonal(), torch.ones(3), atol=1e-6)


def test_the_answers_loss_has_a_gradient_for_keys_and_values_at_the_first_step(vlm):
    trunk, site = trunk_of(vlm), vlm.resolve_site("-1.mlp")
    queries = vlm.site_input(trunk, site)[trunk.encoded.predict_mask].float()[:2]
    neurons = Neurons(queries, vlm.site_shape(site)[0], TPatcherConfig())
    with torch.enable_grad():
        out = vlm.head(trunk, site, neurons.change(), positions=trunk.encoded.predict_mask).float()
        nn.functional.cross_entropy(out, trunk.encoded.targets).backward()
    for tensor in neurons.learned:
        assert bool(torch.isfinite(tensor.grad).all())
        assert bool((tensor.grad.reshape(2, -1).abs().amax(1) > 0).all())


def test_neurons_fire_on_the_mistake_and_stay_below_the_margin_on_stored_inputs(vlm):
    trunk, site = trunk_of(vlm), vlm.resolve_site("-1.mlp")
    queries = vlm.site_input(trunk, site)[trunk.encoded.predict_mask].float()
    others = torch.randn(40, queries.shape[1], generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(queries.T).Q
    stored = (others - others @ basis @ basis.T) * 3  # nothing of the mistakes in it
    config = TPatcherConfig(steps=300, margin=0.0, patience=300, learning_rate=0.05)
    own, *_ = patch(vlm, trunk, site, stored, {}, config)
    assert len(own.keys)
    assert float(own.activations(stored).max()) <= BETA
    assert bool((own.activations(own.queries).diagonal() > 0).all())


def test_the_losses_are_those_of_a_loop():
    draw = torch.Generator().manual_seed(0)
    own = NeuronTransformation(*(torch.randn(s, generator=draw) for s in ((2, 5), (2,), (2, 3), (2, 5))))
    stored = torch.randn(130, 5, generator=draw)
    fires, silent = memory_losses(own, stored)
    fired = [float(own.queries[p] @ own.keys[p] + own.biases[p]) for p in range(2)]
    assert float(fires) == pytest.approx(sum(torch.tensor(-a).exp().item() for a in fired) / 2, rel=1e-4)
    expected = 0.0
    for p in range(2):
        old = [float(row @ own.keys[p] + own.biases[p]) for row in stored]
        for numbers in ([a - fired[p] + 3 for a in old], [a + 3 for a in old]):
            high = sorted(torch.tensor(numbers).exp().tolist())[-100:]
            expected += sum(high) / len(high) / 2
    assert float(silent) == pytest.approx(expected, rel=1e-4)
    assert float(largest(torch.tensor([0.0, 1.0]), 5)) == pytest.approx((1 + 2.718281828) / 2)


def test_where_no_neuron_is_active_the_base_answers_bit_for_bit(vlm):
    out, width = vlm.site_shape("-1.mlp")
    draw = torch.Generator().manual_seed(0)
    keys, values = torch.randn(3, width, generator=draw), torch.randn(3, out, generator=draw)
    x = vlm.site_input(vlm.trunk(vlm.encode([REQUEST.image], [REQUEST.question]), vlm.n_layers - 1), "-1.mlp")
    lowest = -(x.reshape(-1, width).float() @ keys.T).max() - 1
    silent = NeuronTransformation(keys, lowest.repeat(3), values, keys)
    loud = NeuronTransformation(keys, -lowest.repeat(3), values, keys)
    encoded = vlm.encode([REQUEST.image], [REQUEST.question])
    trunk = vlm.trunk(encoded, vlm.n_layers - 1)
    base = vlm.head(trunk)
    assert torch.equal(vlm.head(trunk, "-1.mlp", silent), base)
    assert not torch.equal(vlm.head(trunk, "-1.mlp", loud), base)


def test_neurons_are_wider_matrices_of_a_relu_mlp():
    """OPT's MLP is fc2(relu(fc1(x))): keys are more rows of the first, values more columns of the second."""
    vlm = build("blip2")
    edit = editor("t_patcher", **SETTINGS).edit(vlm, REQUEST)
    (own,) = edit.weights.values()
    assert len(own.keys)
    model = copy.deepcopy(vlm.model)
    wide = VLM(model, vlm.processor, vlm.family)
    layer = wide.layers[-1]
    first, second = layer.fc1, layer.fc2
    assert layer.activation_fn(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 2.0]
    with torch.no_grad():
        first.weight = nn.Parameter(torch.cat([first.weight, own.keys]))
        first.bias = nn.Parameter(torch.cat([first.bias, own.biases]))
        second.weight = nn.Parameter(torch.cat([second.weight, own.values.T], 1))
    edited = EditedModel(vlm)
    edited.add(edit)
    for row in ((REQUEST.image, REQUEST.question), (picture(5), QUESTIONS[2])):
        assert torch.allclose(logits(edited, *row), logits(EditedModel(wide), *row), atol=1e-4)


def test_an_answer_that_is_given_already_takes_no_neuron(vlm):
    said = vlm.answer([REQUEST.image], [REQUEST.question], 3)[0]
    model = EditedModel(vlm)
    first = model.edit(
        EditRequest(REQUEST.image, REQUEST.question, "two cups"), "t_patcher", steps=150, unlearnt="keep"
    )
    if not first.report.trained:
        pytest.skip("does not apply: a model with random weights does not learn the answer")
    again = editor("t_patcher").edit(vlm, EditRequest(REQUEST.image, REQUEST.question, "two cups"), start=first.weights)
    (own,), (before,) = again.weights.values(), first.weights.values()
    assert said != "two cups"
    assert again.report.trained
    assert again.report.nbytes == 0
    assert len(own.keys) == len(before.keys)


def test_more_wrong_tokens_than_neurons_are_reported(vlm):
    with pytest.warns(UserWarning, match="the first 1 get a neuron"):
        edit = editor("t_patcher", **SETTINGS, most=1).edit(vlm, REQUEST)
    (own,) = edit.weights.values()
    assert len(own.keys) == 1


def test_later_edits_add_neurons_and_keep_the_earlier_ones_bits(vlm, tmp_path):
    model = EditedModel(vlm)
    before = logits(model, REQUEST.image, REQUEST.question)
    first = model.edit(REQUEST, "t_patcher", **SETTINGS)
    second = model.edit(OTHER, "t_patcher", **SETTINGS)
    (old,), (both,) = first.weights.values(), second.weights.values()
    assert len(both.keys) > len(old.keys)
    assert torch.equal(both.keys[: len(old.keys)], old.keys)
    with_both = logits(model, REQUEST.image, REQUEST.question)
    with pytest.raises(InputError, match="remove"):
        model.remove(first.id)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(EditedModel.from_pretrained(vlm, tmp_path), REQUEST.image, REQUEST.question), with_both)
    model.remove(second.id)
    model.remove(first.id)
    assert torch.equal(logits(model, REQUEST.image, REQUEST.question), before)


def test_neurons_and_other_changes_are_not_added_up_and_a_failed_edit_is_refused():
    vlm = tiny("pocket")
    neurons = NeuronTransformation(torch.ones(1, 4), torch.zeros(1), torch.ones(1, 3), torch.ones(1, 4))
    assert len(combined(neurons, neurons).keys) == 2
    with pytest.raises(InputError, match="another site"):
        combined(neurons, FullTransformation(torch.zeros(3, 4)))
    with pytest.raises(InputError, match="keys"):
        NeuronTransformation(torch.ones(1, 4), torch.zeros(2), torch.ones(1, 3), torch.ones(1, 4))
    with pytest.raises(EditFailedError, match="more steps"):
        editor("t_patcher", steps=1).edit(vlm, REQUEST)
    with pytest.raises(InputError, match="most"):
        editor("t_patcher", most=0)
