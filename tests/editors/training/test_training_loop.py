"""The loop that fits: killed and resumed it ends in the same bits; what does not belong together is refused."""

import json
import os
import random
import signal

import pytest
import torch
from torch import nn

from tests.vlm.models import tiny
from vledit.data.case import EditCase, EditRequest
from vledit.editors.training import artefact
from vledit.editors.training.fitting import Fitting
from vledit.editors.training.loop import CHECKPOINT, LOG, fit, read_log, settling
from vledit.editors.training.settings import FitSettings
from vledit.errors import CodebookError, InputError, MissingDataError, ModelMismatchError

VLM = tiny("pocket")
DATA = {"benchmark": "toy"}


class Job:
    """A regression whose steps use everything that a checkpoint has to bring back: dropout, statistics, Adam, the draw."""

    def __init__(self, stop_at=None, kill=False):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.calls = 0
        self.started = 0
        self.stop_at, self.kill = stop_at, kill

    def __len__(self):
        return 5

    def start(self):
        self.started += 1
        self.module[1].running_mean.fill_(0.5)

    def optimizer(self):
        return torch.optim.Adam(self.module.parameters(), lr=0.05)

    def losses(self, number, draw):
        self.calls += 1
        if self.calls == self.stop_at:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        x = torch.rand(6, 4) + number
        y = self.module(x) - draw.random()
        return {"fit": y.pow(2).mean(), "small": 0.01 * self.module[0].weight.pow(2).sum()}


def run(job, folder, **more):
    settings = FitSettings(**{"steps": 20, "batch": 2, "save_every": 3, "log_every": 4, **more.pop("settings", {})})
    return fit(job, more.pop("vlm", VLM), "toy", folder, settings, more.pop("data", DATA), **more)


def outcome(folder):
    """The learnt bits, and the learning curve without times."""
    curve = [{name: value for name, value in line.items() if name != "seconds"} for line in read_log(folder)]
    return (folder / artefact.WEIGHTS).read_bytes(), curve


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(Job(), folder, clip=1.0, rate=settling)
    return outcome(folder)


@pytest.mark.parametrize("stop_at", [2, 7, 13, 30, 39])
def test_a_run_that_is_interrupted_and_resumed_ends_in_the_same_bits(tmp_path, whole, stop_at):
    with pytest.raises(KeyboardInterrupt):
        run(Job(stop_at), tmp_path, clip=1.0, rate=settling)
    assert not (tmp_path / artefact.MANIFEST).exists()
    again = Job()
    run(again, tmp_path, clip=1.0, rate=settling)
    assert outcome(tmp_path) == whole
    checkpoint = (stop_at - 1) // 2 // 3 * 3  # two calls a step, saved every third
    assert again.calls == 40 - 2 * checkpoint
    assert again.started == 0


def test_a_run_that_is_killed_and_resumed_ends_in_the_same_bits(tmp_path, whole):
    child = os.fork()
    if child == 0:
        run(Job(17, kill=True), tmp_path, clip=1.0, rate=settling)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    run(Job(), tmp_path, clip=1.0, rate=settling)
    assert outcome(tmp_path) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [artefact.MANIFEST, artefact.WEIGHTS, LOG, "run.json"]
    )


def test_other_seeds_end_elsewhere_and_every_case_has_its_turn(tmp_path, whole):
    seen = []

    class Noting(Job):
        def losses(self, number, draw):
            seen.append(number)
            return super().losses(number, draw)

    run(Noting(), tmp_path, settings={"seed": 1})
    assert outcome(tmp_path)[0] != whole[0]
    epochs = [sorted(seen[start : start + 5]) for start in range(0, 40, 5)]
    assert epochs == [[0, 1, 2, 3, 4]] * 8
    assert len({tuple(seen[start : start + 5]) for start in range(0, 40, 5)}) > 1


def test_the_learning_curve_holds_means_of_every_step_once(tmp_path):
    given = []
    run(Job(), tmp_path, progress=lambda done, steps, losses: given.append((done, steps, losses["fit"])))
    assert [done for done, _, _ in given] == list(range(1, 21))
    curve = read_log(tmp_path)
    assert [line["step"] for line in curve] == [4, 8, 12, 16, 20]
    for start, line in zip(range(0, 20, 4), curve, strict=True):
        assert line["fit"] == pytest.approx(sum(loss for _, _, loss in given[start : start + 4]) / 4, rel=1e-4)


def interrupted(folder):
    with pytest.raises(KeyboardInterrupt):
        run(Job(17), folder)


def test_a_run_goes_on_only_with_what_it_was_started_with(tmp_path):
    interrupted(tmp_path)
    with pytest.raises(InputError, match=r"seed: the run in .* was started with 0, not 5"):
        run(Job(), tmp_path, settings={"seed": 5})
    with pytest.raises(InputError, match="benchmark: the run"):
        run(Job(), tmp_path, data={"benchmark": "another"})
    with pytest.raises(ModelMismatchError, match="for another model"):
        run(Job(), tmp_path, vlm=tiny("blip2"))
    # how often is saved, and how long it shall be, may change
    run(Job(), tmp_path, settings={"save_every": 2, "steps": 22})
    assert read_log(tmp_path)[-1]["step"] == 22


