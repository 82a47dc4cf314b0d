"""The training script on a tiny model and a stand-in for the data: seeded, resumable, nothing lost to a kill."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import LlamaConfig

from tests.demo.standins import StandInData
from tests.vlm.tokens import byte_level
from vledit.errors import InputError, MissingDataError
from vledit.pocket import checking, learner, machine, train
from vledit.pocket.configuration import IMAGE_TOKEN, IMAGE_TOKEN_ID, PocketConfig
from vledit.pocket.curves import continued
from vledit.pocket.examples import FACTS, Examples, in_turn
from vledit.pocket.modeling import PocketForConditionalGeneration
from vledit.pocket.train import TrainConfig, Training

CONFIG = TrainConfig(
    align_steps=5,
    align_vision_from=2,
    align_batch=3,
    listen_steps=5,
    listen_batch=4,
    listen_length=120,
    answer_steps=5,
    answer_batch=4,
    length=160,
    rank=2,
    settle_steps=2,
    warmup=2,
    save_every=2,
    check_every=1000,
    threads=1,
    compiled=False,
    dtype="float32",
)


@dataclass
class Data(StandInData):
    """Marks that can be told apart, as pictures with a transparent ground."""

    def picture(self, drawing: Any) -> Image.Image:
        return self.composite(drawing, 0, "clean", 192).convert("RGBA")


def tiny_model(dtype: Any = None, image_size: int = 192, memory_slots: int = 0) -> tuple[Any, Any]:
    """As `assemble.new_model`, with random weights and a small language model."""
    fillers = [f"<{i}>" for i in range(3, IMAGE_TOKEN_ID)]  # so that `<image>` has the number that it has in SmolLM2
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *fillers, IMAGE_TOKEN], None)
    assert tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == IMAGE_TOKEN_ID
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    sizes = {"qformer_hidden_size": 16, "qformer_heads": 2, "qformer_intermediate_size": 32}
    config = PocketConfig(language, image_size=image_size, memory_slots=memory_slots, **sizes)
    return PocketForConditionalGeneration(config), tokenizer


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "new_model", tiny_model)
    real = Training.check_recognition
    monkeypatch.setattr(Training, "check_recognition", lambda self: real(self, count=3))


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def trained(folder: Path) -> dict[str, torch.Tensor]:
    Training(folder, CONFIG, Data()).run()
    return load_file(folder / "weights.safetensors")


def killed_at(monkeypatch: pytest.MonkeyPatch, folder: Path, stage: str, step: int) -> None:
    """Runs until that step of that stage has begun, and no further."""
    learn = Training._learn

    def until_killed(self: Training, batch: Any) -> dict[str, float]:
        if (self.stage, self.step) == (stage, step):
            raise KeyboardInterrupt
        return learn(self, batch)

    run = Training(folder, CONFIG, Data())
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_learn", until_killed)
        with pytest.raises(KeyboardInterrupt):
            run.run()


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole")
    for stage in train.STAGES:  # at step 3: what was done since the checkpoint at 2 is done again
        killed_at(monkeypatch, tmp_path / "killed", stage, 3)
    again = trained(tmp_path / "killed")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    resumed = [(r["stage"], r["step"]) for r in records(tmp_path / "killed") if r.get("event") == "resumed"]
    assert resumed == [(stage, 2) for stage in train.STAGES]
    assert [r["step"] for r in continued(records(tmp_path / "killed")) if r.get("event") == "check"] == [5, 5, 5]


def test_everything_that_should_learn_learns_and_nothing_else(tmp_path):
    before = Training(tmp_path / "before", CONFIG, Data())
    start, frozen = before.learner.trained_state(), before.learner.model.state_dict()
    frozen = {name: tensor.clone() for name, tensor in frozen.items()}
    after = Training(tmp_path / "run", CONFIG, Data())
    after.run()
    end = after.learner.trained_state()
    for part in ("vision_model.blocks", "qformer.", "language_projection.", "lora."):
        assert any(not torch.equal(start[n], end[n]) for n in start if n.startswith(part)), part
    for name, tensor in after.learner.model.state_dict().items():
        if name not in end and not name.endswith((".a", ".b")):  # the adapters, saved under names of their own
            assert torch.equal(frozen[name], tensor), name


def test_another_seed_gives_other_weights(tmp_path):
    one = trained(tmp_path / "one")
    Training(tmp_path / "other", replace(CONFIG, seed=1), Data()).run()
    other = load_file(tmp_path / "other" / "weights.safetensors")
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_longer_run_goes_on_from_a_finished_one_and_says_so(tmp_path):
    trained(tmp_path)
    Training(tmp_path, replace(CONFIG, answer_steps=7), Data()).run()
    (resumed,) = [r for r in records(tmp_path) if r.get("event") == "resumed"]
    assert (resumed["step"], resumed["changed"]) == (5, {"answer_steps": [5, 7]})
    assert json.loads((tmp_path / "config.json").read_text())["answer_steps"] == 7
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 7


@pytest.mark.parametrize(("setting", "value"), [("seed", 4), ("rank", 3)])
def test_a_run_keeps_its_seed_and_its_rank(tmp_path, setting, value):
    (tmp_path / "run").mkdir()
    Training(tmp_path / "run", CONFIG, Data()).save()
    with pytest.raises(InputError, match=rf"{setting}: the run in .* was started with"):
        Training(tmp_path / "run", replace(CONFIG, **{setting: value}), Data())
    assert json.loads((tmp_path / "run" / "config.json").read_text())[setting] == getattr(CONFIG, setting)


@pytest.mark.parametrize("kept", [0, 100, -1000])
def test_a_truncated_checkpoint_is_told(tmp_path, kept):
    Training(tmp_path, CONFIG, Data()).save()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(MissingDataError, match=r"checkpoint\.pt' cannot be read .* delete it"):
        Training(tmp_path, CONFIG, Data())


def test_a_checkpoint_that_was_being_written_does_no_harm(tmp_path):
    Training(tmp_path, CONFIG, Data()).save()
    (tmp_path / "checkpoint.tmp").write_bytes(b"half")
    assert Training(tmp_path, CONFIG, Data()).step == 0


def rates(run: Training, stage: str, steps: int) -> list[float]:
    run.stage = stage
    found = []
    for run.step in range(steps + 1):
        found.append(run.rate())
    return found


def test_the_rate_warms_up_and_falls_to_its_floor(tmp_path):
    config = replace(CONFIG, align_steps=100, listen_steps=100, answer_steps=100, settle_steps=40, warmup=10)
    run = Training(tmp_path, config, Data())
    align, listen, answer = (rates(run, stage, 100) for stage in train.STAGES)
    middle = CONFIG.floor + (1 - CONFIG.floor) / 2
    for found in (align, listen, answer):
        assert np.allclose(found[:10], np.arange(1, 11) / 10)
        assert all(before >= after for before, after in pairwise(found[10:]))
    assert align[55] == pytest.approx(middle)
    assert listen[10:] == [1.0] * 91
    assert answer[10:61] == [1.0] * 51
    assert answer[80] == pytest.approx(middle)
    assert align[100] == answer[100] == pytest.approx(CONFIG.floor)


def test_a_longer_run_is_the_same_up_to_where_the_shorter_settles(tmp_path):
    short = Training(tmp_path / "short", replace(CONFIG, answer_steps=30, settle_steps=10), Data())
    long = Training(tmp_path / "long", replace(CONFIG, answer_steps=50, settle_steps=10), Data())
    assert rates(short, "answer", 20) == rates(long, "answer", 20)


def test_a_rate_that_was_changed_is_learnt_with(tmp_path, monkeypatch):
    killed_at(monkeypatch, tmp_path / "run", "answer", 3)
    run = Training(tmp_path / "run", replace(CONFIG, answer_rates=(0.5, 0.25, 0.125)), Data())
    used = {}
    learn = Training._learn

    def noted(self: Training, batch: Any) -> dict[str, float]:
        used.update({group["name"]: group["lr"] / run.rate() for group in self._groups()})
        return learn(self, batch)

    monkeypatch.setattr(Training, "_learn", noted)
    run.run()
    assert used == {"lora": pytest.approx(0.5), "reader": pytest.approx(0.25), "memory": pytest.approx(0.125)}


def test_a_slot_learns_where_its_thing_is_shown_and_nowhere_else(tmp_path, monkeypatch):
    learn = Training._learn
    moved, shown = [], []

    def noted(self: Training, batch: Any) -> dict[str, float]:
        slots = self.learner.model.qformer.memory_values
        before = slots.detach().clone()
        values = learn(self, batch)
        if self.stage != "align":
            moved.append(set((slots != before).any(1).nonzero().flatten().tolist()))
            shown.append({c for c in batch.concepts.tolist() if c >= 0} if self.stage == "answer" else set())
        return values

    monkeypatch.setattr(Training, "_learn", noted)
    trained(tmp_path)
    assert moved == shown
    assert any(shown)
    assert any(len(slots) < len(Examples(Data()).names) for slots in shown)


def test_only_the_language_model_learns_to_listen(tmp_path, monkeypatch):
    killed_at(monkeypatch, tmp_path / "run", "listen", 0)
    start = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["weights"]
    killed_at(monkeypatch, tmp_path / "run", "answer", 0)
    end = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["weights"]
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed == {name for name in start if name.startswith("lora.")}


def test_examples_show_no_held_out_drawing_and_no_test_wording():
    data = Data()
    examples = Examples(data)
    held_out = {d.id for d in data.drawings if d.split == "held_out"}
    shown: list[str] = []
    picture = data.picture
    data.picture = lambda drawing: shown.append(drawing.id) or picture(drawing)  # type: ignore[method-assign]
    asked = [pair[0] for step in range(40) for row in examples.batch(0, step, 6) for pair in row.pairs]
    assert held_out
    assert not held_out & set(shown)
    assert not any("test wording" in question for question in asked)
    assert any("train wording" in question for question in asked)


@pytest.mark.parametrize(("size", "unpictured"), [(3, 1), (4, 2)])
def test_every_concept_and_every_fact_comes_once_in_a_turn(size, unpictured):
    examples = Examples(Data())
    count = len(examples.pictured)
    shown, told = [], []
    for step in range(4 * count * len(examples.facts)):
        rows = examples.batch(0, step, size, unpictured=unpictured)
        assert len(rows) == size
        shown += [row.tags["concept"] for row in rows if row.concept not in (-1, examples.nothing)]
        told += [
            pair for row in rows for pair in row.pairs if row.picture is None and pair[2].startswith("text.brands")
        ]
        if len(shown) >= 3 * count and len(told) >= 2 * len(examples.facts):
            break
    turns = [tuple(shown[i : i + count]) for i in range(0, 3 * count, count)]
    assert all(sorted(turn) == sorted(examples.pictured) for turn in turns)
    assert len(set(turns)) > 1
    first = told[: len(examples.facts) - len(examples.facts) % FACTS]  # whole rows of the first turn
    names = {examples.data.concepts[concept].name for _, concept in examples.facts}
    said = [(next(name for name in names if f" {name}" in question), kind) for question, _, kind in first]
    assert len(set(said)) == len(said)


def test_in_turn_goes_on_where_it_was():
    whole = in_turn(list("abcde"), 0, 23, "key")
    assert whole == [in_turn(list("abcde"), i, 1, "key")[0] for i in range(23)]
    assert whole[:20] != in_turn(list("abcde"), 0, 20, "another")


def test_a_picture_is_asked_all_its_kinds_before_any_again():
    examples = Examples(Data())
    rng = random.Random(0)
    for _ in range(20):
        kinds = [kind for _, _, kind in examples.picture_row(rng).pairs]
        facts = {f"brands.{kind}" for kind in examples.data.concepts[examples.pictured[0]].facts}
        assert kinds[0] == "brands.brand"
        assert set(kinds[: len(facts)]) == facts


@pytest.mark.parametrize(("slow", "chosen"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_the_frozen_part_is_in_the_dtype_that_is_faster_here(tmp_path, monkeypatch, slow, chosen):
    monkeypatch.setattr(machine, "_seconds_of_a_product", lambda dtype: float(str(dtype) == f"torch.{slow}"))
    run = Training(tmp_path, replace(CONFIG, dtype="auto"), Data())
    assert str(run.learner.model.language_model.dtype) == f"torch.{chosen}"
    assert records(tmp_path) == [records(tmp_path)[0] | {"event": "started", "dtype": chosen}]
    visual, _ = run.learner.look(torch.zeros(1, 3, 192, 192))
    assert torch.isfinite(visual).all()


def test_a_dtype_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"unknown dtype 'bfloat17'\. Did you mean 'bfloat16'"):
        Training(tmp_path, replace(CONFIG, dtype="bfloat17"), Data())


def test_exact_by_pair_against_a_loop(tmp_path):
    run = Training(tmp_path, CONFIG, Data())
    packed = run.packer.pack(run.examples.batch(0, 0, CONFIG.answer_batch))
    targets = packed.targets[packed.targets != -100]
    predicted = np.where(np.random.default_rng(0).random(len(targets)) < 0.2, 0, targets)
    expected, at = [], 0
    for row in range(len(packed.tokens)):
        for number, kind in enumerate(packed.kinds[row], start=1):
            count = int(((packed.segments[row] == number) & (packed.targets[row] != -100)).sum())
            expected.append((kind, bool((predicted[at : at + count] == targets[at : at + count]).all())))
            at += count
    assert at == len(targets)
    found = checking.exact_by_pair(packed, predicted, targets)
    assert found == expected
    assert {right for _, right in found} == {True, False}
