"""Does an editor that retrieves find its own edit, and stay silent elsewhere?  Decisions alone: no answer is generated.

    .venv/bin/python benchmarks/finds.py --editor recipe [--fitted FOLDER] [--edits 40] [--split validation]

Edits of a split of `icons`, spread evenly, with the first probe of each cell.  Each edit is asked alone, and then among all.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from vledit.cli.benchmark_files import BenchmarkFiles
from vledit.cli.session import open_model
from vledit.data.benchmarks import spread
from vledit.data.case import EditCase, Probe
from vledit.editors.edited_model import EditedModel

OWN = "reliability"


def asked(case: EditCase) -> list[tuple[str, bool, Probe]]:
    """(cell, in scope?, probe): the edit itself, and the first probe of each cell."""
    found = {OWN: (OWN, True, Probe(case.request.image, case.request.question))}
    for family, cell, _, probe in case.probes():
        name = f"{family}/{cell}"
        if family != "portability" and name not in found:
            found[name] = (name, family == "generality", probe)
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--editor", default="recipe")
    parser.add_argument("--fitted", type=Path, help="folder of a fitting; default: where the editor looks for it")
    parser.add_argument("--edits", type=int, default=40)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    files = BenchmarkFiles.of("icons", None, None, None, False, False, False, "")
    cases = spread(list(files.cases(options.split)), options.edits)
    model = EditedModel(open_model("pocket", options.device, "float32").vlm)
    given = {"fitted": str(options.fitted)} if options.fitted else {}
    right: dict[str, list[list[bool]]] = defaultdict(lambda: [[], []])
    ids, learnt = [], 0

    def ask(case: EditCase, id: str, place: int) -> None:
        probes = asked(case)
        made = model.route([one.image for *_, one in probes], [one.question for *_, one in probes])
        for (cell, inside, _), decision in zip(probes, made, strict=True):
            wanted = decision.fired and decision.entry == id if inside else not decision.fired
            right[cell][place].append(bool(wanted))

    for case in cases:
        edit = model.edit(case.request, options.editor, check=False, **given)
        learnt += edit.report.trained
        ids.append(edit.id)
        ask(case, edit.id, 0)
        model.remove(edit.id)
    for id in ids:
        model.restore(id)
    for case, id in zip(cases, ids, strict=True):
        ask(case, id, 1)
    print(
        f"{options.editor}, {len(cases)} edits of {options.split}; with its edit cited the model gives {learnt} answers\n"
    )
    print("| cell | wanted | alone, % | among all, % | probes |\n|---|---|---|---|---|")
    for cell, (alone, among) in right.items():
        wanted = "silence" if cell.startswith("locality") else "its own edit"
        shares = " | ".join(f"{100 * sum(some) / len(some):.0f}" for some in (alone, among))
        print(f"| {cell} | {wanted} | {shares} | {len(alone)} |")


if __name__ == "__main__":
    main()
