"""The table family × contract: runs the contract suite and writes what it showed.

`docs/backbones.md` is for people; `src/vledit/vlm/proven.json` says the same to `vledit models`.  Exit code 1 where a cell
is red; the pages are written all the same, and show it.

    .venv/bin/python benchmarks/backbones.py        (or: make backbones)

In parts, side by side or one after the other: `--only llava,blip2 --save part.json` keeps what a run showed, and
`--join part.json other.json` writes the pages from all of them; of a cell that is in several the last one counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "backbones.md"
TWIN = ROOT / "src" / "vledit" / "vlm" / "proven.json"
NOT_RUN = {
    "CUDA and other accelerators": "there is no GPU here; `device=` and `device_map=` are parameters end to end",
    "8-bit and 4-bit bases": "not in this table; `tests/contract/test_contract_layers.py` edits such models on the CPU",
    "chunked prefill on Gemma 3 and PaliGemma": "they read the prompt in both directions, so it is ignored, with a warning",
    "chunked prefill on Ovis 2 and Llama 3.2 Vision": "transformers reads their prompts in one piece; ignored, with a warning",
    "assisted decoding on Qwen3.5 and Llama 3.2 Vision": "transformers has none for them; the cell shows that it is refused",
    "published checkpoints": "too large to fetch here; the families' files hold their names, prompts, sites and sizes",
}


class Recorder:
    """A pytest plugin that keeps, per test of the suite, its cell, its outcome and its seconds."""

    def __init__(self) -> None:
        self.clauses: dict[str, str] = {}
        self.results: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._cells: dict[str, tuple[str, str, str]] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            cell = getattr(item, "callspec", None) and item.callspec.params.get("cell")
            if cell is None:  # a test of the suite that is not of one family and editor
                continue
            family, editor = cell
            clause = item.originalname.removeprefix("test_").replace("_", " ")
            self.clauses[clause] = " ".join((item.function.__doc__ or "").split())
            self._cells[item.nodeid] = (family, editor, clause)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.nodeid not in self._cells:
            return
        result = self.results.setdefault(self._cells[report.nodeid], {"outcome": "passed", "seconds": 0.0})
        result["seconds"] += report.duration
        if report.outcome != "passed":
            result["outcome"] = report.outcome
            result["why"] = str(report.longrepr[2] if report.skipped else report.longrepr.reprcrash.message)
        result |= dict(report.user_properties)


def run(arguments: list[str]) -> tuple[Recorder, float]:
    """Runs the suite.  Returns what it recorded, and the seconds that it took."""
    recorder = Recorder()
    began = time.perf_counter()
    paths = [str(path) for path in sorted((ROOT / "tests" / "contract").glob("test_contract_*.py"))]
    pytest.main(["-p", "no:cacheprovider", "--tb=short", *paths, *arguments], plugins=[recorder])
    return recorder, time.perf_counter() - began


def save(path: Path, recorder: Recorder, seconds: float) -> None:
    """What a run recorded, for `join`."""
    cells = [[*cell, result] for cell, result in recorder.results.items()]
    kept = {"seconds": seconds, "clauses": recorder.clauses, "cells": cells}
    path.write_text(json.dumps(kept, indent=0, ensure_ascii=False) + "\n")


def join(paths: Sequence[str]) -> tuple[Recorder, float]:
    """What several runs recorded, as one; of a cell that several have run the last one counts, seconds are added."""
    recorder, seconds = Recorder(), 0.0
    for path in paths:
        part = json.loads(Path(path).read_text())
        seconds += part["seconds"]
        recorder.clauses |= part["clauses"]
        recorder.results |= {(family, editor, clause): result for family, editor, clause, result in part["cells"]}
    return recorder, seconds


def summary(recorder: Recorder, seconds: float) -> dict[str, Any]:
    """What the suite showed, as it stands in proven.json: by family, and the run under "run"."""
    import torch
    import transformers
    from tests.vlm.models import tiny

    rows: dict[str, dict[tuple[str, str], dict[str, Any]]] = defaultdict(dict)
    for (family, editor, clause), result in recorder.results.items():
        rows[family][clause, editor] = result
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    date = time.strftime("%Y-%m-%d")
    proven: dict[str, Any] = {
        "run": {
            "date": date,
            "seconds": round(seconds),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, CPU only",
            **versions,
            "clauses": recorder.clauses,
            "not_run": NOT_RUN,
        }
    }
    for name, results in rows.items():
        vlm = tiny(name)
        outcomes = Counter("unfit" if _unfit(result) else result["outcome"] for result in results.values())
        failed = {
            f"{clause}: {editor}": r["why"]
            for (clause, editor), r in results.items()
            if r["outcome"] != "passed" and not _unfit(r)
        }
        unfit = Counter(f"{editor}: {_reason(r)}" for (_, editor), r in results.items() if _unfit(r))
        by_editor: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for (_, editor), r in results.items():
            counts = (True, r["outcome"] == "passed", _unfit(r))
            by_editor[editor] = [have + more for have, more in zip(by_editor[editor], counts, strict=True)]
        proven[name] = {
            "family": vlm.family.name,
            "title": vlm.family.title,
            "class": type(vlm.model).__name__,
            "language_model": type(vlm.anatomy.decoder).__name__,
            "site": str(vlm.family.default_site),
            "contract": "failed" if outcomes["failed"] else "passed",
            "date": date,
            **versions,
            "rows": sum(outcomes.values()),
            "passed": outcomes["passed"],
            "unfit": dict(sorted(unfit.items())),
            "editors": sorted({editor for _, editor in results}),
            "by_editor": dict(sorted(by_editor.items())),  # cells run, green, to which the clause does not apply
            "not_run": [clause for clause in recorder.clauses if not any(ran == clause for ran, _ in results)],
            "seconds": round(sum(result["seconds"] for result in results.values()), 1),
            "failed": failed,
            "unrelated_changed": sorted(e for (_, e), r in results.items() if r.get("unrelated") == "changed"),
        }
    return proven


UNFIT = "does not apply: "


def _unfit(result: dict[str, Any]) -> bool:
    """Whether a cell was skipped because its clause does not apply to the editor."""
    return result["outcome"] == "skipped" and UNFIT in result["why"]


def _reason(result: dict[str, Any]) -> str:
    return result["why"].partition(UNFIT)[2]


def page(proven: dict[str, Any]) -> str:
    """`docs/backbones.md` for what `summary` gave."""
    ran = proven["run"]
    families = {name: row for name, row in proven.items() if name != "run"}
    editors = sorted({editor for row in families.values() for editor in row["editors"]})
    clauses = list(ran["clauses"])
    cells = sum(row["rows"] for row in families.values())
    green = sum(row["passed"] for row in families.values())
    unfit: Counter[str] = Counter()
    for row in families.values():
        unfit.update(row.get("unfit", {}))
    whole = len(families) * len(editors) * len(clauses)
    lines = [
        "# Backbones: what is proven for which family",
        "",
        "<!-- written by benchmarks/backbones.py (`make backbones`); do not edit -->",
        "",
        "Every family is run through one contract suite (`tests/contract/`) with every editor, on a tiny model with random",
        "weights of its true Hugging Face class and with its true processor. That shows the mechanics; what an edit means on",
        "trained weights is measured on the embedded model ([results](results.md)).",
        "",
        f"**{green} of {cells} cells that were run are green**, to {sum(unfit.values())} the clause does not apply. The whole "
        f"table has {whole} cells: {len(families)} models × {len(editors)} editors "
        f"({', '.join(f'`{editor}`' for editor in editors)}) × {len(clauses)} clauses. Run on {ran['date']}, "
        f"{ran['machine']}, Python {ran['python']}, torch {ran['torch']}, transformers {ran['transformers']}: "
        f"{ran['seconds']} s.",
        *_later(families, ran["date"]),
        "",
        f"| family | model | {' | '.join(str(n) for n in range(1, len(clauses) + 1))} | s |",
        f"|---|---|{'---|' * len(clauses)}---|",
    ]
    for name, row in sorted(families.items()):
        marks = [_mark(row, clause) for clause in clauses]
        lines.append(f"| {name} | {row['class']}, {row['language_model']} | {' | '.join(marks)} | {row['seconds']} |")
    lines += [
        "",
        "✓: no cell that was run is red; ·: none was run; else the editors for which it is red or was skipped, told below.",
        "",
    ]
    lines += [f"{n}. **{clause}**: {about}" for n, (clause, about) in enumerate(ran["clauses"].items(), 1)]
    counted = all("by_editor" in row for row in families.values())  # rows of older runs have no counts
    if counted:
        lines += [
            "",
            "## Editors",
            "",
            "| editor | cells run | green | does not apply | red |",
            "|---|---|---|---|---|",
        ]
    for editor in editors if counted else ():
        counts = [row["by_editor"].get(editor, [0, 0, 0]) for row in families.values()]
        cells, green, apart = (sum(some) for some in zip(*counts, strict=True))
        lines.append(f"| `{editor}` | {cells} | {green} | {apart} | {cells - green - apart} |")
    red = [(name, cell, why) for name, row in sorted(families.items()) for cell, why in row["failed"].items()]
    if red:
        lines += ["", "## Red or skipped", ""]
        lines += [f"- {name}, {cell}: {' '.join(why.split())[:300]}" for name, cell, why in red]
    if unfit:
        lines += ["", "## Where a clause does not apply", ""]
        lines += [f"- {what}: {count} cell{'s' if count > 1 else ''}." for what, count in sorted(unfit.items())]
    changed = [f"{name} ({', '.join(row['unrelated_changed'])})" for name, row in sorted(families.items())]
    changed = [text for text in changed if not text.endswith("()")]
    lines += [
        "",
        "An always-on edit has no scope. The unrelated row's answer changed under it on: "
        + (", ".join(changed) or "none")
        + ".",
        "",
        "## Not run",
        "",
        *(f"- **{what}**: {why}." for what, why in ran["not_run"].items()),
    ]
    return "\n".join(lines) + "\n"


def _later(families: dict[str, Any], date: str) -> list[str]:
    """The models that were run by themselves on another day (`--only`)."""
    days = sorted({row["date"] for row in families.values()} - {date})
    return [
        f"Run by themselves on {day}: {', '.join(name for name, row in sorted(families.items()) if row['date'] == day)}."
        for day in days
    ]


def _mark(row: dict[str, Any], clause: str) -> str:
    red = [cell.removeprefix(f"{clause}: ") for cell in row["failed"] if cell.startswith(f"{clause}: ")]
    if not red and clause in row.get("not_run", ()):
        return "·"
    return "✗ " + ", ".join(red) if red else "✓"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default="", help="run these models alone, with commas between; the others' rows are kept"
    )
    parser.add_argument("--covering", action="store_true", help="run the choice of cells that `make test` runs")
    parser.add_argument("--show", action="store_true", help="print the page, write nothing")
    parser.add_argument("--save", type=Path, help="keep what the run showed in this file, write no pages")
    parser.add_argument("--join", nargs="+", help="run nothing: write the pages from files of --save")
    options, rest = parser.parse_known_args()
    sys.path.insert(0, str(ROOT))
    if options.join:
        return write(with_others(summary(*join(options.join))), options.show)
    rest += [] if options.covering else ["--whole"]
    only = [name for name in options.only.split(",") if name]
    if only:
        rest += ["-k", " or ".join(f"[{name}-" for name in only)]
    recorder, seconds = run(rest)
    if options.save:
        save(options.save, recorder, seconds)
        return int(any(result["outcome"] == "failed" for result in recorder.results.values()))
    proven = summary(recorder, seconds)
    return write(with_others(proven) if only else proven, options.show)


def with_others(proven: dict[str, Any]) -> dict[str, Any]:
    """Models that were not run are kept as they stand in the twin."""
    kept = json.loads(TWIN.read_text())
    whole = set(kept) <= set(proven)
    run = proven["run"] if whole else {**kept["run"], "clauses": proven["run"]["clauses"], "not_run": NOT_RUN}
    joined = {**kept, **proven, "run": run}
    new = [clause for clause in run["clauses"] if clause not in kept["run"]["clauses"]]
    for row in [row for name, row in joined.items() if name != "run" and "by_editor" not in row]:
        row["not_run"] = new
    return joined


def write(proven: dict[str, Any], show: bool) -> int:
    """Writes page and twin, or prints the page.  Returns 1 where a cell is red."""
    if show:
        print(page(proven))
    else:
        TWIN.write_text(json.dumps(proven, indent=1, ensure_ascii=False) + "\n")
        PAGE.write_text(page(proven))
        print(f"wrote {PAGE.relative_to(ROOT)} and {TWIN.relative_to(ROOT)}", file=sys.stderr)
    return int(any(row.get("contract") == "failed" for row in proven.values()))


if __name__ == "__main__":
    sys.exit(main())
