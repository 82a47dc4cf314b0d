"""The adversarial terms: each is switched by itself, and with them an edit stays where it belongs."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F

from tests.evaluate.small import case
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.data import devqa
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.editors import mend
from vledit.editors.adversarial import TERMS
from vledit.editors.gradient_factors import gradient_factors
from vledit.editors.mend_adv import MendAdv, MendAdvFit
from vledit.editors.mend_fit import MendJob
from vledit.editors.training import artefact
from vledit.editors.training.fitting import Fitting
from vledit.errors import UnknownNameError
from vledit.retrieval import Index

SMALL = {"rank": 4, "warm_up": 2, "locality": "text", "learning_rate": 1e-2, "alpha_rate": 0.1, "steps": 2}


class Words:
    """An encoder by hand: which of some words occur."""

    dim = 6
    fingerprint = "words"

    def encode(self, texts):
        words = ("what", "which", "who", "shown", "animal", "thing")
        found = torch.tensor([[float(word in text.lower()) + 0.01 for word in words] for text in texts])
        return F.normalize(found.reshape(len(texts), 6), dim=1).numpy()


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    monkeypatch.setattr(devqa, "index_of", lambda pool: Index(Words(), devqa.questions(pool)))


def pool():
    """Two cases of `small`, and a record with another question, another picture and another answer."""
    other = EditRequest(picture(70), "Who made this thing?", "tea", ("Who has made it?",), "other")
    return [case(0), case(1), EditCase(other, {}, {"random_image": (Probe(picture(71), QUESTIONS[2]),)})]


def fitted(vlm, folder, editor=MendAdv, config=MendAdvFit, cases=None, **settings):
    chosen = config(**{**SMALL, **settings})
    return editor.fit(Fitting(vlm, pool() if cases is None else cases, folder, chosen))


def job(vlm, **settings):
    fitting = Fitting(vlm, pool(), None, MendAdvFit(**{**SMALL, **settings}))
    fitting.cases = devqa.DevQA(fitting.pool, devqa.index_of(fitting.pool)).wrap_all(fitting.cases)
    return MendJob.of(fitting)


def test_without_weight_the_training_is_mends_bit_for_bit(tmp_path):
    vlm = tiny("pocket")
    plain = fitted(vlm, tmp_path / "mend", mend.Mend, mend.MendFit)
    off = fitted(vlm, tmp_path / "off", adversarial_weight=0.0)
    none = fitted(vlm, tmp_path / "none", adversarial="")
    on = fitted(vlm, tmp_path / "on")
    weights = [(folder / artefact.WEIGHTS).read_bytes() for folder in (plain, off, none, on)]
    assert weights[0] == weights[1] == weights[2] != weights[3]


def test_each_choice_of_terms_changes_the_loss_by_exactly_these():
    vlm = tiny("pocket")
    whole = job(vlm, adversarial_weight=0.7)
    whole.start()
    begun = copy.deepcopy(whole.module.state_dict())
    everything = whole.losses(0, random.Random(0))
    names = list(TERMS)
    for chosen in range(1, 8):
        some = [name for place, name in enumerate(names) if chosen >> place & 1]
        part = job(vlm, adversarial=",".join(some), adversarial_weight=0.7)
        part.module.load_state_dict(begun)
        found = part.losses(0, random.Random(0))
        assert [cell for cell in found if cell[9:] in TERMS.values()] == [f"locality/{TERMS[name]}" for name in some]
        for cell, value in found.items():
            assert float(value.detach()) == pytest.approx(float(everything[cell].detach()), rel=1e-2, abs=1e-5), cell
    with pytest.raises(UnknownNameError, match="adversarial term 'RJ'"):
        MendAdvFit(adversarial="RI,RJ")
    with pytest.raises(UnknownNameError, match="adversarial_answer 'old'"):
        MendAdvFit(adversarial_answer="old")


def test_terms_are_those_of_the_pairs_they_are_named_by_with_the_edited_answer():
    vlm = tiny("pocket")
    made = job(vlm)
    made.start()
    one = made.cases[0]
    expected = {
        "T1I4": (None, one.request.question),
        "T2I2": (picture(70), "Who made this thing?"),
        "T1I3": (picture(71), one.request.question),
    }
    acting = mend.changes(made.module, gradient_factors(vlm, one.frozen([0])[0].trunk, made.module.sites))
    for term in made.plan:
        if term.forced != "new":
            continue
        (row,) = one.rows(term.cell)
        found = made.terms(one, acting, {term: row})[term.cell]
        image, question = expected[term.cell[9:]]
        encoded = vlm.encode([image], [question], [one.request.answer])
        trunk = vlm.trunk(encoded, 0)
        before = vlm.head(trunk, positions=encoded.predict_mask).float().log_softmax(-1)
        after = vlm.anatomy.lm_head(mend.hidden_with(vlm, trunk, acting)).float().log_softmax(-1)
        by_hand = (before.exp() * (before - after)).sum(-1).mean()
        assert float(found.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-2, abs=1e-5), term.cell


def test_an_edit_that_changes_nothing_has_no_adversarial_loss():
    vlm = tiny("pocket")
    made = job(vlm)
    one = made.cases[0]
    rows = {term: one.rows(term.cell)[0] for term in made.plan if term.forced == "new"}
    assert len(rows) == 3
    found = made.terms(one, mend.no_change(vlm, made.module.sites), rows)
    assert all(abs(float(value)) < 1e-5 for value in found.values())


def test_with_the_terms_an_edit_stays_with_its_picture_where_mend_alone_does_not(tmp_path):
    """Two pictures, one question: the edit is learnt on one, and on the other the base is to stay."""
    vlm = tiny("qwen2_5_vl")
    one = case(0)
    other = picture(90)
    cases = [EditCase(one.request, one.generality, {**one.locality, "random_image": (Probe(other, QUESTIONS[1]),)})]
    far = {}
    for editor, config in ((mend.Mend, mend.MendFit), (MendAdv, MendAdvFit)):
        more = {} if editor is mend.Mend else {"adversarial": "RI"}
        folder = fitted(
            vlm, tmp_path / editor.name, editor, config, cases, steps=60, edit_weight=1.0, warm_up=1, **more
        )
        made = editor(mend.MendConfig(fitted=str(folder))).edit(vlm, one.request)
        assert made.report.trained
        trunk = vlm.trunk(vlm.encode([other], [one.request.question], [one.request.answer]), 0)
        before = vlm.head(trunk, positions=trunk.encoded.predict_mask).float().log_softmax(-1)
        after = vlm.anatomy.lm_head(mend.hidden_with(vlm, trunk, made.weights)).float().log_softmax(-1)
        far[editor.name] = float((before.exp() * (before - after)).sum(-1).mean())
    assert far["mend_adv"] < 0.3 * far["mend"]
