"""Training of the embedded model, in three stages; seeded, resumable, logged.

1. *align*: pictures only. The Q-Former learns to say a concept's name in the language model's own embeddings.
2. *listen*: LoRA learns to answer: many pictures, two questions each.
3. *answer*: few pictures, each with all its questions, in turn. The facts about a thing are learnt by its slot of
   the Q-Former's memory, which learns fast and is not disturbed by other things; LoRA, Q-Former and projection are trained
   further.

Without the first stage the others never get below the loss of guessing. Without the second the frozen language model does not
understand the visual tokens. The third learns a fact from a few exposures (docs/experiments.md).
"""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.cache import cache_root, write_atomic
from ..errors import InputError, MissingDataError
from .checking import answered, recognised
from .examples import Examples
from .learner import LORA_SCALE, Learner
from .machine import frozen_dtype, hold_memory
from .packing import Packed, Packer, Row


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run."""

    seed: int = 0
    align_steps: int = 1800
    align_vision_from: int = 150
    align_batch: int = 32
    listen_steps: int = 200
    listen_batch: int = 19
    listen_length: int = 76
    answer_steps: int = 1800
    answer_batch: int = 5
    length: int = 128
    rank: int = 16
    align_rates: tuple[float, float] = (1e-3, 3e-4)  # reader, vision
    listen_rate: float = 8e-4  # LoRA
    answer_rates: tuple[float, float, float] = (5e-4, 2e-5, 0.05)  # LoRA, reader, what the memory holds
    settle_steps: int = 1200  # of `answer`, the last: the rate falls
    recognition_weight: float = 0.3
    confused: tuple[float, float] = (0.5, 0.4)  # share of pictures that another is mixed into, and at most how much
    warmup: int = 60
    floor: float = 0.03
    save_every: int = 200
    check_every: int = 500
    threads: int = 2
    compiled: bool = True
    dtype: str = "auto"  # of what is frozen: bfloat16, float32, or whichever this machine multiplies faster


STAGES = ("align", "listen", "answer")
FIXED = ("seed", "rank")
"""Settings that a run keeps to its end; others may be changed where it is resumed."""


class Batches(torch.utils.data.IterableDataset):
    """Batches from step `first` on to `end`, made in a worker process while the model computes."""

    def __init__(self, examples: Examples, packer: Packer, config: TrainConfig, stage: str, first: int, end: int):
        self.examples, self.packer, self.config, self.stage = examples, packer, config, stage
        self.first, self.end = first, end

    def __iter__(self) -> Any:
        for step in range(self.first, self.end):
            yield step, self.packer.pack(self.rows(step), self.config.listen_length if self.stage == "listen" else None)

    def rows(self, step: int) -> list[Row]:
        config = self.config
        if self.stage == "listen":
            return self.examples.batch(config.seed, step, config.listen_batch, pairs=2)
        if self.stage == "answer":
            return self.examples.batch(config.seed, step, config.answer_batch, unpictured=2)
        rng = random.Random(config.seed * 7_000_003 + step)
        rows = [self.examples.picture_row(rng, 1) for _ in range(config.align_batch - 1)]
        rows.append(self.examples.nothing_row(rng, pictured=True))
        return [Row(r.picture, [], r.concept) for r in rows]


class Training:
    """One run in one folder: checkpoint.pt, log.jsonl, weights.safetensors."""

    def __init__(self, folder: Path, config: TrainConfig, data: Any):
        self.folder, self.config = folder, config
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self.examples = Examples(data)
        self.dtype = frozen_dtype(config.dtype)
        self.learner = Learner(self.examples.names, config.rank, config.compiled, dtype=self.dtype)
        self.packer = Packer(self.learner.tokenizer, config.length)
        self.stage, self.step = STAGES[0], 0
        self.optimizers = self._optimizers()
        self._resume()

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW for all that learns; in `answer` Adagrad (Duchi et al., 2011) for what the memory holds.

        A slot is shown once in hundreds of steps: its own history has to set its pace, not the time gone by.
        """
        groups = {group["name"]: group for group in self.learner.parameter_groups(self._rates())}
        seldom = groups.pop("memory") if self.stage == "answer" else None
        adamw = torch.optim.AdamW(groups.values(), weight_decay=0.01, betas=(0.9, 0.98))
        return [adamw] if seldom is None else [adamw, torch.optim.Adagrad([seldom])]

    def _rates(self) -> dict[str, float]:
        """What learns in this stage → its highest rate."""
        if self.stage == "align":
            reader, vision = self.config.align_rates
            return {"reader": reader, "memory": reader, "vision": vision, "keys": reader, "temperature": 1e-3}
        if self.stage == "listen":
            return {"lora": self.config.listen_rate}
        # the memory's keys stay as they are: they hold the reader to what it learnt; trained on, their noise undid that
        return dict(zip(("lora", "reader", "memory"), self.config.answer_rates, strict=True))

    def _steps(self) -> int:
        return getattr(self.config, f"{self.stage}_steps")

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        saved, changed = None, {}
        if path.exists():
            saved, changed = read_checkpoint(path), self._changed_settings()
        write_atomic(self.folder / "config.json", json.dumps(asdict(self.config), indent=1).encode())
        dtype = str(self.dtype).removeprefix("torch.")
        if saved is None:
            self.log(event="started", dtype=dtype, threads=self.config.threads)
            return
        self.stage, self.step = saved["stage"], saved["step"]
        self.learner.load_trained_state(saved["weights"])
        with torch.no_grad():
            self.learner.temperature.copy_(saved["temperature"])
        self.optimizers = self._optimizers()
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=False):  # none where a stage begins
            optimizer.load_state_dict(state)
        self.log(
            event="resumed", stage=self.stage, step=self.step, dtype=dtype, **({"changed": changed} if changed else {})
        )

    def _changed_settings(self) -> dict[str, list[Any]]:
        """Setting → what it was when the run was last started, and what it is now.

        Raises: InputError for one that a run has to keep.
        """
        path = self.folder / "config.json"
        before = json.loads(path.read_bytes()) if path.exists() else {}
        now = json.loads(json.dumps(asdict(self.config)))  # tuples as JSON has them
        changed = {name: [before[name], value] for name, value in now.items() if before.get(name, value) != value}
        for name in FIXED:
            if name in changed:
                was, given = changed[name]
                raise InputError(
                    f"{name}: the run in '{self.folder}' was started with {was}, not {given}. Go on with {was}, or "
                    "choose another folder."
                )
        return changed

    def save(self, fresh: bool = False) -> None:
        """Writes checkpoint and weights; fresh: the optimizers have not learnt anything yet."""
        saved = {
            "stage": self.stage,
            "step": self.step,
            "weights": self.learner.trained_state(),
            "temperature": self.learner.temperature.detach(),
            "optimizers": [] if fresh else [optimizer.state_dict() for optimizer in self.optimizers],
        }
        temporary = self.folder / "checkpoint.tmp"
        torch.save(saved, temporary)
        os.replace(temporary, self.folder / "checkpoint.pt")
        self.export(self.folder / "weights.safetensors")

    def export(self, path: Path) -> None:
        """Writes what is shipped: bfloat16, with the settings needed to assemble the model."""
        from safetensors.torch import save_file

        state = {n: t.to(torch.bfloat16).contiguous() for n, t in self.learner.trained_state().items()}
        settings = {"lora_scale": LORA_SCALE, "stage": self.stage, "step": self.step, **asdict(self.config)}
        temporary = path.with_suffix(".tmp")
        save_file(state, temporary, metadata={"format": "pt", "settings": json.dumps(settings)})
        os.replace(temporary, path)

    def log(self, **record: Any) -> None:
        record["time"] = round(time.time(), 1)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)

    def rate(self) -> float:
        """Share of the highest rate: warm-up; `align` then falls to `floor` as half a cosine, `answer` in its last steps.

        So `answer` can be made longer after it has begun, and is the same up to where it settles.
        """
        if self.step < self.config.warmup:
            return (self.step + 1) / self.config.warmup
        if self.stage == "listen":
            return 1.0
        falling_from = self.config.warmup
        if self.stage == "answer":
            falling_from = max(falling_from, self._steps() - self.config.settle_steps)
        done = (self.step - falling_from) / max(self._steps() - falling_from, 1)
        return self.config.floor + (1 - self.config.floor) * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))

    def run(self) -> None:
        while True:
            self._run_stage()
            following = STAGES.index(self.stage) + 1
            if following == len(STAGES):
                break
            self.stage, self.step = STAGES[following], 0
            self.optimizers = self._optimizers()
            self.save(fresh=True)
        self.log(event="done")

    def _run_stage(self) -> None:
        batches = Batches(self.examples, self.packer, self.config, self.stage, self.step, self._steps())
        loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4)
        rates = self._rates()
        means: dict[str, list[float]] = defaultdict(list)
        began = time.time()
        for step, batch in loader:
            self.step = step
            for group in self._groups():
                group["lr"] = rates[group["name"]] * self.rate()  # those of a checkpoint may be others
            values = self._learn(batch)
            for name, value in values.items():
                means[name].append(value)
            self.step = step + 1
            if self.step % 20 == 0:
                seconds = (time.time() - began) / 20
                summary = {n: round(float(np.mean(v)), 4) for n, v in means.items()}
                self.log(stage=self.stage, step=self.step, seconds=round(seconds, 3), **summary)
                means.clear()
                began = time.time()
            if self.step % self.config.check_every == 0 or self.step == self._steps():
                found = self.check_recognition() | ({} if self.stage == "align" else self.check())
                self.log(event="check", stage=self.stage, step=self.step, **found)
                began = time.time()
            if self.step % self.config.save_every == 0 or self.step == self._steps():
                self.save()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _learn(self, batch: Packed) -> dict[str, float]:
        learner = self.learner
        aligning = self.stage == "align"
        learner.vision_learns = aligning and self.step >= self.config.align_vision_from
        # a language model that does not listen yet would tear down in 80 steps what the reader learnt (docs/experiments.md)
        with torch.set_grad_enabled(self.stage != "listen"):
            confusion = None if aligning else self._confusion(len(batch.pictures))
            visual, slots = learner.look(torch.from_numpy(batch.pictures), confusion)
        concepts = torch.from_numpy(batch.concepts)
        recognition, right = learner.recognition_loss(visual, slots, concepts)
        values = {"recognition": recognition.item(), "right": right.item()}
        if aligning:
            alignment = learner.alignment_loss(visual, concepts)
            values["alignment"] = alignment.item()
            loss = recognition + alignment
        else:
            logits, targets = learner.answer_logits(batch, visual)
            answer = F.cross_entropy(logits, targets)
            values["answer"] = answer.item()
            values["token"] = float((logits.argmax(-1) == targets).float().mean())
            loss = answer + self.config.recognition_weight * recognition
        loss.backward()
        if self.stage == "answer":
            keep_rows(self.learner.model.qformer.memory_values, concepts[concepts >= 0])
        parameters = [p for group in self.optimizers[0].param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        with torch.sparse.check_sparse_tensor_invariants():  # said explicitly, else Adagrad warns that nothing was said
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return values

    def _confusion(self, count: int) -> Tensor:
        """(count,): how much of another picture is mixed into each; a function of seed and step."""
        share, most = self.config.confused
        drawn = torch.rand(2, count, generator=torch.Generator().manual_seed(self.config.seed * 9_000_011 + self.step))
        return torch.where(drawn[0] < share, drawn[1] * most, 0.0)

    def check_recognition(self, count: int = 320) -> dict[str, float]:
        """How often the memory's first slot is the right one; see `checking.recognised`."""
        return recognised(self.learner, self.examples, count, self.config.align_batch)

    def check(self, batches: int = 12) -> dict[str, float]:
        """How often an answer is predicted whole; see `checking.answered`."""
        return answered(self.learner, self.examples, self.packer, batches, self.config.answer_batch)


def keep_rows(parameter: Tensor, rows: Tensor) -> None:
    """Makes the gradient of `parameter` (N, D) sparse, with those rows (K,) alone.

    The others hold what a softmax leaked into them; scaled by their own history, that would move them as far.
    """
    assert parameter.grad is not None
    rows = rows.unique()
    parameter.grad = torch.sparse_coo_tensor(rows[None], parameter.grad[rows], parameter.shape, check_invariants=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `Training.save` wrote.  Raises: MissingDataError where the file is damaged."""
    try:
        saved = torch.load(path, weights_only=True)
        for part in ("weights", "optimizers"):
            if not isinstance(saved, dict) or part not in saved:
                raise ValueError(f"it holds no {part}")
    except (OSError, EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingDataError(
            f"'{path}' cannot be read ({reason}). Put a copy back, or delete it to train from the beginning."
        ) from error
    return saved


def default_folder() -> Path:
    return cache_root() / "pocket" / "training"


def main(folder: Path | None = None, config: TrainConfig | None = None) -> Path:
    """Trains (or goes on training) and returns the weights file."""
    from ..data import icons

    hold_memory()
    folder = folder or default_folder()
    Training(folder, config or TrainConfig(), icons.load()).run()
    return folder / "weights.safetensors"
