"""BalancEdit's `scope=last`: the last prompt token as key, and its radius: fitted, or made by the edit itself."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.evaluate.small import case
from tests.vlm.models import QUESTIONS, picture, tiny
from vledit.codebook.scope import anchor_picture, distance
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.editors import own_reach, reach, reach_fit
from vledit.editors.balancedit import BalancEdit, BalancEditConfig
from vledit.editors.edited_model import EditedModel
from vledit.editors.rephrase import TEMPLATES
from vledit.editors.scoping import fitting_of
from vledit.errors import InputError
from vledit.evaluate.ablations import fitting_costs

QUICK = {"steps": 200, "learning_rate": 0.05, "margin": 1.0, "rephrase": "supplied"}
REQUEST = EditRequest(picture(0), QUESTIONS[0], "two cups", ("What can be seen?",), "one")


@pytest.fixture(scope="module")
def vlm():
    return tiny("pocket")


def test_the_key_is_the_last_prompt_token_and_the_radius_the_threshold(vlm):
    site = vlm.resolve_site(vlm.default_site)
    model = EditedModel(vlm)
    made = model.edit(REQUEST, scope="last", threshold=0.25, **QUICK)
    scope = made.entry.scopes[0]
    assert (scope.key_tokens, scope.radius, scope.alpha) == ("last", 0.25, None)
    encoded = vlm.encode([REQUEST.image], [REQUEST.question])
    last = vlm.site_input(vlm.trunk(encoded, site.layer), site)[
        0, -1
    ]  # without padding the last token is the prompt's last
    np.testing.assert_allclose(scope.key, last.numpy(), rtol=1e-4, atol=1e-5)
    answer = model.answer(REQUEST.image, REQUEST.question)
    assert answer.text == "two cups"
    assert answer.decision.entry == "one"


def test_decisions_do_not_depend_on_the_batch(vlm):
    model = EditedModel(vlm)
    model.edit(REQUEST, scope="last", threshold=0.5, **QUICK)
    images = [None, REQUEST.image, picture(3)]
    questions = ["?", REQUEST.question, "A much longer question, " * 5 + "is it one?"]
    together = model.answers(images, questions, 4)
    for image, question, one in zip(images, questions, together, strict=True):
        alone = model.answer(image, question, 4)
        assert (alone.text, alone.decision.fired) == (one.text, one.decision.fired)
        assert alone.decision.distance == pytest.approx(one.decision.distance, abs=1e-4)
    assert [one.decision.fired for one in together][1]


def test_a_saved_edit_decides_as_before_and_the_papers_lives_beside_it(vlm, tmp_path):
    model = EditedModel(vlm)
    model.edit(REQUEST, scope="last", threshold=0.1, **QUICK)
    model.edit(EditRequest(picture(7), QUESTIONS[1], "the fox", ("Who is there?",), "two"), **QUICK, alpha=1.0)
    model.save_pretrained(tmp_path)
    for held in (model, EditedModel.from_pretrained(vlm, tmp_path)):
        assert held.answer(REQUEST.image, REQUEST.question).decision.entry == "one"
        assert held.answer(picture(7), QUESTIONS[1]).decision.entry == "two"


def keys_of(vlm, asked):
    """The keys one by one, read apart from the editor's own code."""
    site = vlm.resolve_site(vlm.default_site)
    found = []
    for image, question in asked:
        encoded = vlm.encode([image], [question])
        found.append(vlm.site_input(vlm.trunk(encoded, site.layer), site)[0, -1].double())
    return found


def test_without_a_fitting_an_edit_makes_its_own_radius(vlm):
    assert reach.reach(vlm, vlm.resolve_site(vlm.default_site), "euclidean") is None
    made = BalancEdit(BalancEditConfig(scope="last", **QUICK)).edit(vlm, REQUEST)
    wordings = ["What can be seen?", *(template.format(question=REQUEST.question) for template in TEMPLATES)]
    blank = [anchor_picture(name, vlm.image_size, seed=0) for name in ("black", "noise")]
    key, *keys = keys_of(
        vlm,
        [
            (REQUEST.image, REQUEST.question),
            *((REQUEST.image, text) for text in wordings),
            *((one, REQUEST.question) for one in blank),
        ],
    )
    away = [float((one - key).norm()) for one in keys]
    limit = min(away[-2:])
    held = max([one for one in away[:-2] if one < limit], default=0.0)
    assert made.entry.radius == pytest.approx(held + 0.3 * (limit - held), rel=1e-4)


