"""The analyses over many edits: base and edited model, case by case, into a file from which an interrupted run continues."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError, VLEditError
from ..evaluate.metrics import estimated
from ..vlm.pictures import open_picture
from . import kl, masking
from .acting import acting, edited
from .anatomised import anatomise, logits_everywhere
from .attribution import GAMMA, TOP_K, Attribution, attribute
from .ranks import bootstrapped

if TYPE_CHECKING:
    from ..data.case import EditCase, Probe
    from ..editors.edited_model import EditedModel
    from ..evaluate.bootstrap import Estimate
    from ..evaluate.manifest import Variant
    from ..vlm.base import VLM
    from .notes import Notes

BASE = "base"
EDIT = "edit"
CELLS = (EDIT, "text_generality", "T1I2", "T1I3")
"""What is looked at: the edit, its first rephrasing, the edited question about the similar and about the unrelated picture."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """One prompt of a case."""

    image: object
    question: str


def prompts(case: EditCase, cells: Sequence[str]) -> dict[str, Asked]:
    """Cell → its prompt, for those cells that the case has; "edit", "text_generality", or the name of a locality cell."""
    found: dict[str, Asked] = {}
    for cell in cells:
        if cell == EDIT:
            found[cell] = Asked(case.request.image, case.request.question)
        elif some := _probes(case, cell):
            found[cell] = Asked(some[0].image, some[0].question)
    return {
        cell: Asked(None if one.image is None else open_picture(one.image), one.question) for cell, one in found.items()
    }


def _probes(case: EditCase, cell: str) -> tuple[Probe, ...]:
    name, _, family = cell.rpartition("_")
    if family == "generality":
        return case.generality.get(name, ())
    return case.locality.get(cell, ())


def check_cells(cases: Sequence[EditCase], cells: Sequence[str]) -> None:
    """Raises: InputError for a cell that no case has."""
    for cell in cells:
        if cell != EDIT and not any(_probes(case, cell) for case in cases):
            raise InputError(
                f"cells: no edit has a cell '{cell}'. Give '{EDIT}', 'text_generality', 'image_generality', or a locality cell "
                "such as T1I2."
            )


def each(
    vlm: VLM, cases: Sequence[EditCase], variants: Sequence[Variant], notes: Notes, progress: Progress
) -> Iterator[tuple[EditCase, str, EditedModel | None]]:
    """(case, variant, edited model) of all that is not in the file yet; the base first. An edit that fails is noted."""
    for case in cases:
        for name in (BASE, *(variant.name for variant in variants)):
            if (name, case.id) in notes.lines:
                progress(case.id)
                continue
            model = None
            if name != BASE:
                variant = next(one for one in variants if one.name == name)
                try:
                    model = edited(vlm, variant, case.request)
                except VLEditError as error:
                    notes.append(name, case.id, error=str(error))
                    progress(case.id)
                    continue
            yield case, name, model
            progress(case.id)


# --- attribution ------------------------------------------------------------------------------------------------------


def attribution(
    vlm: VLM,
    cases: Sequence[EditCase],
    variants: Sequence[Variant],
    notes: Notes,
    cells: Sequence[str] = CELLS,
    gamma: float = GAMMA,
    top_k: int = TOP_K,
    progress: Progress = lambda _: None,
) -> None:
    """A line for each case, of the base and of every variant: cell → image share and pull of each layer, the lowest first."""
    for case, name, model in each(vlm, cases, variants, notes, progress):
        found = {cell: trace(vlm, model, asked, gamma, top_k) for cell, asked in prompts(case, cells).items()}
        shares = {cell: one.shares() for cell, one in found.items()}
        notes.append(name, case.id, shares=shares, pulls={cell: one.pulls for cell, one in found.items()})


def trace(vlm: VLM, model: EditedModel | None, asked: Asked, gamma: float = GAMMA, top_k: int = TOP_K) -> Attribution:
    """The attribution of one prompt with the edits acting (None: of the base)."""
    with acting(vlm, model, asked.image, asked.question) as (answering, encoded):
        return attribute(anatomise(answering, encoded), gamma, top_k)


MEASURES = ("shares", "pulls")
"""What a line holds of every layer: image share (Eq. 16) and pull, see `Attribution`."""


def layer_estimates(lines: Sequence[Mapping[str, Any]], cell: str, measure: str) -> dict[str, list[Estimate]]:
    """Variant → measure with its interval, of every layer; where some cases have none in a layer, of the others."""
    tables: dict[str, dict[str, dict[str, float]]] = {}
    layers = 0
    for line in lines:
        values = line.get(measure, {}).get(cell)
        if values is None:
            continue
        layers = len(values)
        for layer, value in enumerate(values):
            if value is not None:
                tables.setdefault(line["variant"], {}).setdefault(str(layer), {})[line["case"]] = value
    return {name: _of_layers(bootstrapped(table), layers) for name, table in tables.items()}


def _of_layers(found: Mapping[str, Estimate], layers: int) -> list[Estimate]:
    return [found.get(str(layer)) or _nothing() for layer in range(layers)]


def upper_mean(values: Sequence[float | None], part: float = 1 / 3) -> float:
    """The mean over the top third of the layers, where answers are decided; NaN where none has a value."""
    top = [value for value in values[-max(1, round(len(values) * part)) :] if value is not None]
    return sum(top) / len(top) if top else math.nan


def lost(lines: Sequence[Mapping[str, Any]], variant: str, cell: str, measure: str) -> dict[str, float]:
    """Case → how much the edit took of a measure's mean over the top third of the layers: base less edited model."""
    found = {line["case"]: line for line in lines if line["variant"] == variant}
    before = {line["case"]: line for line in lines if line["variant"] == BASE}
    taken = {}
    for case, line in found.items():
        pair = [one.get(measure, {}).get(cell) for one in (before.get(case, {}), line)]
        if pair[0] is not None and pair[1] is not None:
            value = upper_mean(pair[0]) - upper_mean(pair[1])
            if not math.isnan(value):
                taken[case] = value
    return taken


