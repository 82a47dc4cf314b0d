"""The whole build over a real local server, in a world where the truth is known: coloured squares."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from vledit.data import benchmarks
from vledit.data.build.construct import Unfinished, Wants
from vledit.data.reading import Files, demand

from .scripted_server import Faults, serving
from .world import QUESTION, ColourVerifier, build, construction, digest, write_source

ROOT = Path(__file__).parents[3]
TROUBLE = Faults(malformed=0.3, hopeless=0.1, refused=0.25, wrong=0.25, unpaintable=0.1, limited=0.2, broken=0.1)


def test_a_build_without_faults_gives_whole_cases(tmp_path: Path):
    source = write_source(tmp_path / "source", 10)
    with serving() as server:
        manifest = build(source, server.url, tmp_path / "store", tmp_path / "out")
    assert sum(manifest["cases"].values()) == 10
    assert manifest["rates"]["image"] == [30, 30]
    assert manifest["rates"]["near_image"] == [20, 20]
    cases = [case for split in ("train", "validation", "test") for case in read_okedit(tmp_path / "out" / split)]
    for case in cases:
        assert case.request.question == QUESTION
        assert len({case.base_answer, case.request.answer, case.locality["near_image"][0].answer}) == 3
        assert [len(case.generality[cell]) for cell in ("text", "image")] == [4, 3]
        assert len(case.request.rephrases) == 1  # of the two for the editor, one wording was too far in meaning
        assert all(probe.answer == case.base_answer for probe in case.generality["image"])


def read_okedit(folder: Path):
    if not folder.is_dir():
        return []
    return demand(benchmarks.read("okedit", Files(folder / "annotations.json", (folder,))))


def test_own_lines_hold_the_same_cases_as_the_published_layout(tmp_path: Path):
    source = write_source(tmp_path / "source", 8)
    with serving() as server:
        build(source, server.url, tmp_path / "store", tmp_path / "out", wants=Wants(4, 2, 2, 2, 4))
    for split in ("train", "test"):
        folder = tmp_path / "out" / split
        own = demand(benchmarks.read("cases", Files(folder / "cases.jsonl")))
        assert own
        assert own == read_okedit(folder)
        assert [probe.image for probe in own[0].locality["text"]] == [None, None]


def test_published_pictures_are_the_verified_ones_byte_for_byte(tmp_path: Path):
    source = write_source(tmp_path / "source", 4)
    with serving() as server:
        build(source, server.url, tmp_path / "store", tmp_path / "out")
    made = {path.read_bytes() for path in (tmp_path / "store/pictures").rglob("*.jpg")}
    published = [path for path in (tmp_path / "out").rglob("*.jpg") if "_images" in str(path)]
    assert published
    assert all(path.read_bytes() in made for path in published)


def test_only_what_the_verifier_sees_rightly_is_accepted_and_nothing_is_lost(tmp_path: Path):
    source = write_source(tmp_path / "source", 20, wrong=3)
    with serving(TROUBLE) as server:
        parts = construction(source, server.url, tmp_path / "store")
        result = parts.run()
    verifier = ColourVerifier()
    for one in result.judged:
        for judged in one.pictures:
            shown = verifier.answers([(judged.picture.path, "")])[0]
            if judged.accepted:
                assert shown == judged.expected
            else:
                assert shown != judged.expected or "same picture" in judged.reason
    reasons = Counter(rejection.step for rejection in result.rejections)
    assert reasons["known"] == 3
    final = ("known", "record", "counterfactual", "object", "third_answer", "third_object", "rephrase")
    accounted = {one.source.id for one in result.kept} | {r.record for r in result.rejections if r.step in final}
    assert accounted == {f"s{number}" for number in range(20)}
    assert any("refused by the language model" in r.reason for r in result.rejections)
    assert any("no usable reply after asking 3 times" in r.reason for r in result.rejections)
    assert any("refused by the picture model" in r.reason for r in result.rejections)
    for role in ("image", "near_image"):
        tried, accepted = result.rates[role]
        assert tried == accepted + reasons[role]
    tried, accepted = result.rates["rephrasing"]
    assert tried == accepted + reasons["rephrasing"]
    assert sum(asks for _, asks in result.asks.values()) > sum(tasks for tasks, _ in result.asks.values())


def test_a_second_run_asks_nothing_and_gives_the_same_bytes(tmp_path: Path):
    source = write_source(tmp_path / "source", 8)
    with serving(TROUBLE) as server:
        build(source, server.url, tmp_path / "store", tmp_path / "first", concurrency=1)
        asked = server.paths.total()
        verifier = ColourVerifier()
        build(source, server.url, tmp_path / "store", tmp_path / "second", verifier=verifier)
        assert server.paths.total() == asked
        assert verifier.asked == 0
        build(source, server.url, tmp_path / "other store", tmp_path / "third", concurrency=8)
    assert digest(tmp_path / "first") == digest(tmp_path / "second") == digest(tmp_path / "third")


def test_no_object_and_no_picture_is_in_two_splits(tmp_path: Path):
    source = write_source(tmp_path / "source", 20)
    with serving() as server:
        build(source, server.url, tmp_path / "store", tmp_path / "out")
    things: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        for case in read_okedit(tmp_path / "out" / split):
            things.setdefault(case.tags["concept"], set()).add(split)
    assert len(things) == 10
    assert all(len(splits) == 1 for splits in things.values())


def test_what_gets_no_reply_is_told_and_the_next_run_goes_on(tmp_path: Path):
    source = write_source(tmp_path / "source", 6)
    with serving(Faults(limited=1.0)) as server:
        parts = construction(source, server.url, tmp_path / "store")
        parts.writer.chat.endpoint = parts.writer.chat.endpoint.__class__(server.url, "scripted", retries=0)
        with pytest.raises(Unfinished, match="6 records lack texts"):
            parts.run()
        manifest = build(source, server.url, tmp_path / "store", tmp_path / "out")  # the second coming is answered
    assert sum(manifest["cases"].values()) == 6


def test_a_human_stands_above_the_verifier(tmp_path: Path):
    source = write_source(tmp_path / "source", 3)
    with serving() as server:
        before = construction(source, server.url, tmp_path / "store").run()
        refused = before.kept[0].accepted("image")[0].picture
        said = {f"{refused.record}/image/{refused.number}": False}
        after = construction(source, server.url, tmp_path / "store", review=said).run()
    pictures = after.kept[0].accepted("image")
    assert refused not in [one.picture for one in pictures]
    assert len(pictures) == 3  # another was made in its place
    assert any(r.reason == "rejected by a human" for r in after.rejections)


KILLS = 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_killed_50_times_it_gives_the_bytes_of_an_undisturbed_run(tmp_path: Path):
    source = write_source(tmp_path / "source", 5)
    port = tmp_path / "port"
    faults = {"malformed": 0.3, "wrong": 0.25, "limited": 0.1, "refused": 0.05, "slow": 0.01}
    command = [sys.executable, "-m", "tests.data.build.scripted_server", str(port), json.dumps(faults)]
    server = subprocess.Popen(command, cwd=ROOT)
    try:
        while not (port.is_file() and port.read_text()):
            time.sleep(0.01)
        url = f"http://127.0.0.1:{port.read_text()}/v1"
        started = time.monotonic()
        finish(source, url, tmp_path / "quiet", None)
        whole = time.monotonic() - started
        chance, killed = random.Random(0), 0
        disturbed = tmp_path / "disturbed"
        while killed < KILLS:
            killed += finish(source, url, disturbed, whole * chance.random() / 4)
            if (disturbed / "out").is_dir():  # it came to its end before the fiftieth kill: begin again, half done
                for number, path in enumerate(sorted((disturbed / "store").rglob("*.json"))):
                    if number % 2:
                        path.unlink()
        finish(source, url, disturbed, None)
    finally:
        server.kill()
        server.wait()
    assert digest(disturbed / "out") == digest(tmp_path / "quiet/out")


def finish(source: Path, url: str, folder: Path, kill_after: float | None) -> bool:
    """Runs the build in a process of its own; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            build(source, url, folder / "store", folder / "out", wants=Wants(2, 2, 2, 0, 4))
            os._exit(0)
        except BaseException:
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)
