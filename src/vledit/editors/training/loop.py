"""The loop that fits an editor: killed at any moment it goes on from its last checkpoint, to the same bits as without the kill.

Whatever is drawn in a step is a function of the settings' seed and the step's number; what is learnt (weights, statistics,
the optimiser's state) is in the checkpoint.  A checkpoint is one safetensors file that appears whole or not at all.
(With a time budget, a rate that falls towards the end follows the clock, so that two such runs are alike, not equal.)
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ...data.cache import sha256_json, write_atomic
from ...errors import InputError, MissingDataError
from . import artefact
from .cases import order
from .settings import FitSettings, decisive

if TYPE_CHECKING:
    from ...vlm.base import VLM

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"
RUN = "run.json"
LARGE = 4096
"""Learnt tensors from so many numbers on are kept in float16 where the settings ask for it; statistics never are."""

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called after every step with the steps done, the steps of the run, and this step's losses."""

Rate = Callable[[float, int], float]


def settling(step: float, steps: int) -> float:
    """A rate that stays, and falls to nothing over the last 30 % of the steps."""
    return min(1.0, (steps - step) / max(0.3 * steps, 1.0))


class Job(Protocol):
    """What is fitted."""

    @property
    def module(self) -> nn.Module:
        """Everything that is learnt, statistics as buffers."""
        ...

    def __len__(self) -> int:
        """How many cases there are."""
        ...

    def start(self) -> None:
        """Done once, before the first step of a run that begins; not when one is resumed."""
        ...

    def optimizer(self) -> torch.optim.Optimizer:
        """Over the module's parameters, each of which is in one group."""
        ...

    def losses(self, number: int, draw: random.Random) -> Mapping[str, Tensor]:
        """The terms, already weighted, whose sum is minimised, on case `number`.

        A job that also has `losses_of(numbers, draw)` is given all cases of a step at once: their mean terms.  One that has
        `light_steps` (a number) and `light_losses(step, draw)` takes so many steps of the optimiser on these terms before each
        step on its cases: for terms that need no run of the model, which cost little beside those that do.
        """
        ...