def test_without_a_fitting_the_threshold_of_text_is_measured_once(vlm):
    site = vlm.resolve_site(vlm.default_site)
    found = reach.measured(vlm, site, "euclidean")
    assert found > 0
    assert reach.measured(vlm, site, "euclidean") is found
    text = BalancEdit(BalancEditConfig(scope="last", **QUICK)).edit(
        vlm, EditRequest(None, QUESTIONS[2], "two cups", ("Tell it.",), "three")
    )
    assert text.entry.radius == found


def test_the_radius_between_rewordings_and_blank_pictures():
    assert own_reach.own([1.0, 3.0], [13.0, 20.0], 0.3) == pytest.approx(6.0)
    assert own_reach.own([1.0, 30.0], [13.0, 20.0], 0.5) == pytest.approx(7.0)  # a rewording out there is not reached
    assert own_reach.own([30.0], [13.0], 0.5) == 6.5
    for away in (0.0, 2.0, 8.0, 20.0):  # the share is what `own` is undone by
        between = own_reach.share(away, *own_reach.ends([1.0, 3.0], [13.0]))
        assert own_reach.own([1.0, 3.0], [13.0], between) == pytest.approx(away)


def test_traffic_narrows_the_radius_but_not_below_the_rewordings():
    seen = [float(one) for one in range(10, 210)]  # 200: two of them may lie inside
    radius = own_reach.kept_out(50.0, [4.0], seen)
    assert sum(one <= radius for one in seen) == 2
    assert own_reach.kept_out(5.0, [4.0], seen) == 5.0
    assert own_reach.kept_out(50.0, [30.0], seen) == 30.0
    assert own_reach.kept_out(50.0, [4.0], [20.0]) < 20.0


def test_a_folder_of_traffic_is_kept_out(vlm, tmp_path):
    for number in (1, 2):
        picture(number).save(tmp_path / f"{number}.png")
    (tmp_path / "questions.txt").write_text(f"{QUESTIONS[1]}\n\n{REQUEST.question}\n")
    made = BalancEdit(BalancEditConfig(threshold=1e6, negatives=str(tmp_path), **QUICK)).edit(vlm, REQUEST)
    asked = [(picture(1), REQUEST.question), (picture(2), REQUEST.question), (REQUEST.image, QUESTIONS[1])]
    key, *keys = keys_of(vlm, [(REQUEST.image, REQUEST.question), *asked])
    wordings = keys_of(vlm, own_reach.inside(REQUEST, "What can be seen?"))
    nearest, farthest = (f(float((one - key).norm()) for one in some) for f, some in ((min, keys), (max, wordings)))
    assert made.entry.radius == pytest.approx(max(nearest, farthest), rel=1e-4)
    with pytest.raises(InputError, match="no folder"):
        own_reach.traffic(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="neither pictures"):
        own_reach.traffic(str(tmp_path / "empty"))
    (tmp_path / "empty" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="negatives"):
        own_reach.of_traffic(REQUEST, str(tmp_path / "empty"))


def test_the_papers_scope_is_meant_where_its_settings_are_given():
    assert not BalancEditConfig().by_paper
    assert BalancEditConfig().tokens == "last"
    for settings in ({"scope": "paper"}, {"alpha": 0.3}, {"key_tokens": "visual"}):
        assert BalancEditConfig(**settings).by_paper
    assert BalancEditConfig(alpha=0.3).tokens == "mean"


def test_the_threshold_is_where_both_shares_are_largest_together():
    draw = np.random.default_rng(1)
    for _ in range(20):
        inside, outside = draw.gamma(2, 1, 30).round(1), (draw.gamma(3, 2, 25) + 1).round(1)
        found = reach.threshold(inside, outside)

        def right(t, inside=inside, outside=outside):
            return (inside <= t).mean() + (outside > t).mean()

        assert right(found) == pytest.approx(max(right(t) for t in np.linspace(0, 30, 601)))
    assert reach.threshold([1.0, 2.0], [4.0, 5.0]) == 3.0
    with pytest.raises(InputError, match="both needed"):
        reach.threshold([], [1.0])


