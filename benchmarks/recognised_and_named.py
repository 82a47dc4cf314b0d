"""Where a name goes wrong: is the thing not recognised, or recognised and not named?

    .venv/bin/python benchmarks/recognised_and_named.py --weights package --weights runs/pocket/weights.safetensors

The same drawings and test wordings for all weights. Recognised: the fullest slot of the Q-Former's memory is the thing's own.
Prints a Markdown table; shares in % with 95 % intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import vledit
from vledit.data import icons
from vledit.pocket.assemble import ensure_pocket
from vledit.pocket.card import Question, Share, picture_questions, verified
from vledit.pocket.examples import Examples
from vledit.vlm.base import VLM

KINDS = (("things", "name"), ("flags", "country"), ("brands", "brand"))


@torch.no_grad()
def verdicts(vlm: VLM, asked: list[Question], names: list[str], batch: int) -> tuple[list[bool], list[bool]]:
    """For each question: is the picture recognised, and is it named exactly?"""
    seen: list[torch.Tensor] = []

    def note(_module: torch.nn.Module, _given: object, logits: torch.Tensor) -> None:
        seen.append(logits.detach().float())

    recognised, named = [False] * len(asked), [False] * len(asked)
    hook = vlm.model.qformer.memory_keys.register_forward_hook(note)
    try:
        for rows, exact in verified(vlm, asked, batch):
            slots = torch.cat(seen).argmax(-1).tolist()
            seen.clear()
            for i, slot, right in zip(rows, slots, exact, strict=True):
                recognised[i], named[i] = names[slot] == asked[i].answer, right
    finally:
        hook.remove()
    return recognised, named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", action="append", required=True, help="'package', or a weights.safetensors")
    parser.add_argument("--n", type=int, default=300, help="drawings of each kind and split")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    data = icons.load()
    names = Examples(data).names
    heads = ["weights", "drawings", "question", "recognised", "named if recognised", "named if not"]
    print("| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", sep="\n")
    for weights in given.weights:
        model = "pocket" if weights == "package" else str(ensure_pocket(weights=Path(weights)))
        vlm = vledit.load(model, dtype=given.dtype).vlm
        for split in ("train", "held_out"):
            for domain, kind in KINDS:
                asked = picture_questions(data, domain, kind, split, "test", given.n, given.seed)
                recognised, named = verdicts(vlm, asked, names, given.batch)
                where = [n for r, n in zip(recognised, named, strict=True) if r]
                elsewhere = [n for r, n in zip(recognised, named, strict=True) if not r]
                shares = [Share(sum(flags), len(flags)) for flags in (recognised, where, elsewhere)]
                cells = [split, f"{domain}.{kind}", *(f"{s} of {s.n}" if s.n else "none" for s in shares)]
                print("| " + " | ".join([Path(weights).parent.name or weights, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
