"""A thousand records of "own data" with a scripted language model: what docs/build_a_benchmark.md builds its benchmark from.

    python benchmarks/own_vqa.py export FOLDER --records 1000     writes own.csv and its pictures
    python benchmarks/own_vqa.py serve --port 8123                the language model, until it is ended
    python benchmarks/own_vqa.py score OUT                        the checks of wordings against the truth
    python benchmarks/own_vqa.py calibrate                        what thresholds of the sentence encoder keep

The pictures are drawings of `icons`, asked for by name. The language model is a script that knows the names of things and
their groups, so that what it says is right, but for a share of rephrasings that ask for something else on purpose (--bad)
and of replies that cannot be used (--malformed): what the checks let through can be counted. It stands for a real one where
none can be had; it shows the machinery and the checks, not how well some language model writes.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.data.build.scripted_server import Faults, ScriptedServer, draw

from vledit.data.icons.dataset import all_wordings, load
from vledit.data.icons.kinds import NAME_KIND

SIZE = 160


def questions() -> dict[str, tuple[str, list[str], list[str]]]:
    """Question → its domain, the other ways to ask for a name, and ways to ask for something else."""
    found = {}
    for domain, kind in NAME_KIND.items():
        wordings = all_wordings()[domain]
        same = [text for split in ("train", "validation", "test") for text in wordings[kind].get(split, [])]
        other = [text for name, some in wordings.items() if name != kind for text in some["train"]]
        for text in same:
            found[text] = (domain, [one for one in same if one != text], other)
    return found


def export(folder: Path, records: int, seed: int) -> None:
    """Writes `own.csv` and `pictures/`: drawings, asked for by name, each concept about as often as the others."""
    data, chance = load(), random.Random(seed)
    drawn = [(c, d) for c in data.concepts.values() for d in data.drawings_of(c.id, "train")]
    chance.shuffle(drawn)
    turns: Counter[str] = Counter()
    ranked = []
    for concept, drawing in drawn:
        ranked.append((turns[concept.id], len(ranked), concept, drawing))
        turns[concept.id] += 1
    asked = {domain: all_wordings()[domain][kind]["train"] for domain, kind in NAME_KIND.items()}
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    with (folder / "own.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", "image", "question", "answer", "category"])
        for number, (_, _, concept, drawing) in enumerate(sorted(ranked, key=lambda row: row[:2])[:records]):
            name = f"pictures/{number:04d}.jpg"
            data.composite(drawing, number, "clean", SIZE).save(folder / name, quality=95, subsampling=0)
            answer = concept.facts[NAME_KIND[concept.domain]]
            rows.writerow([number, name, chance.choice(asked[concept.domain]), answer, concept.domain])


class Script:
    """Replies to the build's prompts about the concepts of `icons`."""

    def __init__(self, bad: float):
        self.bad, self.questions, data = bad, questions(), load()
        self.concepts = {c.facts[NAME_KIND[c.domain]]: c for c in data.concepts.values()}
        self.others = {
            name: sorted(
                (other for other, o in self.concepts.items() if o.domain == c.domain and other != name),
                key=lambda other: (self.concepts[other].group != c.group, draw(name, other)),
            )
            for name, c in self.concepts.items()
        }

    def __call__(self, prompt: str) -> dict[str, Any]:
        if "different ways" in prompt:
            return {"questions": self._rephrased(prompt)}
        if "what object" in prompt:
            return {"object": f"{prompt.split(', answer: ')[1].split('), what object')[0]}"}
        if "without seeing any picture" in prompt:
            return {"questions": self._text_questions(prompt)}
        if "another option" in prompt:
            own, new = re.findall(r"\[(.*?)\]", prompt)[:2]
            return {"answer": next(o for o in self.others[own] if not _alike(o, own) and not _alike(o, new))}
        own = re.search(r"Right answer: (.*)", prompt).group(1).strip()  # type: ignore[union-attr]
        return {"answer": next(o for o in self.others[own][1:] if not _alike(o, own))}

    def _rephrased(self, prompt: str) -> list[str]:
        count, question = re.search(r"in (\d+) different ways: (.*)", prompt).groups()  # type: ignore[union-attr]
        _, same, other = self.questions[question.strip()]
        order = sorted(same, key=lambda text: draw(question, text))
        order += [f"Please answer: {text}" for text in order]
        wrong = sorted(other, key=lambda text: draw(question, text))
        return [
            wrong[n] if n < len(wrong) and draw(question, n) < self.bad else text
            for n, text in enumerate(order[: int(count)])
        ]

    def _text_questions(self, prompt: str) -> list[dict[str, str]]:
        count = int(re.search(r"Write (\d+)", prompt).group(1))  # type: ignore[union-attr]
        general = sorted(all_wordings()["general"]["test"], key=lambda pair: draw(prompt, pair[0]))
        return [{"question": text, "answer": answer} for text, answer in general[:count]]


