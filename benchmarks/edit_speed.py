"""Seconds and bytes per edit: trunk once and a tail per step, against the plain way, in one run.

The plain way is what editing code commonly does: the whole model forward and backward, to the site's weights, at each of 50
Adam steps, no early stop.  As a user makes an edit, the model rephrases the question first; that takes time, too.
Both train the same site on the same answers; both must end with the new answer.

    .venv/bin/python benchmarks/edit_speed.py [--edits 3] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import vledit
from vledit.data import icons
from vledit.editors.registry import editor
from vledit.vlm.base import VLM


def plain_edit(vlm: VLM, request: Any, steps: int = 50, rate: float = 1e-3) -> tuple[float, bool]:
    """(seconds, learnt): 50 Adam steps through the whole model; the site's weights are put back afterwards."""
    weight = vlm.site_module(vlm.default_site).weight
    before = weight.detach().clone()
    began = time.perf_counter()
    encoded = vlm.encode([request.image], [request.question], [request.answer])
    weight.requires_grad_(True)
    optimizer = torch.optim.Adam([weight], lr=rate)
    for _ in range(steps):
        logits = vlm.model(**encoded.model_inputs).logits[encoded.predict_mask]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.float(), encoded.targets).backward()
        optimizer.step()
    seconds = time.perf_counter() - began
    learnt = bool(vlm.verify(encoded).exact[0])
    weight.requires_grad_(False)
    with torch.no_grad():
        weight.copy_(before)
    return seconds, learnt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=3)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = vledit.load(options.model)
    cases = icons.load_edits("test")[: options.edits]
    rows: dict[str, dict[str, Any]] = {}
    for name, rephrase in (("full", "auto"), ("full", "supplied"), ("span", "auto"), ("span", "supplied")):
        method = editor("balancedit", transformation=name, rephrase=rephrase)
        method.edit(model.vlm, cases[-1].request)  # caches that all later edits share
        asked = [case.request if rephrase == "supplied" else replace(case.request, rephrases=()) for case in cases]
        edits = [method.edit(model.vlm, request) for request in asked]
        rows[f"balancedit {name}, {'rephrase supplied' if rephrase == 'supplied' else 'as a user makes it'}"] = {
            "seconds": [e.report.seconds for e in edits],
            "bytes": statistics.mean(e.entry.transformation.nbytes + e.entry.key.nbytes for e in edits),
            "steps": statistics.mean(e.report.steps for e in edits),
            "learnt": sum(e.report.trained for e in edits),
        }
    plain = [plain_edit(model.vlm, case.request) for case in cases]
    site = model.vlm.site_module(model.vlm.default_site)
    rows["plain, 50 steps, whole model"] = {
        "seconds": [seconds for seconds, _ in plain],
        "bytes": site.weight.numel() * site.weight.element_size(),
        "steps": 50,
        "learnt": sum(learnt for _, learnt in plain),
    }
    slow = statistics.median(rows["plain, 50 steps, whole model"]["seconds"])
    print(f"| way | seconds per edit (median of {len(cases)}) | times faster | Adam steps | bytes per edit | learnt |")
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        row["median_seconds"] = statistics.median(row["seconds"])
        row["ratio"] = slow / row["median_seconds"]
        print(
            f"| {name} | {row['median_seconds']:.2f} | {row['ratio']:.1f} | {row['steps']:.0f} | {row['bytes']:,.0f} "
            f"| {row['learnt']}/{len(cases)} |"
        )
    if options.json:
        about = {"date": time.strftime("%Y-%m-%d"), "machine": platform.processor(), "threads": torch.get_num_threads()}
        options.json.write_text(json.dumps({"rows": rows, **about}, indent=1))


if __name__ == "__main__":
    main()