def test_read_is_the_distance_that_the_router_takes(vlm):
    site = vlm.resolve_site(vlm.default_site)
    keys = reach.read(vlm, site, [None, None, picture(0)], ["a?", "b b b?", "c?"], rows=2)
    alone = reach.read(vlm, site, [picture(0)], ["c?"])
    assert distance(alone, keys[2:], "euclidean")[0, 0] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scope": "last", "alpha": 0.3}, "alpha"),
        ({"scope": "last", "key_tokens": "visual"}, "key_tokens"),
        ({"scope": "last", "threshold": -1.0}, "threshold"),
        ({"scope": "last", "threshold": float("nan")}, "threshold"),
        ({"scope": "paper", "threshold": 1.0}, "threshold"),
        ({"alpha": 0.3, "threshold": 1.0}, "threshold"),
        ({"scope": "paper", "negatives": "here"}, "negatives"),
        ({"scope": "lost"}, "scope"),
    ],
)
def test_unfit_settings_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        BalancEditConfig(**settings)


def test_a_fitting_is_found_counted_and_tied_to_its_site(vlm, tmp_path):
    site = vlm.resolve_site(vlm.default_site)
    found = reach_fit.fit(vlm, [case(0), case(1)], tmp_path)
    read = reach.reach(vlm, site, "euclidean", tmp_path)
    assert (read.picture, read.text, read.share) == (found.picture, found.text, found.share)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["edits"] == {"picture": 2, "text": 0}
    assert manifest["seconds"] > 0
    fitted = BalancEditConfig(scope_fitted=str(tmp_path))
    assert fitting_of(vlm, fitted) == manifest
    assert fitting_costs(manifest) == {"fitting_hours": manifest["seconds"] / 3600, "fitted_on": 2}
    assert fitting_of(vlm, BalancEditConfig(scope="paper")) is None
    assert fitting_of(vlm, BalancEditConfig(threshold=3.0)) is None
    assert manifest["rule"] == ("threshold" if found.share is None else "share")
    assert all(
        0 <= one <= 1 for one in (*manifest["right"]["threshold"].values(), *manifest["right"]["share"].values())
    )
    assert found.text == reach.measured(vlm, site, "euclidean")  # too few edits without a picture
    with pytest.raises(InputError, match="fit-scope"):
        reach.reach(vlm, site, "cosine", tmp_path)
    with pytest.raises(InputError, match="none has a picture"):
        reach_fit.fit(vlm, [], tmp_path)


def test_without_a_picture_what_is_outside_is_told_by_the_nearest_edit_that_it_does_not_ask_for(vlm, tmp_path):
    site = vlm.resolve_site(vlm.default_site)
    subjects = ("France", "Spain", "Peru", "Kenya", "Norway")

    def capital(number: int) -> EditCase:
        here, there = subjects[number], subjects[(number + 1) % len(subjects)]
        return EditCase(
            request=EditRequest(None, f"What is the capital of {here}?", "Oslo", id=f"text/{here}"),
            generality={"text": (Probe(None, f"Name the capital of {here}."),)},
            locality={
                "other_subject": (Probe(None, f"What is the capital of {there}?", tags={"fact": there}),),
                "other_question": (Probe(None, f"What is spoken in {here}?", tags={"fact": f"{here}/language"}),),
            },
            tags={"fact": here},
        )

    found = reach_fit.fit(vlm, [case(0), *map(capital, range(5))], tmp_path)
    edits = reach.read(vlm, site, [None] * 5, [f"What is the capital of {one}?" for one in subjects])
    inside = [
        float(np.linalg.norm(key - edit))
        for edit, key in zip(
            edits, reach.read(vlm, site, [None] * 5, [f"Name the capital of {one}." for one in subjects]), strict=True
        )
    ]
    outside = []
    for number in range(5):
        there = (number + 1) % 5  # another subject: an edit of its own, so the nearest of the other four counts
        outside.append(min(float(np.linalg.norm(edits[there] - edits[other])) for other in range(5) if other != there))
        spoken = reach.read(vlm, site, [None], [f"What is spoken in {subjects[number]}?"])[0]
        outside.append(min(float(np.linalg.norm(spoken - edit)) for edit in edits))
    assert found.text == pytest.approx(reach.threshold(inside, outside), rel=1e-4)
    assert json.loads((tmp_path / "manifest.json").read_text())["edits"] == {"picture": 1, "text": 5}