def fit(
    job: Job,
    vlm: VLM,
    editor: str,
    folder: Path,
    settings: FitSettings,
    data: Mapping[str, Any],
    *,
    clip: float | None = None,
    rate: Rate | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Runs a job to its end and writes its artefact into `folder`; returns the folder.

    Args:
        data: what the cases are (benchmark, split, hash of their content); a run goes on only with the same.
        clip: most that the gradient's norm may be.
        rate: (step, steps) → share of the learning rates that holds in this step; default: all of it.
        resume: go on with the run that is in the folder, if there is one; else its files are deleted first.

    Raises:
        InputError: the folder holds a run with other settings or data, or a loss is not a number.
        ModelMismatchError: it holds a run for another model.
        MissingDataError: its checkpoint is damaged.
    """
    return _Run(job, vlm, editor, folder, settings, data, clip, rate, progress).go(resume)


class _Run:
    def __init__(
        self,
        job: Job,
        vlm: VLM,
        editor: str,
        folder: Path,
        settings: FitSettings,
        data: Mapping[str, Any],
        clip: float | None,
        rate: Rate | None,
        progress: Progress | None,
    ):
        self.job, self.vlm, self.editor, self.folder, self.settings = job, vlm, editor, folder, settings
        self.data, self.clip, self.rate, self.progress = dict(data), clip, rate, progress
        self.step = 0
        self.seconds = 0.0
        self.window: list[dict[str, float]] = []

    # --- the way of a run -------------------------------------------------------------------------------------------

    def go(self, resume: bool) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            for name in (artefact.MANIFEST, artefact.WEIGHTS, CHECKPOINT, LOG, RUN):
                (self.folder / name).unlink(missing_ok=True)
        self._check_same_run()
        if self._is_finished():
            return self.folder
        torch.manual_seed(self.settings.seed)
        self.optimizer = self.job.optimizer()
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        if (self.folder / CHECKPOINT).exists():
            self._load()
        else:
            self._write_run()
            began = time.perf_counter()
            self.job.start()
            self.seconds = time.perf_counter() - began
            self._save()
        self._cut_log()
        while self.step < self.settings.steps and not self._out_of_time:
            self._take_step()
        if self.window:
            self._log()
        self._finish()
        return self.folder

    @property
    def _out_of_time(self) -> bool:
        return 0 < 60 * self.settings.minutes <= self.seconds

    def _progress(self) -> float:
        """How far the run is, in steps: as many of its steps as are done, or as much of its time, whichever is more."""
        settings = self.settings
        spent = self.seconds / (60 * settings.minutes) if settings.minutes else 0.0
        return max(self.step, min(spent, 1.0) * settings.steps)

    def _take_step(self) -> None:
        began = time.perf_counter()
        settings = self.settings
        torch.manual_seed(_number(settings.seed, self.step))
        if self.rate is not None:
            for group, highest in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = highest * self.rate(self._progress(), settings.steps)
        sums: dict[str, float] = {}
        light = int(getattr(self.job, "light_steps", 0))
        for part in range(light):
            draw = random.Random(f"{settings.seed}/light/{self.step}/{part}")
            terms = self.job.light_losses(self.step, draw)  # type: ignore[attr-defined]
            taken = self._descend([(terms, 1.0)])
            for name in terms:
                sums[name] = sums.get(name, 0.0) + taken[name] / light
        sums.update(self._descend(self._terms()))
        self.step += 1
        self.seconds += time.perf_counter() - began
        self.window.append(sums)
        if self.progress is not None:
            self.progress(self.step, settings.steps, sums)
        last = self.step == settings.steps
        if self.step % settings.log_every == 0 or last:
            self._log()
        if self.step % settings.save_every == 0 or last:
            self._save()

    def _descend(self, parts: Iterable[tuple[Mapping[str, Tensor], float]]) -> dict[str, float]:
        """One step of the optimiser on terms with their shares; the values of the terms, and the gradient's norm."""
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for terms, share in parts:
            if terms:
                loss = torch.stack([term.float() for term in terms.values()]).sum() * share
                if not bool(torch.isfinite(loss)):
                    values = ", ".join(f"{name} {float(term.detach()):g}" for name, term in terms.items())
                    raise InputError(
                        f"loss: not a number at step {self.step} ({values}). Give a lower learning rate and restart."
                    )
                loss.backward()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + float(term.detach()) * share
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.clip is not None:
            sums["gradient"] = float(nn.utils.clip_grad_norm_(parameters, self.clip))
        self.optimizer.step()
        return sums

    def _terms(self) -> Iterator[tuple[Mapping[str, Tensor], float]]:
        """The terms of the cases of this step, each with its share of the loss."""
        settings, job = self.settings, self.job
        places = range(self.step * settings.batch, (self.step + 1) * settings.batch)
        numbers = [order(len(job), place // len(job), settings.seed)[place % len(job)] for place in places]
        together = getattr(job, "losses_of", None)
        if together is not None:
            yield together(numbers, random.Random(f"{settings.seed}/step/{self.step}")), 1.0
            return
        for part, number in enumerate(numbers):
            draw = random.Random(f"{settings.seed}/step/{self.step}/{part}")
            yield job.losses(number, draw), 1 / settings.batch

    def _finish(self) -> None:
        from ...evaluate.manifest import environment

        about = {
            "data": self.data,
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "environment": environment(self.vlm),
        }
        tensors = self.job.module.state_dict()
        if self.settings.half:
            learnt = {name for name, parameter in self.job.module.named_parameters() if parameter.numel() >= LARGE}
            tensors = {name: one.half() if name in learnt else one for name, one in tensors.items()}
        if self.step < self.settings.steps:  # given more time, it goes on from its checkpoint
            about["out_of_time"] = True
            self._save()
        artefact.write(self.folder, self.editor, self.vlm, asdict(self.settings), tensors, about)
        if self.step == self.settings.steps:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)

    # --- is it the same run? ----------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        return {
            "editor": self.editor,
            "model": self.vlm.fingerprint,
            "dtype": str(self.vlm.dtype),
            "settings": json.loads(json.dumps(decisive(self.settings))),
            "data": self.data,
        }

    def _write_run(self) -> None:
        write_atomic(self.folder / RUN, (json.dumps(self._identity(), indent=1) + "\n").encode())

    def _check_same_run(self) -> None:
        from ...errors import ModelMismatchError

        path = self.folder / RUN
        if not path.exists():
            return
        try:
            before = json.loads(path.read_bytes())
        except ValueError as error:
            raise MissingDataError(
                f"'{path}' cannot be read ({error}). Fit into another folder, or restart."
            ) from error
        now = self._identity()
        advice = "Go on with what was, choose another folder, or restart."
        if before.get("model") != now["model"]:
            raise ModelMismatchError(
                f"out: the run in '{self.folder}' is for another model ({before.get('model')}, this one is {now['model']}). "
                f"{advice}"
            )
        for old, new in (
            (before, {name: now[name] for name in ("editor", "dtype")}),
            (before["settings"], now["settings"]),
            (before["data"], now["data"]),
        ):
            for name, value in new.items():
                if old.get(name) != value:
                    raise InputError(
                        f"{name}: the run in '{self.folder}' was started with {old.get(name)}, not {value}. {advice}"
                    )

    def _is_finished(self) -> bool:
        """Raises: InputError where it is finished, but of another length."""
        path = self.folder / artefact.MANIFEST
        if not path.exists():
            return False
        about = artefact.read(self.folder, self.editor, self.vlm).about
        done = about.get("steps")
        if about.get("out_of_time"):
            minutes = self.settings.minutes
            more = not minutes or 60 * minutes > float(about.get("seconds", 0))
            return not (more and (self.folder / CHECKPOINT).exists())
        if done != self.settings.steps:
            raise InputError(
                f"steps: the run in '{self.folder}' has ended after {done} steps; restart it to have {self.settings.steps}."
            )
        return True

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        from safetensors.torch import save

        tensors = {f"module/{name}": tensor for name, tensor in self.job.module.state_dict().items()}
        numbers: dict[str, float] = {}
        for index, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{index}/{name}"] = value
                elif value is not None:
                    numbers[f"{index}/{name}"] = value
        about = {
            "step": self.step,
            "seconds": self.seconds,
            "window": self.window,
            "numbers": numbers,
            "run": sha256_json(self._identity()),
        }
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_atomic(self.folder / CHECKPOINT, save(plain, {"about": json.dumps(about)}))

    def _load(self) -> None:
        from safetensors import SafetensorError, safe_open

        path = self.folder / CHECKPOINT
        try:
            with safe_open(str(path), "pt") as file:
                about = json.loads(file.metadata()["about"])
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            if about["run"] != sha256_json(self._identity()):
                raise ValueError("it belongs to another run")
            own = {n.removeprefix("module/"): t for n, t in tensors.items() if n.startswith("module/")}
            self.job.module.load_state_dict({name: tensor.to(self.vlm.device) for name, tensor in own.items()})
            state: dict[int, dict[str, Any]] = {}
            for name, tensor in tensors.items():
                if name.startswith("optimizer/"):
                    _, index, key = name.split("/")
                    state.setdefault(int(index), {})[key] = tensor
            for name, value in about["numbers"].items():
                index, key = name.split("/")
                state.setdefault(int(index), {})[key] = value
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
            self.step, self.seconds, self.window = about["step"], about["seconds"], about["window"]
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise MissingDataError(
                f"'{path}' cannot be read ({reason}). Put a copy back, or restart the fitting."
            ) from error

    # --- learning curve ---------------------------------------------------------------------------------------------

    def _log(self) -> None:
        names = list(dict.fromkeys(name for one in self.window for name in one))
        means = {
            name: sum(found) / len(found) for name in names if (found := [o[name] for o in self.window if name in o])
        }
        record = {
            "step": self.step,
            "seconds": round(self.seconds, 2),
            **{n: float(f"{v:.6g}") for n, v in means.items()},
        }
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.window = []

    def _cut_log(self) -> None:
        """Drops what a killed run did after its last checkpoint: it is done again."""
        path = self.folder / LOG
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= self.step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):  # cut in mid-line by the kill
                continue
        write_atomic(path, "".join(kept).encode())


def _number(seed: int, step: int) -> int:
    return random.Random(f"{seed}/torch/{step}").getrandbits(63)


def read_log(folder: Path) -> list[dict[str, float]]:
    """The learning curve of a fitting: per line the step, the seconds so far, and means of the terms since the line before."""
    return [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines() if line]
