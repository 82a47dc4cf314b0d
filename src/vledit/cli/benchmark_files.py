"""Benchmarks that are read from files, on the command line: the options that say where they are, and `vledit data check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from ..errors import InputError, MissingDataError
from .output import Json, console, emit, errors
from .session import Device, Dtype, open_model

if TYPE_CHECKING:
    from ..data.case import EditCase
    from ..data.fingerprint import Fingerprint
    from ..data.reading import Files, Reading

BenchmarkName = Annotated[str, typer.Option("--benchmark", help="Data set of edits; see `vledit data list`.")]
Split = Annotated[str, typer.Option(help="Split of icons: train, validation or test.")]
MostProbes = Annotated[int, typer.Option(help="At most this many questions of each kind, the first ones; 0: all.")]
Annotations = Annotated[Path | None, typer.Option(help="Annotation file of a benchmark that is read from files.")]
Images = Annotated[
    list[Path] | None, typer.Option("--images", help="Folder of the benchmark's pictures (may be repeated).")
]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        help="NAME=VALUE: a further file or setting of the benchmark; see `vledit data check` (may be repeated).",
    ),
]
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Skip everything whose picture is missing, and report how much that is.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip invalid records, and report how many there are.")]
AsPublished = Annotated[
    bool,
    typer.Option(
        "--as-published", help="Keep texts exactly as published, with stray quotes, prefixes and underscores."
    ),
]


@dataclass(frozen=True)
class BenchmarkFiles:
    """A benchmark and how its files are to be read; made of what was typed, and small enough to be sent to workers."""

    benchmark: str
    annotations: Path | None = None
    images: tuple[Path, ...] = ()
    more: tuple[tuple[str, str], ...] = ()
    skip_missing: bool = False
    skip_bad: bool = False
    as_published: bool = False
    devqa: str = ""
    """The retriever with which De-VQA's cells are added to every case; empty: they are not."""

    @classmethod
    def of(
        cls,
        benchmark: str,
        annotations: Path | None = None,
        images: Sequence[Path] | None = None,
        more: Sequence[str] | None = None,
        skip_missing: bool = False,
        skip_bad: bool = False,
        as_published: bool = False,
        devqa: str = "",
    ) -> BenchmarkFiles:
        """Of the options' values.  Raises: InputError for a --with that is not NAME=VALUE."""
        pairs = []
        for text in more or ():
            name, equals, value = text.partition("=")
            if not (equals and name.strip() and value.strip()):
                raise InputError(f"--with: {text!r} is not NAME=VALUE.")
            pairs.append((name.strip(), value.strip()))
        folders = tuple(images or ())
        return cls(benchmark, annotations, folders, tuple(pairs), skip_missing, skip_bad, as_published, devqa)

    @classmethod
    def named(cls, text: str, option: str) -> tuple[BenchmarkFiles, str]:
        """The benchmark and the split of `BENCHMARK:SPLIT`, for settings to be chosen on.

        Raises: InputError, naming the option, for another form, and for the test split.
        """
        benchmark, colon, split = text.partition(":")
        if not (colon and benchmark and split):
            raise InputError(f"{option}: '{text}' given; write BENCHMARK:SPLIT, for example icons:validation.")
        if split == "test":
            raise InputError(f"{option}: 'test' is the split that is scored; name the one that settings are chosen on.")
        return cls.of(benchmark), split

    def files(self, split: str = "test") -> Files:
        """As the readers take them."""
        from ..data.reading import Files

        return Files(self.annotations, self.images, dict(self.more), self.as_published, split)

    def reading(self, split: str = "test") -> Reading:
        """Everything that is in them; files are read once.  Raises: see `vledit.data.benchmarks.read`."""
        return _read_once(self, split) if self.annotations else _read(self, split)

    def cases(self, split: str = "test", limit: int = 0, sequence: bool = False) -> list[EditCase]:
        """The cases, `limit` of them spread evenly; says on stderr which file it was and what was left out.

        Args:
            sequence: they are edited one after the other: none is asked to keep what another of them changes.

        Raises: UnknownNameError, InputError, MissingDataError; see `vledit.data.benchmarks.load`.
        """
        from ..data.benchmarks import benchmark, spread
        from ..data.reading import demand

        reading = self.reading(split)
        for line in (str(reading.fingerprint), *reading.summary()):
            errors.print(f"{self.benchmark}: {line}", markup=False, highlight=False, soft_wrap=True)
        cases = demand(reading, self.skip_missing, self.skip_bad)
        found = spread(cases, limit)
        adapt = benchmark(self.benchmark).in_sequence if sequence else None
        found = found if adapt is None else adapt(found)
        return self._with_devqa(found, cases) if self.devqa else found

    def _with_devqa(self, cases: list[EditCase], pool: list[EditCase]) -> list[EditCase]:
        """The cases with De-VQA's cells, retrieved from all of the benchmark; says which cells could not be made."""
        from ..data.devqa import DevQA, index_of, lacking

        wrapped = DevQA(pool, index_of(pool, self.devqa)).wrap_all(cases)
        if gaps := lacking(wrapped):
            told = ", ".join(f"{cell} of {count}" for cell, count in gaps.items())
            errors.print(f"De-VQA: the pool has nothing fit for some cells: {told} of {len(cases)} edits", markup=False)
        return wrapped

    def about(self, split: str) -> dict[str, Any]:
        """What a run's manifest says of its data: the split, or for a benchmark that is read from files, the file."""
        from ..data import benchmarks

        devqa = {"devqa": {"retriever": self.devqa}} if self.devqa else {}
        if not benchmarks.benchmark(self.benchmark).from_files:
            return {"benchmark": self.benchmark, "split": split} | devqa
        read = fingerprint_record(self.reading(split).fingerprint)
        how = {"as_published": self.as_published, "with": {name: _plain(value) for name, value in self.more}}
        return {"benchmark": self.benchmark, "data": {**read, **how}} | devqa

    def title(self, split: str) -> str:
        """For tables: "icons test", "evqa vqa_eval.json"."""
        return f"{self.benchmark} {self.annotations.name if self.annotations else split}"


