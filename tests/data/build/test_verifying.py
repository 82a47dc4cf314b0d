"""Who verifies: a model behind an endpoint, a tiny model here; and the verdicts held against a known truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from vledit.data.build.chat import Endpoint
from vledit.data.build.construct import Built, Wants, precision_recall
from vledit.data.build.records import JudgedPicture, MadePicture, SourceRecord, Texts
from vledit.data.build.store import Store
from vledit.data.build.verifying import EmbeddingMeaning, EndpointVerifier, Judge, ModelVerifier
from vledit.errors import MissingDataError

from ...vlm.models import tiny
from .scripted_server import serving, square
from .world import construction, write_source


def test_a_verifier_behind_an_endpoint_sees_the_picture(tmp_path: Path):
    source = write_source(tmp_path / "source", 5, wrong=1)
    with serving() as server:
        verifier = EndpointVerifier(Endpoint(server.url, "seeing"), Store(tmp_path / "store"))
        result = construction(source, server.url, tmp_path / "store", verifier=verifier).run()
    assert len(result.kept) == 4
    assert [r.record for r in result.rejections if r.step == "known"] == ["s4"]
    assert result.rejections[0].reason == "the verifier answers 'It is purple.' on its own picture, not 'orange'"


def test_a_verifier_that_is_gone_is_told(tmp_path: Path):
    square("red").save(tmp_path / "a.png")
    verifier = EndpointVerifier(Endpoint("http://127.0.0.1:9/v1", "m", retries=0), Store(tmp_path))
    with pytest.raises(MissingDataError, match="nobody answers"):
        verifier.answers([(tmp_path / "a.png", "What?")])


def test_a_model_answers_with_and_without_a_picture_and_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    vlm = tiny("pocket")
    square("red").save(tmp_path / "a.png")
    judge = Judge(ModelVerifier(vlm), Store(tmp_path / "store"))
    asked = [("a", tmp_path / "a.png", "What is this?"), ("", None, "What is two plus two?")]
    found = judge.ask([*asked, asked[0]], "")
    assert found[0] == found[2] == vlm.answer([tmp_path / "a.png"], ["What is this?"], 16)[0]
    assert found[1] == vlm.answer([None], ["What is two plus two?"], 16)[0]
    monkeypatch.setattr(vlm, "answer", None)  # whoever asks again fails
    assert judge.ask(asked, "") == found[:2]


def test_without_a_sentence_encoder_the_models_embeddings_compare():
    meaning = EmbeddingMeaning(tiny("pocket"))
    same, other = meaning.cosines([("a cat", "a cat"), ("a cat", "what is it for?")])
    assert same == pytest.approx(1.0)
    assert other < same


def test_precision_and_recall_are_those_of_the_verdicts():
    source = SourceRecord("1", Path("a.png"), "What?", "cat", ("cat",))

    def judged(number: int, accepted: bool, right: bool | None, by: str = "verifier") -> JudgedPicture:
        made = MadePicture("1", "image", number, "", Path(f"{number}.jpg"), str(number), right)
        return JudgedPicture(made, "cat", "cat", "" if accepted else "no", by)

    verdicts = [(True, True)] * 6 + [(True, False)] * 2 + [(False, True)] * 3 + [(False, False)] * 4
    pictures = [judged(n, *verdict) for n, verdict in enumerate(verdicts)]
    pictures += [judged(90, True, None), judged(91, True, False, "human")]
    table = precision_recall([Built(source, Texts(), "cat", pictures=pictures)])["image"]
    assert table["precision"] == 6 / 8
    assert table["recall"] == 6 / 9
    assert table["rejected wrong"] == 4
    nothing = precision_recall([Built(source, Texts(), "cat", pictures=[judged(0, False, False)])])["image"]
    assert nothing["precision"] is None
    assert nothing["recall"] is None


def test_a_damaged_picture_of_the_source_is_rejected_with_its_reason(tmp_path: Path):
    source = write_source(tmp_path / "source", 4)
    (tmp_path / "source/2.png").write_bytes((tmp_path / "source/2.png").read_bytes()[:40])
    with serving() as server:
        result = construction(source, server.url, tmp_path / "store", wants=Wants(2, 1, 1, 0, 2)).run()
    assert len(result.kept) == 3
    (one,) = [r for r in result.rejections if r.step == "source"]
    assert one.record == "s2"
    assert "damaged" in one.reason