def _alike(first: str, second: str) -> bool:
    return first.lower() in second.lower() or second.lower() in first.lower()


def score(out: Path) -> None:
    """Prints the checks of wordings against the truth: whether a rephrasing asks for the name."""
    known = questions()
    counts: Counter[tuple[bool, str]] = Counter()

    def right(question: str, wording: str) -> bool:
        return wording.removeprefix("Please answer: ") in known[question][1]

    asked = {}
    for path in sorted(out.glob("*/cases.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            case = json.loads(line)
            asked[case["id"].split("/", 1)[1]] = case["question"]
            wordings = [probe["question"] for probe in case["generality"].get("text", [])] + case["rephrases"]
            counts.update((right(case["question"], wording), "accepted") for wording in wordings)
    for line in (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        if one["step"] == "rephrasing" and one["record"] in asked:
            by = "meaning" if "in meaning" in one["reason"] else "answer"
            counts[right(asked[one["record"]], one["item"]), f"rejected by {by}"] += 1
    print("rephrasings of the records that were kept")
    for verdict in ("accepted", "rejected by meaning", "rejected by answer"):
        print(f"  {verdict}: {counts[True, verdict]} ask for the name, {counts[False, verdict]} for something else")


def calibrate() -> None:
    """Prints, by threshold, how many pairs of wordings of one question, and of two questions, are at least as near."""
    import numpy as np

    from vledit.retrieval import encoder

    same: list[float] = []
    other: list[float] = []
    for domain in NAME_KIND:
        vectors = {kind: encoder().encode(some["train"]) for kind, some in all_wordings()[domain].items()}
        for kind, own in vectors.items():
            same += (own @ own.T)[np.triu_indices(len(own), 1)].tolist()
            other += [x for name, some in vectors.items() if name != kind for x in (own @ some.T).ravel().tolist()]
    print(f"{len(same)} pairs of wordings of one question, {len(other)} of two questions about the same picture")
    for threshold in (0.2, 0.3, 0.4, 0.5, 0.6):
        kept, passed = (sum(x >= threshold for x in some) / len(some) for some in (same, other))
        print(f"  cosine at least {threshold}: {100 * kept:.1f} % of one question, {100 * passed:.1f} % of two")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("export")
    one.add_argument("folder", type=Path)
    one.add_argument("--records", type=int, default=1000)
    one.add_argument("--seed", type=int, default=0)
    one = commands.add_parser("serve")
    one.add_argument("--port", type=int, default=8123)
    one.add_argument("--bad", type=float, default=0.15)
    one.add_argument("--malformed", type=float, default=0.1)
    one = commands.add_parser("score")
    one.add_argument("out", type=Path)
    commands.add_parser("calibrate")
    chosen = parser.parse_args()
    if chosen.command == "export":
        export(chosen.folder, chosen.records, chosen.seed)
    elif chosen.command == "score":
        score(chosen.out)
    elif chosen.command == "calibrate":
        calibrate()
    else:
        server = ScriptedServer(Faults(malformed=chosen.malformed, limited=0.05), Script(chosen.bad), chosen.port)
        print(f"http://127.0.0.1:{chosen.port}/v1", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
