"""Everything in docs/results.md, from one command; an interrupted run goes on where it was.

    .venv/bin/python benchmarks/icons_results.py [--runs runs] [--edits 500] [--sequential 200]

Chooses α on 40 edits of the validation split for each transformation (and says what fives of them would have chosen), scores
BalancEdit (full, span) and the plain fine-tune of the same site on edits of the test split, one at a time and in sequence
(scored after 1, 10, 50 and 200 of them), draws the α curve, and times edits and probes against the plain ways (edit_speed.py,
probe_speed.py).
The test split is scored once, with what was chosen on validation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import vledit
from vledit.cli.bench import Wanted, bar, benchmark_cases, sample, single_records
from vledit.evaluate.alpha import anchors_of, choose, curve
from vledit.evaluate.compare import compare
from vledit.evaluate.manifest import Variant
from vledit.evaluate.metrics import METRICS, Estimate, at_alpha, by_after, by_variant, estimates, last
from vledit.evaluate.plan import Plan
from vledit.evaluate.results import read_results
from vledit.evaluate.runner import run
from vledit.evaluate.trunk_cache import TrunkCache

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
TITLES = {
    "full": "BalancEdit, full",
    "span": "BalancEdit, span",
    "ft": "plain fine-tune",
}
ROWS = [m.name for m in METRICS]
SPEED = {"edit_speed": "Seconds and bytes per edit", "probe_speed": "Probes per second"}
"""Other benchmarks of this folder that the page shows, with their headings."""
PAIRS = (("ft", "full"), ("ft", "span"), ("full", "span"))
COMPARED = (
    *("HM", "text_generality", "image_generality", "near_image_preserved", "text_preserved"),
    *("random_image_preserved", "other_question_preserved"),
)
PROBES, ALPHA_PROBES = 6, 10
"""Most probes of each cell that are scored: on test edits, and where α is chosen."""
AT = (1, 10, 50, 200)
"""After which numbers of edits in sequence is scored."""


def variants(alphas: dict[str, float]) -> list[Variant]:
    balanced = [
        Variant(kind, "balancedit", {"transformation": kind, "alpha": alphas[kind]}) for kind in ("full", "span")
    ]
    return [*balanced, Variant("ft", "ft", {})]


def choose_alphas(vlm: Any, path: Path, samples: int = 40) -> dict[str, Any]:
    """α of each transformation by HM on validation edits; kept, so that a resumed run does not choose again.

    Also what each five of them alone would choose: the paper takes five (Sec. 4.3).
    """
    if path.exists():
        return json.loads(path.read_text())
    cases = [case.trimmed(ALPHA_PROBES) for case in sample(benchmark_cases(Wanted("icons", "validation")), samples, 0)]
    kinds = [Variant(kind, "balancedit", {"transformation": kind}) for kind in ("full", "span")]
    found = {}
    for kind, records in by_variant(single_records(vlm, cases, kinds)):
        best, by_alpha = choose(records)
        fives = [choose(records[i : i + 5])[0] for i in range(0, samples - 4, 5)]
        found[kind] = {"alpha": best, "HM": by_alpha, "samples": samples, "fives": fives}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))
    return found


def scores_at(rows: list[dict[str, Any]], alpha: float | None) -> dict[str, Estimate]:
    """Metrics of a variant's single edits; entries routed with the radius that `alpha` gives (exact: no model needed)."""
    anchors = anchors_of(rows) if alpha is not None else {}
    routed = [o for r in rows if r["case"] in anchors for o in r["outcomes"]]
    rest = [o for r in rows if r["case"] not in anchors for o in r["outcomes"]]
    return estimates([*(at_alpha(routed, anchors, alpha) if alpha is not None else []), *rest])


def table(columns: dict[str, dict[str, Estimate]], rows: list[str]) -> list[str]:
    lines = ["| metric | " + " | ".join(TITLES.get(c, c) for c in columns) + " |", "|---|" + "---|" * len(columns)]
    for row in rows:
        cells = [str(column[row]) if row in column else "–" for column in columns.values()]
        lines.append(f"| {'**HM**' if row == 'HM' else row} | " + " | ".join(cells) + " |")
    return lines


