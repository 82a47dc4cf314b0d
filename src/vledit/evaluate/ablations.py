"""The ablations of the BalancEdit paper: what each of them varies, and the rows of figures that it gives.

Each is a run of ordinary variants on validation edits (with a results file, so that it can be continued) and a function from its
records to rows; `report.ablation_plots` draws them.  Wherever the paper's design is varied, `scope=paper` is set explicitly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import InputError, UnknownNameError
from .alpha import GRID, curve
from .bootstrap import Estimate
from .manifest import Variant
from .metrics import by_after, by_variant, table
from .scope_shares import NAMES as SCOPES

if TYPE_CHECKING:
    from ..vlm.base import VLM

METRICS = ("reliability", "text_generality", "image_generality", "near_image_preserved", "HM")
"""Columns of the paper's tables: Acc, T-Gen, I-Gen, Loc, HM."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Ablation:
    """One ablation.

    Args:
        name, about, source: as the command line has it; in the paper.
        varied: settings of BalancEdit by name of the variant; None: the editors that are asked for.
        sequence: edits are made one after the other.
        edits: how many by default.
    """

    name: str
    about: str
    source: str
    varied: Callable[[VLM, Sequence[str]], Mapping[str, Mapping[str, Any]]] | None = None
    sequence: bool = False
    edits: int = 20
    more: Mapping[str, Any] = field(default_factory=dict)

    def variants(self, vlm: VLM, values: Sequence[str], common: Mapping[str, Any]) -> list[Variant]:
        """The variants of BalancEdit's ablations.  `values`: those asked for in place of the usual ones."""
        if self.varied is None:
            raise InputError(f"{self.name}: its variants are the editors that are asked for.")
        found = self.varied(vlm, values)
        return [Variant(name, "balancedit", {"scope": "paper", **common, **own}) for name, own in found.items()]


def _layers(vlm: VLM, values: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The last layers (the paper's Table 9 has two), one in the middle and one early, at the family's default site."""
    last, role = vlm.default_site.layer, vlm.default_site.role
    usual = [last, last - 1, last - 3, vlm.n_layers // 2, vlm.n_layers // 4]
    chosen = [_whole(value) for value in values] or sorted({layer for layer in usual if layer >= 0}, reverse=True)
    return {f"layer {layer}": {"site": f"{layer}.{role}"} for layer in chosen}


def _whole(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InputError(f"values: a layer is a whole number, not '{value}'.") from None


def _one_of(setting: str, usual: Sequence[str]) -> Callable[[Any, Sequence[str]], dict[str, dict[str, Any]]]:
    return lambda vlm, values: {value: {setting: value} for value in (values or usual)}


ABLATIONS: Mapping[str, Ablation] = {
    one.name: one
    for one in (
        Ablation(
            "alpha",
            "generality against locality along α, from 0 to 1",
            "Fig. 5, Table 10",
            lambda vlm, values: {"balancedit": {}},
        ),
        Ablation(
            "anchors",
            "the negative sample: black, white, mean colour, noise, a random picture",
            "Tables 7, 8",
            _one_of("negative", ("black", "white", "mean", "noise", "random")),
        ),
        Ablation(
            "distance", "Euclidean against cosine distance", "Table 6", _one_of("distance", ("euclidean", "cosine"))
        ),
        Ablation("layer", "the edited layer", "Table 9", _layers),
        Ablation(
            "sequential", "scores after 1 to N edits made one after the other", "Table 4", sequence=True, edits=50
        ),
        Ablation("time", "seconds to make an edit, and hours of fitting before the first", "Table 5"),
        Ablation("data", "edits that a method is fitted on, and what it keeps of each edit", "Sec. 4.6"),
        Ablation("keys", "keys of a codebook with their radii, as PCA and t-SNE", "Fig. 7", edits=50),
        Ablation("explain", "the nearest entry of an answer, its distance and its radius", "Fig. 4", edits=3),
    )
}


def ablation(name: str) -> Ablation:
    """Raises: UnknownNameError, suggesting the near miss."""
    if name not in ABLATIONS:
        raise UnknownNameError("ablation", name, ABLATIONS)
    return ABLATIONS[name]


def shown(row: Mapping[str, Estimate]) -> Row:
    """The paper's columns with their intervals, and the scope shares, as shares."""
    found: Row = {}
    for name in (*METRICS, *SCOPES):
        if name in row:
            found[name], found[f"{name}_low"], found[f"{name}_high"] = row[name].mean, row[name].low, row[name].high
            found["edits"] = max(found.get("edits", 0), row[name].n)
    return found


def alpha_rows(records: Sequence[dict[str, Any]]) -> tuple[list[Row], dict[float, dict[str, Estimate]]]:
    """A row for each α; no further model run."""
    found = curve(records, GRID)
    return [{"alpha": alpha, **shown(row)} for alpha, row in found.items()], found


def variant_rows(records: Sequence[dict[str, Any]]) -> tuple[list[Row], dict[str, dict[str, Estimate]]]:
    """A row for each variant."""
    found = {name: table(some) for name, some in by_variant(records)}
    rows = [{"variant": name, **shown(row), **_means(records, name)} for name, row in found.items()]
    return rows, found


def _means(records: Sequence[dict[str, Any]], variant: str) -> Row:
    """Mean radius and mean distances of its two samples, where a variant has radii."""
    edits = [r["edit"] for r in records if r["variant"] == variant and r.get("edit") and r["edit"].get("radius")]
    names = [name for name in ("radius", "d_positive", "d_negative") if all(name in edit for edit in edits)]
    return {name: sum(edit[name] for edit in edits) / len(edits) for name in names} if edits else {}


def sequence_rows(records: Sequence[dict[str, Any]]) -> tuple[list[Row], dict[str, dict[int, dict[str, Estimate]]]]:
    """A row for each variant and number of edits."""
    found = {name: {n: table(some) for n, some in by_after(rows).items()} for name, rows in by_variant(records)}
    rows = [{"variant": name, "after": n, **shown(row)} for name, points in found.items() for n, row in points.items()]
    return rows, found


def cost_rows(
    records: Sequence[dict[str, Any]], fitted: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Row], dict[str, dict[str, Estimate]]]:
    """A row for each variant: seconds and bytes of an edit, hours of fitting and edits that it was fitted on.

    Args:
        fitted: variant → manifest of what it was fitted with; those without a fitting are left out.
    """
    found = {name: table(some) for name, some in by_variant(records)}
    rows = []
    for name, row in found.items():
        costs = {key: row[key].mean for key in ("seconds_per_edit", "bytes_per_edit") if key in row}
        before = fitting_costs(fitted[name]) if name in fitted else {"fitting_hours": 0.0, "fitted_on": 0}
        rows.append({"variant": name, **costs, **before, **shown(row)})
    return rows, found


def fitting_costs(manifest: Mapping[str, Any]) -> Row:
    """`fitting_hours` and `fitted_on`, the number of edits, as a manifest has them; None: it does not say.

    An editor's manifest has the number of cases; that of a scope has the edits with a picture whose keys were read, and
    those without one.
    """
    seconds, data = manifest.get("seconds"), manifest.get("data") or {}
    cases = data.get("cases", manifest.get("cases"))
    if cases is None and "keys" in manifest:
        cases = manifest["keys"] + (manifest.get("edits") or {}).get("text", 0)
    return {
        "fitting_hours": None if seconds is None else float(seconds) / 3600,
        "fitted_on": None if cases is None else int(cases),
    }