def test_a_finished_run_is_not_run_again_unless_told_so(tmp_path):
    run(Job(), tmp_path)
    done = outcome(tmp_path)
    again = Job()
    run(again, tmp_path)
    assert again.calls == 0
    with pytest.raises(InputError, match="has ended after 20 steps; restart it to have 30"):
        run(again, tmp_path, settings={"steps": 30})
    run(again, tmp_path, resume=False)
    assert (again.calls, again.started) == (40, 1)
    assert outcome(tmp_path) == done


def test_a_damaged_checkpoint_is_said(tmp_path):
    interrupted(tmp_path)
    data = (tmp_path / CHECKPOINT).read_bytes()
    for damaged in (data[: len(data) // 2], b""):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        with pytest.raises(MissingDataError, match=r"cannot be read .* restart"):
            run(Job(), tmp_path)


def test_a_loss_that_is_no_number_ends_the_run_with_its_name(tmp_path):
    class Broken(Job):
        def losses(self, number, draw):
            return {"fit": torch.tensor(float("nan"), requires_grad=True)}

    with pytest.raises(InputError, match=r"not a number at step 0 \(fit nan\)"):
        run(Broken(), tmp_path)


# --- artefacts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fitted(tmp_path):
    run(Job(), tmp_path / "fit")
    return tmp_path / "fit"


def test_an_artefact_is_read_on_its_model_alone(fitted):
    found = artefact.read(fitted, "toy", VLM)
    assert found.settings["steps"] == 20
    assert found.about["data"] == DATA
    assert set(found.tensors) == set(Job().module.state_dict())
    with pytest.raises(ModelMismatchError, match="vledit fit --editor toy"):
        artefact.read(fitted, "toy", tiny("blip2"))
    with pytest.raises(CodebookError, match="fitted for the editor 'toy', not for 'mend'"):
        artefact.read(fitted, "mend", VLM)


def test_a_damaged_artefact_is_refused(fitted):
    weights = fitted / artefact.WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CodebookError, match="damaged"):
        artefact.read(fitted, "toy", VLM)
    weights.write_bytes(whole)
    manifest = json.loads((fitted / artefact.MANIFEST).read_text())
    (fitted / artefact.MANIFEST).write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CodebookError, match="format 99"):
        artefact.read(fitted, "toy", VLM)
    (fitted / artefact.MANIFEST).write_text("{")
    with pytest.raises(CodebookError, match="cannot be read"):
        artefact.read(fitted, "toy", VLM)