def plot_alpha(curves: dict[str, dict[float, dict[str, Estimate]]], chosen: dict[str, float], path: Path) -> None:
    """Fig. 5's curve: metrics against α, intervals shaded, the chosen α marked."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(5.4 * len(curves), 4.2), sharey=True, squeeze=False)
    shown = {
        "reliability": "#4c566a",
        "text_generality": "#2a78b8",
        "image_generality": "#d1721f",
        "near_image_preserved": "#3b8f4c",
        "HM": "#111111",
    }
    for axis, (name, points) in zip(axes[0], curves.items(), strict=True):
        alphas = sorted(points)
        for metric, colour in shown.items():
            found = [points[a][metric] for a in alphas]
            width = 2.4 if metric == "HM" else 1.6
            axis.plot(alphas, [100 * e.mean for e in found], color=colour, lw=width, label=metric.replace("_", " "))
            low, high = [100 * e.low for e in found], [100 * e.high for e in found]
            axis.fill_between(alphas, low, high, color=colour, alpha=0.12, lw=0)
        axis.axvline(chosen[name], color="#888888", ls=":", lw=1.2)
        axis.set(
            title=TITLES[name], xlabel="α  (0: negative alone, widest; 1: positive alone)", ylim=(-2, 103), xlim=(0, 1)
        )
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("% of edits' probes (exact match)")
    axes[0][-1].legend(loc="lower left", fontsize=8, frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def by_tag(records: list[dict[str, Any]], tag: str, family: str, cell: str) -> dict[str, dict[str, Estimate]]:
    """Estimates of one cell split by a probe's tag."""
    values = sorted(
        {str(o.tags.get(tag)) for r in records for o in r["outcomes"] if (o.family, o.cell) == (family, cell)}
    )
    chosen = {}
    for value in values:
        some = [
            o
            for r in records
            for o in r["outcomes"]
            if (o.family, o.cell) == (family, cell) and str(o.tags.get(tag)) == value
        ]
        chosen[value] = estimates(some)
    return chosen


def before(records: list[dict[str, Any]]) -> dict[str, Estimate]:
    """The same probes before any edit: how often the base already gives the new answer."""
    return estimates([replace(o, fired=False) for r in records for o in r["outcomes"]])


def retention(records: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, Estimate]]]:
    """Variant → number of edits made → metrics of all edits made so far."""
    return {
        name: {n: estimates([o for r in some for o in r["outcomes"]]) for n, some in by_after(rows).items()}
        for name, rows in by_variant(records)
    }


def differences(records: list[dict[str, Any]]) -> list[str]:
    """Paired bootstrap over the edits, as `vledit compare` makes it, of `PAIRS`."""
    groups = dict(by_variant(last(records)))
    lines = ["| metric | " + " | ".join(f"{TITLES[b]} less {TITLES[a]}" for a, b in PAIRS) + " |", "|---|---|---|---|"]
    found = [{d.metric: d for d in compare((a, groups[a]), (b, groups[b])).differences} for a, b in PAIRS]
    for metric in COMPARED:
        row = [one[metric] for one in found]
        cells = [
            f"{100 * d.difference:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]{' *' if d.significant else ''}"
            for d in row
        ]
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    return [*lines, "", "\\* zero lies outside the interval.", ""]