# --- masking ----------------------------------------------------------------------------------------------------------


def masking_study(
    vlm: VLM,
    cases: Sequence[EditCase],
    variants: Sequence[Variant],
    notes: Notes,
    cells: Sequence[str] = (EDIT,),
    gamma: float = GAMMA,
    top_k: int = TOP_K,
    progress: Progress = lambda _: None,
) -> None:
    """A line for each case: of every way of hiding tokens, what it leaves of the model's own greedy answer."""
    for case, name, model in each(vlm, cases, variants, notes, progress):
        found = {
            cell: _masked(vlm, model, asked, gamma, top_k, f"{case.id}/{cell}")
            for cell, asked in prompts(case, cells).items()
        }
        notes.append(name, case.id, masked={cell: one for cell, one in found.items() if one is not None})


def _masked(
    vlm: VLM, model: EditedModel | None, asked: Asked, gamma: float, top_k: int, seed: str
) -> dict[str, Any] | None:
    """Way → figures; None where the answer cannot be forced behind the prompt."""
    with acting(vlm, model, asked.image, asked.question) as (answering, encoded):
        traced = attribute(anatomise(answering, encoded), gamma, top_k)
        (said,) = answering.answer_encoded(encoded)
    try:
        with acting(vlm, model, asked.image, asked.question, said) as (answering, encoded):
            ways = masking_ways(traced, encoded, answering.n_layers, seed)
            kept = masking.hiding(answering, encoded, list(ways.values()))
    except InputError:  # an empty answer, or one that holds what may not be typed
        return None
    return {name: asdict(one) for name, one in zip(ways, kept, strict=True)}


def masking_ways(traced: Attribution, encoded: Any, n_layers: int, seed: str) -> dict[str, torch.Tensor]:
    """Name → (L, T) bool: "whole"; "keys/<layer>" and "random/<layer>/<draw>"; "best/<n>" and "others/<n>/<draw>"."""
    draw = torch.Generator().manual_seed(int.from_bytes(seed.encode()[-7:], "big"))
    ways = {"whole": torch.zeros(n_layers, encoded.input_ids.shape[1], dtype=torch.bool)}
    for start in masking.spans(n_layers):
        ways[f"keys/{start}"] = masking.but_keys(traced, encoded, n_layers, start)
        ways[f"random/{start}/0"] = masking.but_keys(traced, encoded, n_layers, start, draw)
    for count in masking.REMOVED:
        tokens = masking.best(traced, encoded, count)
        if len(tokens) < count:
            continue
        ways[f"best/{count}"] = masking.without(tokens, encoded, n_layers)
        for number in range(masking.DRAWS):
            others = masking.others_like(tokens, encoded, traced.start, draw)
            if len(others) == count:
                ways[f"others/{count}/{number}"] = masking.without(others, encoded, n_layers)
    return ways


