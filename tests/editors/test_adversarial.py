"""The adversarial locality loss: against a slow reference, and what training with it keeps."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.data.words_encoder import WordsEncoder
from tests.vlm.models import QUESTIONS, build, picture
from vledit.codebook import FullTransformation
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.data.devqa import DevQA
from vledit.editors.adversarial import (
    TERMS,
    AdversarialProbes,
    Weights,
    cells_of,
    divergences,
    parse_terms,
    plan,
    total_loss,
    wrap_request,
)
from vledit.errors import InputError, UnknownNameError
from vledit.retrieval import Index

SUBSETS = list(chain.from_iterable(combinations(TERMS, size) for size in (1, 2, 3)))


def record(number: int, question: str, answer: str, base: str) -> EditCase:
    request = EditRequest(picture(number), question, answer, (), f"record-{number}")
    unrelated = (Probe(picture(number + 50), "Who made this?"),)
    return EditCase(request, {}, {"random_image": unrelated, "text": (Probe(None, QUESTIONS[2]),)}, base_answer=base)


@pytest.fixture(scope="module")
def companions() -> DevQA:
    pool = [record(n, f"Which {word} is this?", word, "tea") for n, word in enumerate(("animal", "cup", "beach"))]
    return DevQA(pool, Index(WordsEncoder()))


REQUEST = EditRequest(picture(9), "Which capital is this?", "the fox", (), "edit")


def test_terms_are_read_in_any_order_and_each_once():
    assert parse_terms("CI, RI,CI") == ("RI", "CI")
    assert parse_terms("all") == ("RI", "NI", "CI")
    assert parse_terms("") == ()
    with pytest.raises(UnknownNameError, match="RI"):
        parse_terms("R1")
    with pytest.raises(InputError, match="edit_weight"):
        Weights(edit=-0.1)


def test_what_is_run_is_the_edited_question_elsewhere_and_a_similar_one_at_home(companions: DevQA):
    planned = plan(wrap_request(companions, REQUEST), parse_terms("all"))
    assert cells_of(tuple(planned)) == ("T1I3", "T1I4", "T2I2")
    assert [probe.question == REQUEST.question for probe in planned.values()] == [True, True, False]
    assert planned["NI"].image is None
    assert planned["RI"].image is not REQUEST.image
    similar = next(case for case in companions.pool if case.request.question == planned["CI"].question)
    assert planned["CI"].image is similar.request.image
    text = EditRequest(None, "Which capital is this?", "the fox", (), "text")
    assert set(plan(wrap_request(companions, text), parse_terms("all"))) == {"RI", "CI"}
    with pytest.raises(InputError, match="DevQA"):
        plan(EditCase(REQUEST, {}, {}), ("RI",))


def test_divergences_against_a_slow_reference_and_their_gradient():
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(7, 11, generator=generator).log_softmax(-1)
    logits = torch.randn(7, 11, generator=generator, dtype=torch.float64).requires_grad_()
    owners = torch.tensor([0, 0, 1, 2, 2, 2, 2])
    found = divergences(base, logits, owners, ("RI", "NI", "CI"))
    p = np.exp(base.double().numpy())
    q = np.exp(logits.detach().numpy())
    q /= q.sum(1, keepdims=True)
    slow = (p * np.log(p / q)).sum(1)
    for row, term in enumerate(("RI", "NI", "CI")):
        assert found[term].item() == pytest.approx(slow[owners.numpy() == row].mean(), rel=1e-4)
    (gradient,) = torch.autograd.grad(found["CI"], logits)
    expected = (q - p) / 4  # of KL(p ‖ softmax(z)) with respect to z, mean over the four positions
    assert np.allclose(gradient[3:].numpy(), expected[3:], atol=1e-5)
    assert not gradient[:3].any()
    with pytest.raises(InputError, match="same 7 positions"):
        divergences(base[:5], logits, owners, ("RI", "NI", "CI"))


def test_the_whole_loss_is_the_weighted_sum():
    terms = {"RI": torch.tensor(2.0), "NI": torch.tensor(3.0)}
    assert float(total_loss(torch.tensor(10.0), torch.tensor(5.0), terms)) == pytest.approx(1 + 5 + 5)
    weights = Weights(1.0, 0.5, 2.0)
    assert float(total_loss(torch.tensor(10.0), None, terms, weights)) == pytest.approx(10 + 10)
    assert float(total_loss(torch.tensor(10.0), None, {}, weights)) == 10


@pytest.fixture(scope="module")
def trained(companions: DevQA) -> dict[tuple[str, ...], dict[str, float]]:
    """Terms trained with → term → what is left of the divergence, after the same steps; and whether the edit took."""
    vlm = build("pocket", 3)
    site = vlm.default_site
    probes = AdversarialProbes.of(vlm, plan(wrap_request(companions, REQUEST), tuple(TERMS)), site.layer)
    edit = vlm.trunk(vlm.encode([REQUEST.image], [REQUEST.question], [REQUEST.answer]), site.layer)
    shape = vlm.site_module(site).weight.shape
    found = {}
    for terms in [(), *SUBSETS]:
        learned = torch.zeros(shape, requires_grad=True)
        change = FullTransformation(learned)
        optimizer = torch.optim.Adam([learned], lr=0.02)
        for _ in range(40):
            logits = vlm.head(edit, site, change, positions=edit.encoded.predict_mask)
            apart = probes.divergences(vlm.head(probes.trunk, site, change, positions=probes.positions))
            kept = {term: apart[term] for term in terms}
            optimizer.zero_grad()
            total_loss(F.cross_entropy(logits, edit.encoded.targets), None, kept, Weights(1.0, 1.0, 1.0)).backward()
            optimizer.step()
        left = probes.divergences(vlm.head(probes.trunk, site, change, positions=probes.positions))
        found[terms] = {term: value.item() for term, value in left.items()}
        found[terms]["edit"] = float(vlm.verify(edit, site, change).exact[0])
    return found


@pytest.mark.parametrize("terms", SUBSETS, ids="-".join)
def test_training_with_a_term_keeps_what_it_is_about_and_the_edit(trained, terms: tuple[str, ...]):
    without = trained[()]
    assert without["edit"] == 1.0
    assert trained[terms]["edit"] == 1.0
    for term in terms:
        assert trained[terms][term] < 0.5 * without[term]


def test_unchanged_the_divergence_is_nothing(companions: DevQA):
    vlm = build("pocket", 3)
    probes = AdversarialProbes.of(vlm, plan(wrap_request(companions, REQUEST), tuple(TERMS)), vlm.default_site.layer)
    logits = vlm.head(probes.trunk, vlm.default_site, positions=probes.positions)
    assert all(abs(float(value)) < 1e-6 for value in probes.divergences(logits).values())
    assert probes.terms == ("RI", "NI", "CI")
    assert probes.trunk.encoded.has_image.tolist() == [True, False, True]
    planned = plan(wrap_request(companions, REQUEST), tuple(TERMS))
    forced = AdversarialProbes.of(vlm, planned, vlm.default_site.layer, REQUEST.answer)
    tokens = vlm.answer_tokens(REQUEST.question, REQUEST.answer)
    assert forced.trunk.encoded.targets.tolist() == tokens * 3