def test_the_artefact_is_found_where_fit_puts_it_and_else_the_command_is_said(fitted, tmp_path, monkeypatch):
    monkeypatch.setenv("VLEDIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(MissingDataError, match="run `vledit fit --editor toy --model"):
        artefact.find("toy", VLM)
    monkeypatch.setattr(artefact, "SHIPPED", tmp_path / "shipped")
    place = tmp_path / "shipped" / artefact.default_folder("toy", VLM).name
    place.parent.mkdir()
    fitted.rename(place)
    assert artefact.find("toy", VLM).folder == place
    usual = artefact.default_folder("toy", VLM)
    run(Job(), usual, settings={"seed": 3})
    assert artefact.find("toy", VLM).folder == usual
    assert artefact.find("toy", VLM, place).folder == place
    with pytest.raises(MissingDataError, match=r"holds no finished fitting \(manifest.json is missing\)"):
        artefact.find("toy", VLM, tmp_path / "nowhere")


# --- Fitting ----------------------------------------------------------------------------------------------------------


def test_a_fitting_takes_cases_spread_evenly_and_names_them_in_the_manifest(tmp_path):
    cases = [EditCase(EditRequest(None, f"What is {i}?", "two", id=str(i)), {}, {}) for i in range(10)]
    settings = FitSettings(steps=1, cases=3)
    fitting = Fitting(VLM, cases, tmp_path, settings, {"benchmark": "toy"})
    assert [case.id for case in fitting.cases] == ["0", "3", "6"]
    fitting.run("toy", Job())
    assert artefact.read(tmp_path, "toy", VLM).about["data"]["cases"] == 3
    other = [*cases[:9], EditCase(EditRequest(None, "Who?", "two", id="9"), {}, {})]
    Fitting(VLM, other, tmp_path, settings, {"benchmark": "toy"}).run("toy", Job())  # the tenth is not taken
    other[0] = other[9]
    with pytest.raises(InputError, match="cases_hash: the run"):
        Fitting(VLM, other, tmp_path, settings, {"benchmark": "toy"}).run("toy", Job())
    with pytest.raises(InputError, match="per_cell: 0 given"):
        FitSettings(per_cell=0)


def test_the_rate_stays_and_then_settles():
    assert [settling(step, 10) for step in (0, 7)] == [1.0, 1.0]
    assert settling(9, 10) == pytest.approx(1 / 3)
    assert random.Random("x").random() == random.Random("x").random()


def test_a_run_out_of_time_keeps_what_it_has_and_goes_on_when_it_is_given_more(tmp_path, whole):
    """The clock is the test's own: a step takes half a minute."""

    class Slow(Job):
        def losses(self, number, draw):
            clock[0] += 15.0  # two cases a step
            return super().losses(number, draw)

    clock = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vledit.editors.training.loop.time.perf_counter", lambda: clock[0])
        run(Slow(), tmp_path, clip=1.0, settings={"minutes": 3.0})
        about = artefact.read(tmp_path, "toy", VLM).about
        assert (about["steps"], about["seconds"], about["out_of_time"]) == (6, 180.0, True)
        job = Slow()
        run(job, tmp_path, clip=1.0, settings={"minutes": 3.0})
        assert not job.calls
    run(Job(), tmp_path, clip=1.0)
    untimed = tmp_path / "untimed"
    run(Job(), untimed, clip=1.0)
    about = artefact.read(tmp_path, "toy", VLM).about
    assert about["steps"] == 20
    assert "out_of_time" not in about
    assert outcome(tmp_path)[0] == outcome(untimed)[0]
    assert not (tmp_path / CHECKPOINT).exists()


def test_with_a_budget_the_rate_falls_with_the_clock(tmp_path):
    seen, clock = [], [0.0]

    def rate(step, steps):
        seen.append(step / steps)
        return 1.0

    class Slow(Job):
        def losses(self, number, draw):
            clock[0] += 15.0
            return super().losses(number, draw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vledit.editors.training.loop.time.perf_counter", lambda: clock[0])
        run(Slow(), tmp_path, rate=rate, settings={"minutes": 2.0, "steps": 1000})
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_large_matrices_may_be_kept_in_float16_and_are_read_as_float32(tmp_path, monkeypatch):
    monkeypatch.setattr("vledit.editors.training.loop.LARGE", 32)
    run(Job(), tmp_path / "whole", clip=1.0)
    run(Job(), tmp_path / "half", clip=1.0, settings={"half": True})
    full, half = (artefact.read(tmp_path / name, "toy", VLM).tensors for name in ("whole", "half"))
    assert torch.equal(half["0.weight"], full["0.weight"].half().float())
    assert not torch.equal(half["0.weight"], full["0.weight"])
    for name in ("0.bias", "1.running_mean", "1.running_var", "3.weight"):
        assert torch.equal(half[name], full[name]), name


def test_cases_of_a_step_are_given_at_once_to_a_job_that_takes_them_together(tmp_path):
    """The same mean loss: the last bits differ, the curve does not."""

    class Plain(Job):
        def losses(self, number, draw):
            return {"fit": (self.module[0](torch.full((1, 4), float(number)))).pow(2).mean()}

    class Together(Plain):
        def losses_of(self, numbers, draw):
            return {"fit": torch.stack([self.losses(number, draw)["fit"] for number in numbers]).mean()}

    run(Plain(), tmp_path / "one")
    run(Together(), tmp_path / "all")
    one, both = ([line["fit"] for line in read_log(tmp_path / name)] for name in ("one", "all"))
    assert both == pytest.approx(one, rel=1e-4)


class Light(Job):
    """With light steps, whose loss depends on step and draw."""

    light_steps = 3

    def light_losses(self, step, draw):
        return {"light": (self.module[3].weight - draw.random() - step).pow(2).mean()}


def test_light_steps_are_steps_of_the_optimiser_before_each_step_and_resume_to_the_same_bits(tmp_path):
    run(Light(), tmp_path / "whole", clip=1.0, rate=settling)
    with pytest.raises(KeyboardInterrupt):
        run(Light(17), tmp_path / "cut", clip=1.0, rate=settling)
    run(Light(), tmp_path / "cut", clip=1.0, rate=settling)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")

    # two steps by hand: 3 light ones and one on two cases each, with one state of Adam
    run(Light(), tmp_path / "two", settings={"steps": 2, "log_every": 1})
    hand = Light()
    adam, means = hand.optimizer(), []
    hand.start()
    with torch.enable_grad():
        for step in range(2):
            torch.manual_seed(random.Random(f"0/torch/{step}").getrandbits(63))
            values = []
            for part in range(3):
                adam.zero_grad()
                loss = hand.light_losses(step, random.Random(f"0/light/{step}/{part}"))["light"]
                loss.backward()
                adam.step()
                values.append(float(loss.detach()))
            means.append(sum(values) / 3)
            adam.zero_grad()
            order = _order(5, 0)
            for part in range(2):
                terms = hand.losses(order[2 * step + part], random.Random(f"0/step/{step}/{part}"))
                (sum(terms.values()) / 2).backward()
            adam.step()
    for name, tensor in artefact.read(tmp_path / "two", "toy", VLM).tensors.items():
        assert torch.allclose(tensor.double(), hand.module.state_dict()[name].double(), atol=1e-6), name
    assert [line["light"] for line in read_log(tmp_path / "two")] == pytest.approx(means, rel=1e-4)


def _order(count, epoch):
    numbers = list(range(count))
    random.Random(f"0/epoch/{epoch}").shuffle(numbers)
    return numbers