def masked_estimates(lines: Sequence[Mapping[str, Any]], variant: str, cell: str) -> dict[str, Estimate]:
    """Way (random draws together) → share of answers that stay, with interval; "lost best/<n>", "lost others/<n>": nats.

    Only cases whose answer is given with nothing hidden, and, for deletion, that have both sides.
    """
    table: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        ways = line.get("masked", {}).get(cell) if line["variant"] == variant else None
        if not ways or not ways["whole"]["exact"]:
            continue
        for name, kept in ways.items():
            kind, _, rest = name.partition("/")
            count = rest.partition("/")[0]
            if kind in ("best", "others") and not {f"best/{count}", f"others/{count}/0"} <= set(ways):
                continue
            way = f"{kind}/{count}" if count else kind
            table.setdefault(way, {}).setdefault(line["case"], []).append(float(kept["exact"]))
            if kind in ("best", "others"):
                lost = ways["whole"]["log_probability"] - kept["log_probability"]
                table.setdefault(f"lost {way}", {}).setdefault(line["case"], []).append(lost)
    averaged = {way: {c: sum(v) / len(v) for c, v in cases.items()} for way, cases in table.items()}
    shares = {way: column for way, column in averaged.items() if not way.startswith("lost ")}
    nats = {way: column for way, column in averaged.items() if way.startswith("lost ")}
    return estimated(shares) | bootstrapped(nats)


OTHER_PROMPT = "the edit changes the prompt, or another model answers: there are no tokens to compare one by one."


# --- KL ---------------------------------------------------------------------------------------------------------------


def kl_study(
    vlm: VLM,
    cases: Sequence[EditCase],
    variants: Sequence[Variant],
    notes: Notes,
    cells: Sequence[str],
    progress: Progress = lambda _: None,
) -> None:
    """A line for each case and variant: cell → mean KL at image and at text tokens, before against after the edit."""
    before: dict[str, Any] = {}
    for case, name, model in each(vlm, cases, variants, notes, progress):
        if name == BASE:
            notes.append(name, case.id, kl={})
            continue
        found = {}
        for cell, asked in prompts(case, cells).items():
            key = f"{case.id}/{cell}"
            if key not in before:
                before = {k: v for k, v in before.items() if k.startswith(f"{case.id}/")}
                with acting(vlm, None, asked.image, asked.question) as (_, encoded):
                    before[key] = logits_everywhere(vlm, encoded)
            with acting(vlm, model, asked.image, asked.question) as (answering, encoded):
                if answering is vlm and len(before[key]) == encoded.input_ids.shape[1]:
                    found[cell] = asdict(kl.moved(before[key], logits_everywhere(vlm, encoded), encoded))
        failed = {} if found else {"error": OTHER_PROMPT}
        notes.append(name, case.id, kl=found, **failed)


def kl_estimates(lines: Sequence[Mapping[str, Any]], variant: str, cell: str) -> dict[str, Estimate]:
    """ "image", "text": mean KL; "ratio": mean of the ratios of the prompts that the edit moves (Eq. 17)."""
    table: dict[str, dict[str, float]] = {"image": {}, "text": {}, "ratio": {}}
    for line in lines:
        found = line.get("kl", {}).get(cell) if line["variant"] == variant else None
        if found is None or found["image"] is None:
            continue
        table["image"][line["case"]], table["text"][line["case"]] = found["image"], found["text"]
        ratio = kl.Moved(found["image"], found["text"]).ratio
        if not math.isnan(ratio):
            table["ratio"][line["case"]] = ratio
    return bootstrapped({name: values for name, values in table.items() if values})


def _nothing() -> Any:
    from ..evaluate.bootstrap import Estimate

    return Estimate(math.nan, math.nan, math.nan, 0)
