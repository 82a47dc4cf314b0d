"""What an edit costs: against the plain loop, alone and in batches; the first of its kind on a loaded model."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import torch

from vledit.data import icons
from vledit.editors import common_directions
from vledit.editors.edited_model import EditedModel

from .measuring import Bench

RATE, STEPS = 1e-3, 50


def plain_edit(vlm: Any, request: Any) -> bool:
    """50 Adam steps through the whole model, as editing code commonly does; the weights are put back. Whether it learnt."""
    weight = vlm.site_module(vlm.default_site).weight
    before = weight.detach().clone()
    encoded = vlm.encode([request.image], [request.question], [request.answer])
    weight.requires_grad_(True)
    optimizer = torch.optim.Adam([weight], lr=RATE)
    for _ in range(STEPS):
        logits = vlm.model(**encoded.model_inputs).logits[encoded.predict_mask]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.float(), encoded.targets).backward()
        optimizer.step()
    learnt = bool(vlm.verify(encoded).exact[0])
    weight.requires_grad_(False)
    with torch.no_grad():
        weight.copy_(before)
    return learnt


def timed(bench: Bench, requests: list[Any], kind: str) -> float:
    """Seconds an edit: one request by itself, or several given at once."""
    given = requests[0] if len(requests) == 1 else requests
    return bench.seconds(lambda: EditedModel(bench.vlm).edit(given, transformation=kind)) / len(requests)


def measure(bench: Bench) -> None:
    vlm, count, together = bench.vlm, 2 if bench.quick else 5, 16
    cases = icons.load_edits("test")
    requests = [dataclasses.replace(case.request, rephrases=()) for case in cases]
    few = requests[:count]
    plain = [bench.seconds(lambda one=one: plain_edit(vlm, one)) for one in few]
    bench.note("edit, plain loop of 50 whole-model steps", plain, unit="s")
    slow = statistics.median(plain)
    for kind in ("full", "span"):
        EditedModel(vlm).edit(requests[-1], transformation=kind)  # what all later ones share
        alone = [timed(bench, [one], kind) for one in few]
        bench.note(f"edit, {kind}, alone, times faster", [slow / one for one in alone], goal=35, at_most=False)
        starts = range(0, (1 if bench.quick else 3) * together, together)
        times = [timed(bench, requests[start : start + together], kind) for start in starts]
        name = f"edit, {kind}, batches of {together}, times faster"
        bench.note(name, [slow / one for one in times], goal=50, at_most=False)


def first_span(bench: Bench) -> None:
    """Seconds that the first span edit takes beyond a later one, on a model whose directions were never measured here."""
    vlm = bench.vlm
    request = dataclasses.replace(icons.load_edits("test")[0].request, rephrases=())
    later = bench.seconds(lambda: EditedModel(vlm).edit(request, transformation="span"))
    vlm.__dict__.pop("_common_directions", None)
    first = bench.seconds(lambda: EditedModel(vlm).edit(request, transformation="span"))
    bench.note("first span edit of a loaded model, beyond a later one", [first - later], unit="s", goal=1.0)
    site = vlm.resolve_site(vlm.default_site)
    measuring = bench.seconds(lambda: common_directions._measure(vlm, site, 40))
    bench.note("measuring the common directions, once for a model", [measuring], unit="s")