def _read(files: BenchmarkFiles, split: str) -> Reading:
    from ..data import benchmarks

    return benchmarks.read(files.benchmark, files.files(split))


_read_once = lru_cache(maxsize=2)(_read)


def _plain(value: str) -> str:
    """A setting, or the name of a file: where it lies differs from machine to machine, and a run may go on elsewhere."""
    return Path(value).name


def check(
    name: Annotated[str, typer.Argument(help="Name of a benchmark; see `vledit data list`.")],
    annotations: Annotations = None,
    images: Images = None,
    more: With = None,
    split: Annotated[
        str, typer.Option(help="Split of icons and data sets built like it: train, validation or test.")
    ] = "test",
    as_published: AsPublished = False,
    open_pictures: Annotated[
        bool, typer.Option("--open-pictures", help="Open every picture, and list those that are damaged.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="List the answers that this model cannot score, for their length."),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Read a benchmark's files and report which version they are, what they contain, and what is missing or invalid."""
    from ..data import benchmarks

    chosen = benchmarks.benchmark(name)
    reading = benchmarks.read(
        name, BenchmarkFiles.of(name, annotations, images, more, as_published=as_published).files(split)
    )
    damaged = _damaged(reading) if open_pictures else []
    unfit = [] if model is None else _unfit_answers(reading, model, device, dtype)
    if json:
        emit({**_record(reading), "damaged": damaged, "unfit_answers": unfit})
        if reading.bad or unfit or reading.missing or damaged:  # a second document on stdout would spoil the first
            raise typer.Exit((InputError if reading.bad or unfit else MissingDataError).exit_code)
        return
    _show(reading, dict(chosen.more), damaged, unfit)
    if reading.bad or unfit:
        raise InputError(f"{name}: {len(reading.bad)} invalid records, {len(unfit)} answers that cannot be scored.")
    if reading.missing or damaged:
        raise MissingDataError(f"{name}: {len(reading.missing)} missing and {len(damaged)} damaged pictures.")


def fingerprint_record(fingerprint: Fingerprint) -> dict[str, Any]:
    """As it stands in JSON and in a run's manifest."""
    return {
        "content": fingerprint.content,
        "name": fingerprint.name,
        "looks_like": list(fingerprint.looks_like),
        "counts": dict(fingerprint.counts),
    }


def _record(reading: Reading) -> dict[str, Any]:
    return {
        "name": reading.benchmark,
        "fingerprint": fingerprint_record(reading.fingerprint),
        "records": reading.records,
        "cases": len(reading.cases),
        "probes": reading.probes(),
        "bad": [{"record": bad.index, "field": bad.field, "text": bad.text} for bad in reading.bad],
        "left_out": list(reading.left_out),
        "missing": [vars(missing) for missing in reading.missing],
        "dropped": dict(reading.dropped),
        "notes": list(reading.notes),
    }


def _show(reading: Reading, more: dict[str, str], damaged: list[str], unfit: list[str]) -> None:
    out = console()

    def say(text: str) -> None:
        out.print(text, markup=False, soft_wrap=True)

    say(f"{reading.benchmark} {reading.fingerprint}")
    say(f"{reading.records} records, {len(reading.cases)} cases")
    table = Table("cell", "probes", "cases")
    for cell, count in reading.probes().items():
        family, _, name = cell.partition("/")
        table.add_row(cell, str(count), str(sum(bool(getattr(case, family).get(name)) for case in reading.cases)))
    out.print(table)
    for line in reading.summary():
        say(f"note: {line}")
    lists = {
        "invalid records": reading.bad,
        "missing pictures": reading.missing,
        "damaged pictures": damaged,
        "answers that cannot be scored": unfit,
    }
    for title, items in lists.items():
        if items:
            say(f"{title}: {len(items)}")
            for item in items:
                say(f"  {item}")
    for name, about in more.items():
        say(f"--with {name}=…: {about}")


def _damaged(reading: Reading) -> list[str]:
    """A line for each picture file that cannot be opened."""
    from ..errors import PictureError
    from ..vlm.pictures import open_picture

    paths: dict[Path, str] = {}
    for case in reading.cases:
        for image in (case.request.image, *(probe.image for _, _, _, probe in case.probes())):
            if isinstance(image, Path):
                paths.setdefault(image, case.id)
    found = []
    with Progress(console=errors, transient=True) as progress:
        for path in progress.track(paths, description="opening pictures"):
            try:
                open_picture(path)
            except PictureError as error:
                found.append(f"{paths[path]}: {error}")
    return found


def _unfit_answers(reading: Reading, model: str, device: str, dtype: str) -> list[str]:
    """A line for each answer that the model cannot score."""
    from ..data.reading import unfit_answers

    return unfit_answers(reading.cases, open_model(model, device, dtype).vlm.answer_tokens)
