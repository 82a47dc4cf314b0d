"""What an answer of an edited model costs against the unedited one: fired and unfired, few and many entries, batches."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

import vledit
from vledit.codebook import Codebook, Entry, SpanTransformation
from vledit.editors.edited_model import EditedModel
from vledit.editors.reach import read

from . import books
from .measuring import Bench

QUESTION, ANSWER = "What brand's logo is this?", "Dell"
OTHER = "How many legs has a spider?"
WORDS = ("name", "colour", "maker", "use", "price", "age", "size", "shape", "taste", "owner")
IN_MEMORY = 100_000
"""A codebook of more entries is a file."""
GOALS = {1: 1.03, 1_000: 1.03, 10_000: 1.03, 100_000: 1.10, 1_000_000: 1.25}


def picture(number: int) -> Image.Image:
    """A drawing that no other number gives."""
    rng = np.random.default_rng(number)
    drawn = Image.new("RGB", (224, 224), (250, 250, 250))
    for _ in range(3):
        x, y = rng.integers(10, 120, 2).tolist()
        box = (x, y, x + int(rng.integers(30, 100)), y + int(rng.integers(30, 100)))
        ImageDraw.Draw(drawn).ellipse(box, fill=tuple(rng.integers(0, 255, 3).tolist()))
    return drawn


def others(vlm: Any, entry: Entry) -> books.Made:
    """Makes entries that share the change of `entry`, with keys spread as the model's own are, but far from any request.

    These are drawn around the mean of real keys from their own covariance, widened ten times.
    """
    asked = [f"What is the {word}?" for word in WORDS]
    rows = read(vlm, vlm.resolve_site(entry.key_site), [picture(i) for i in range(len(asked))], asked)
    spread, scope = rows - rows.mean(0), entry.scopes[0]
    grain = np.random.default_rng(0).normal(scale=spread.std(), size=(1, rows.shape[1])).astype(np.float32)

    def made(first: int, count: int) -> list[Entry]:
        rng = np.random.default_rng([1, first])
        mix = rng.normal(size=(count, len(rows))).astype(np.float32) / np.sqrt(len(rows))
        keys = (rows.mean(0) + 10 * (mix @ spread) + 10 * grain * rng.normal(size=(count, 1))).astype(np.float32)
        far = [(dataclasses.replace(scope, key=key),) for key in keys]
        return [
            dataclasses.replace(entry, id=f"e{number}", question=f"question {number}", scopes=far[number - first])
            for number in range(first, first + count)
        ]

    return made


def crowded(vlm: Any, entry: Entry, count: int) -> EditedModel:
    """A model with the edit and `count` - 1 other entries."""
    model = EditedModel(vlm)
    model.codebook.add(entry)
    for one in others(vlm, entry)(0, count - 1):
        model.codebook.add(one)
    return model


def filed(bench: Bench, entry: Entry, count: int, path: Path) -> EditedModel:
    """As `crowded`, from a file, whose own figures are taken too; its entries have a change of rank 1."""
    change = entry.transformation.tensors()
    change = SpanTransformation(change["directions"][:, :1].clone(), change["inputs"][:1].clone())
    small = dataclasses.replace(entry, transformation=change, thumbnail=None)
    made = others(bench.vlm, small)
    books.filled(path, count - 1, made, bench.vlm.fingerprint)
    print(
        f"file of {count:,} entries: {path.stat().st_size / 1e9:.1f} GB, keys of {len(entry.key)} numbers", flush=True
    )
    books.opened(bench, path, count - 1, 2.0, made)
    model = EditedModel(bench.vlm, Codebook.open(path, bench.vlm.fingerprint))
    model.codebook.add(entry)
    return model


def compare(bench: Bench, model: EditedModel, count: int) -> None:
    """Fired, unfired with and without a picture."""
    base = EditedModel(bench.vlm)
    edited, other = picture(0), picture(999)
    assert model.answer(edited, QUESTION).decision.fired
    assert not model.answer(other, "How many chairs are there?").decision.fired
    assert not model.answer(None, OTHER).decision.fired
    about = {"goal": GOALS.get(count), "size": count}

    def forced(one: EditedModel) -> Any:  # to as many tokens: an edit's answer may be longer or shorter than the base's
        return lambda: one.generate([edited], [QUESTION], max_new_tokens=4, min_new_tokens=4, do_sample=False)

    def ask(one: EditedModel, image: Any, question: str) -> Any:
        return lambda: one.answer(image, question, 4)

    named = f"answer, {count:,} entries"
    bench.ratio(f"{named}, one fires", forced(base), forced(model), series="fires", **about)
    rest = ((other, "How many chairs are there?", "none fires, picture"), (None, OTHER, "none fires, no picture"))
    for image, question, what in rest:
        bench.ratio(f"{named}, {what}", ask(base, image, question), ask(model, image, question), series=what, **about)


def measure(bench: Bench, sizes: list[int]) -> None:
    vlm = bench.vlm
    base = EditedModel(vlm)
    again = lambda: base.answer(picture(0), QUESTION, 4)  # noqa: E731
    bench.ratio("answer, the base against itself (noise)", again, again)
    edit = EditedModel(vlm).edit(vledit.EditRequest(picture(0), QUESTION, ANSWER), transformation="span")
    for count in sizes:
        if count <= IN_MEMORY:
            compare(bench, crowded(vlm, edit.entry, count), count)
            continue
        with tempfile.TemporaryDirectory() as folder:
            model = filed(bench, edit.entry, count, Path(folder) / "many.vledit")
            compare(bench, model, count)
            model.codebook.close()


def batch(bench: Bench, rows: int = 32) -> None:
    """A batch in which every row is answered by an entry of its own."""
    vlm = bench.vlm
    pictures = [picture(i) for i in range(rows)]
    edit = EditedModel(vlm).edit(vledit.EditRequest(pictures[0], QUESTION, ANSWER), transformation="span")
    model, base = EditedModel(vlm), EditedModel(vlm)
    keys = read(vlm, vlm.resolve_site(edit.entry.key_site), pictures, [QUESTION] * rows)
    for number, key in enumerate(keys):
        change = type(edit.entry.transformation).from_tensors(
            {name: tensor.clone() for name, tensor in edit.entry.transformation.tensors().items()}
        )
        own = (dataclasses.replace(edit.entry.scopes[0], key=key, crowd=()),)
        model.codebook.add(
            dataclasses.replace(edit.entry, id=f"e{number}", image_key=f"{number}", scopes=own, transformation=change)
        )
    fired = {one.decision.entry for one in model.answers(pictures, [QUESTION] * rows, 1)}
    assert len(fired) == rows, f"{len(fired)} entries fired"

    def forced(one: EditedModel) -> Any:
        settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
        return lambda: one.generate(pictures, [QUESTION] * rows, **settings)

    with torch.inference_mode():
        bench.ratio(
            f"answer, batch of {rows} rows, {rows} entries fire",
            forced(base),
            forced(model),
            max(3, bench.rounds // 3),
            goal=1.10,
        )


def scopes(bench: Bench) -> None:
    """What the default scope costs beside the BalancEdit paper's: one edit, and answers inside and outside it."""
    vlm = bench.vlm
    request = vledit.EditRequest(picture(0), QUESTION, ANSWER)
    settings = {"paper": {"scope": "paper"}, "default": {}}
    paper, default = (lambda one=one: EditedModel(vlm).edit(request, **one) for one in settings.values())
    bench.ratio("one edit, the default scope against the paper's", paper, default, max(3, bench.rounds // 3))
    models = {}
    for name, one in settings.items():
        models[name] = EditedModel(vlm)
        models[name].edit(request, **one)

    def ask(name: str, image: Any, question: str) -> Any:
        return lambda: models[name].answer(image, question, 4)

    for what, asked in (("the edit fires", (picture(0), QUESTION)), ("none fires", (None, OTHER))):
        fired = [ask(name, *asked)().decision.fired for name in settings]
        assert fired == [what == "the edit fires"] * 2, f"{what}: {fired}"
        bench.ratio(
            f"answer, {what}, the default scope against the paper's", ask("paper", *asked), ask("default", *asked)
        )
