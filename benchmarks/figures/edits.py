"""What an edit costs: against the plain loop, alone and in batches; the first of its kind on a loaded model."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import edit_speed

from vledit.data import icons
from vledit.editors import common_directions
from vledit.editors.edited_model import EditedModel

from .measuring import Bench


def timed(bench: Bench, requests: list[Any], kind: str) -> float:
    """Seconds an edit: one request by itself, or several given at once."""
    given = requests[0] if len(requests) == 1 else requests
    return bench.seconds(lambda: EditedModel(bench.vlm).edit(given, transformation=kind)) / len(requests)


def measure(bench: Bench) -> None:
    vlm, count, together = bench.vlm, 2 if bench.quick else 5, 16
    cases = icons.load_edits("test")
    requests = [dataclasses.replace(case.request, rephrases=()) for case in cases]
    few = requests[:count]
    plain = [bench.seconds(lambda one=one: edit_speed.plain_edit(vlm, one)) for one in few]
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
    """Seconds that the first span edit of a loaded model takes beyond a later one; what comes with the package, or lies in the
    cache, is read anew."""
    vlm = bench.vlm
    request = dataclasses.replace(icons.load_edits("test")[0].request, rephrases=())
    later = bench.seconds(lambda: EditedModel(vlm).edit(request, transformation="span"))
    vlm.__dict__.pop("_common_directions", None)
    first = bench.seconds(lambda: EditedModel(vlm).edit(request, transformation="span"))
    bench.note("first span edit of a loaded model, beyond a later one", [first - later], unit="s", goal=1.0)
    if bench.quick:
        return
    site = vlm.resolve_site(vlm.default_site)
    measuring = bench.seconds(lambda: common_directions._measure(vlm, site, 40))
    bench.note("measuring the common directions, once for a model that they do not come with", [measuring], unit="s")
