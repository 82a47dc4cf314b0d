"""A pack: edits with their pictures and the sentence vectors of their texts, for a machine that has neither data nor encoder.

    .venv/bin/python benchmarks/packed.py write PACK --single 500 --sequence 200        the test split of icons, and its sequences
    python benchmarks/packed.py use PACK bench --benchmark cases --annotations PACK/single.jsonl --device cuda --out run.jsonl

`write` makes `single.jsonl` and `validation.jsonl` (with De-VQA's cells), `sequence.jsonl`, `text.jsonl`, `facts.jsonl`, and
`tune.jsonl` (edits of the validation split): files of cases as `vledit bench --benchmark cases` reads them, whose pictures are
stored without loss; and `companions.csv`, a table of edits of the train split (the setting `companions` of adversarial terms).
`use` is `vledit` with the pack's sentence vectors in the place of the encoder; a text that is not in the pack is an error.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ENCODER = "all-MiniLM-L6-v2"


def write_cases(cases: Sequence[Any], path: Path, probes: int = 0) -> list[Any]:
    """Writes the cases, and their pictures beside the file; `probes`: the most of each cell, 0: all.  Returns them as written."""
    from vledit.data import case_file

    found = [_filed(case, path.parent / "pictures", probes) for case in cases]
    case_file.write(found, path)
    return found


def _filed(case: Any, pictures: Path, probes: int) -> Any:
    cells = {
        family: {
            cell: tuple(replace(probe, image=_kept(probe.image, pictures)) for probe in some[: probes or len(some)])
            for cell, some in getattr(case, family).items()
        }
        for family in ("generality", "locality", "portability")
    }
    return replace(case, request=replace(case.request, image=_kept(case.request.image, pictures)), **cells)


def _kept(image: Any, pictures: Path) -> Path | None:
    from PIL import Image

    from vledit.vlm.pictures import open_picture, picture_key

    if image is None:
        return None
    pictures.mkdir(parents=True, exist_ok=True)
    path = pictures / f"{re.sub(r'[^0-9A-Za-z]', '-', picture_key(image)[:24])}.webp"
    if not path.exists():
        opened = open_picture(image)
        opened.save(path, lossless=True, method=4)
        with Image.open(path) as again:
            if again.convert("RGB").tobytes() != opened.tobytes():
                raise ValueError(f"{path}: its pixels are not the picture's")
    return path


def write_texts(cases: Iterable[Any], folder: Path) -> int:
    """Writes the sentence vectors of every text that an editor asks for.  Returns how many there are."""
    import numpy as np

    from vledit.retrieval import encoder

    texts: dict[str, None] = {}
    for case in cases:
        request = case.request
        statement = f"{request.question} {request.answer}"
        for text in (request.question, *request.rephrases, statement, *(p.question for *_, p in case.probes())):
            texts[" ".join(text.split())] = None
    vectors = encoder(ENCODER).encode(list(texts))
    np.savez(folder / "texts.npz", vectors=vectors)
    (folder / "texts.json").write_text(json.dumps(list(texts), ensure_ascii=False))
    return len(texts)


class Written:
    """A sentence encoder whose vectors were written into a pack."""

    name = ENCODER

    def __init__(self, folder: Path):
        import numpy as np

        vectors = np.load(folder / "texts.npz")["vectors"]
        self._vectors = dict(zip(json.loads((folder / "texts.json").read_text()), vectors, strict=True))
        self.dim, self.fingerprint = vectors.shape[1], f"written in {folder.name}"

    def encode(self, texts: Sequence[str]) -> Any:
        import numpy as np

        if not texts:
            return np.zeros((0, self.dim), np.float32)
        return np.stack([self._vectors[" ".join(text.split())] for text in texts])


def use(folder: Path) -> None:
    """From here on this process takes its sentence vectors from the pack."""
    from vledit import retrieval
    from vledit.editors import features, ike

    written = Written(folder)
    for module in (retrieval, features, ike):
        module.encoder = lambda *_: written  # type: ignore[attr-defined]


def crowded(test: Sequence[Any], others: Sequence[Any], count: int = 1000, scored: int = 100) -> list[Any]:
    """A long sequence, filled with facts of another split, since the test split has fewer than a thousand.

    Those that `bench --at 1000 --score 100` scores are of the test split. Only these have probes.
    """
    from vledit.data.benchmarks import spread
    from vledit.data.icons.sequence import in_sequence
    from vledit.evaluate.plan import Plan

    own = spread(test, count)
    fill = spread(others, count - len(own))
    places = set(Plan("sequential", scored=scored).places(count))
    filled = set(spread([place for place in range(count) if place not in places], len(fill)) if fill else ())
    crowd, rest = iter(fill), iter(own)
    mixed = [next(crowd if place in filled else rest) for place in range(count)]
    return [
        case if place in places else replace(case, generality={}, locality={})
        for place, case in enumerate(in_sequence(mixed))
    ]


def write(options: argparse.Namespace) -> None:
    """Writes the pack and prints what is in it."""
    from vledit.cli.benchmark_files import BenchmarkFiles
    from vledit.data.benchmarks import spread
    from vledit.data.case import EditCase
    from vledit.data.devqa import DevQA, index_of

    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    of = lambda name: BenchmarkFiles.of(name)  # noqa: E731
    test, validation = (of("icons").cases(split) for split in ("test", "validation"))
    wrapped = DevQA(test, index_of(test), 0)
    parts = {
        "single": wrapped.wrap_all(spread(test, options.single)),
        "sequence": of("icons").cases("test", options.sequence, sequence=True),
        "thousand": crowded(test, of("icons").cases("train")) if options.thousand else [],
        "text": of("icons-text").cases("test", options.sequence, sequence=True),
        "facts": of("icons-facts").cases("test", options.sequence, sequence=True),
        "validation": DevQA(validation, index_of(validation), 0).wrap_all(spread(validation, options.validation)),
        "tune": spread(validation, options.validation),
    }
    others = [EditCase(case.request, {}, {}) for case in spread(of("icons").cases("train"), options.companions)]
    written = [
        case for name, cases in parts.items() for case in write_cases(cases, folder / f"{name}.jsonl", options.probes)
    ]
    companions = write_cases(others, folder / "companions.jsonl")
    with (folder / "companions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "image", "question", "answer"))
        for request in (case.request for case in companions):
            rows.writerow((request.id, request.image.relative_to(folder), request.question, request.answer))
    count = write_texts([*written, *companions], folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    said = ", ".join(f"{name} {len(cases)}" for name, cases in parts.items())
    print(f"{said}; {len(list((folder / 'pictures').iterdir()))} pictures, {count} texts: {size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("folder", type=Path)
    writing.add_argument("--single", type=int, default=500)
    writing.add_argument("--sequence", type=int, default=200)
    writing.add_argument(
        "--thousand", action="store_true", help="and a sequence of a thousand edits, of icons' test and train"
    )
    writing.add_argument("--validation", type=int, default=60)
    writing.add_argument("--companions", type=int, default=300, help="edits of the train split, for adversarial terms")
    writing.add_argument("--probes", type=int, default=4, help="most probes of each cell")
    using = commands.add_parser("use")
    using.add_argument("folder", type=Path)
    using.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.command == "write":
        write(options)
        return
    use(options.folder)
    from vledit.cli import main as vledit

    sys.argv = ["vledit", *options.arguments]
    vledit()


if __name__ == "__main__":
    main()