def report(runs: Path, chosen: dict[str, Any], options: argparse.Namespace) -> str:
    head, single = read_results(runs / "single.jsonl")
    _, after_all = read_results(runs / "sequential.jsonl")
    environment = head["environment"]
    groups = dict(by_variant(single))
    count = len({r["case"] for r in single})
    scores = {name: scores_at(rows, chosen[name]["alpha"] if name in chosen else None) for name, rows in groups.items()}
    lines = [
        "# Results on `icons`",
        "",
        "Made by `.venv/bin/python benchmarks/icons_results.py`; do not edit by hand. "
        f"{environment['date']}, {environment['machine']}, torch {environment['torch']}, transformers "
        f"{environment['transformers']}; model `pocket` (fingerprint `{head['manifest']['fingerprint'][:12]}`), "
        f"{head['manifest']['dtype'].removeprefix('torch.')}, seed 0.",
        "",
        "All figures are % with bootstrap 95 % intervals over edits: exact match of the greedy answer, end included, unless the "
        "name says `token`. `preserved`: the edited model answers as the base did. `not_edited_answer`: it does not answer "
        "the new answer. HM: harmonic mean of text generality, image generality and near_image_preserved. "
        f"At most {PROBES} probes of each cell were scored ({ALPHA_PROBES} where α was chosen).",
        "",
        f"## α, chosen on {chosen['full']['samples']} validation edits",
        "",
    ]
    for kind in ("full", "span"):
        best = chosen[kind]["alpha"]
        fives = ", ".join(str(alpha) for alpha in sorted(chosen[kind]["fives"]))
        hm = 100 * max(chosen[kind]["HM"].values())
        lines.append(
            f"- {TITLES[kind]}: α = {best} (HM {hm:.1f} there). Each five of them alone would choose: {fives}."
        )
    columns = {"base (no edit)": before(groups["full"]), **scores}
    lines += ["", f"## One edit at a time, {count} test edits", "", *table(columns, ["HM", *ROWS]), ""]
    lines += ["Which differences are more than chance:", "", *differences(single)]
    failed = {name: [r for r in rows if r["error"]] for name, rows in groups.items()}
    for name, rows in failed.items():
        if rows:
            lines.append(f"{TITLES[name]}: {len(rows)} edits failed ({rows[0]['error'][:120]}…).")
    sources: dict[str, int] = {}
    for record in groups["full"]:
        source = (record.get("edit") or {}).get("positive_source", "none")
        sources[source] = sources.get(source, 0) + 1
    lines += ["Positive samples: " + ", ".join(f"{n} {s}" for s, n in sorted(sources.items())) + ".", ""]
    lines += ["Image generality (BalancEdit, full) by what the probe is:", ""]
    for tag in ("split", "hand", "drawing"):
        parts = by_tag(groups["full"], tag, "generality", "image")
        if set(parts) != {"None"}:
            lines += [f"| {tag} | image_generality | edits |", "|---|---|---|"]
            lines += [f"| {v} | {e['image_generality']} | {e['image_generality'].n} |" for v, e in parts.items()]
            lines.append("")
    curves = {kind: curve(groups[kind]) for kind in ("full", "span")}
    plot_alpha(curves, {k: chosen[k]["alpha"] for k in curves}, IMAGES / "alpha.png")
    lines += [f"## The α curve (Fig. 5, Table 10), the same {count} edits", "", "![α curve](images/alpha.png)", ""]
    for kind, points in curves.items():
        names = ["text_generality", "image_generality", "near_image_preserved", "HM", "other_question_preserved"]
        lines += [f"{TITLES[kind]}:", "", "| α | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for alpha in sorted(points):
            if round(alpha * 20) % 2 == 0:
                lines.append(f"| {alpha:.1f} | " + " | ".join(str(points[alpha][n]) for n in names) + " |")
        lines.append("")
    sequential = {
        name: estimates([o for r in rows for o in r["outcomes"]]) for name, rows in by_variant(last(after_all))
    }
    count = len({r["case"] for r in after_all})
    lines += [f"## {count} edits in sequence, scored after all of them (Table 4)", ""]
    lines += [*table(sequential, ["HM", *ROWS]), ""]
    lines += ["Which differences are more than chance:", "", *differences(after_all)]
    lines += ["How it came to that: the same sequence, all edits made so far scored after N of them.", ""]
    points = retention(after_all)
    after = sorted(next(iter(points.values())))
    for metric in ("HM", "reliability", "image_generality", "near_image_preserved", "random_image_preserved"):
        lines += [f"| {metric} after | " + " | ".join(map(str, after)) + " |", "|---|" + "---|" * len(after)]
        for name, found in points.items():
            lines.append(f"| {TITLES[name]} | " + " | ".join(str(found[n][metric]) for n in after) + " |")
        lines.append("")
    for name, title in SPEED.items():
        lines += [f"## {title}", "", (runs / f"{name}.md").read_text()]
    return "\n".join(lines)


def measure(name: str, runs: Path) -> None:
    """Runs a benchmark of this folder in a process of its own and keeps its table; one that is there is not made again."""
    kept = runs / f"{name}.md"
    if not kept.exists():
        script = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--json", str(runs / f"{name}.json")]
        kept.write_text(subprocess.run(script, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "icons")
    parser.add_argument("--edits", type=int, default=500)
    parser.add_argument("--sequential", type=int, default=AT[-1])
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16 is twice as fast here as float32")
    options = parser.parse_args()
    vlm = vledit.load("pocket", dtype=options.dtype).vlm
    chosen = choose_alphas(vlm, options.runs / "alpha.json")
    methods = variants({kind: chosen[kind]["alpha"] for kind in ("full", "span")})
    cases = [case.trimmed(PROBES) for case in benchmark_cases(Wanted("icons", "test", options.edits))]
    some = [cases[i * len(cases) // options.sequential] for i in range(min(options.sequential, len(cases)))]
    cache = TrunkCache(vlm)
    points = tuple(sorted({*(n for n in AT if n < len(some)), len(some)}))
    plans = {"single": Plan(texts=50), "sequential": Plan("sequential", at=points)}
    for protocol, asked in (("single", cases), ("sequential", some)):
        with bar() as progress:
            each = sum(points) if protocol == "sequential" else len(asked)
            task = progress.add_task(f"icons test, {protocol}", total=each * len(methods))
            path, plan = options.runs / f"{protocol}.jsonl", plans[protocol]
            run(
                vlm,
                asked,
                methods,
                path,
                plan,
                cache,
                lambda _, p=progress, t=task: p.advance(t),
                benchmark="icons",
                split="test",
            )
    for name in SPEED:
        measure(name, options.runs)
    (ROOT / "docs" / "results.md").write_text(report(options.runs, chosen, options))


if __name__ == "__main__":
    main()
