"""The result of reading a benchmark: cases, and everything that did not become a case, so that nothing is lost silently.

A benchmark's file turns one record into one `EditCase` and raises `FieldError` if it cannot; a missing picture
stays in the case as a `MissingPicture`. `collect` does the rest for all benchmarks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vledit.data.case import Cells, EditCase, Probe
from vledit.data.fingerprint import Fingerprint
from vledit.data.image_lookup import MissingPicture
from vledit.data.records import FieldError, Record
from vledit.errors import InputError, MissingDataError

_LISTED = 20
FAMILIES = ("generality", "locality", "portability")


@dataclass(frozen=True)
class Files:
    """Where a benchmark's files are, and how they are to be read.

    Args:
        annotations: the annotation file.
        images: folders that the pictures are looked up in (default: the annotation file's own).
        more: further files and settings of a benchmark by name (`Benchmark.more` says which there are).
        as_published: texts stay to the letter: quotes around a question, "nq question: ", underscores in names.
        split: of benchmarks that come with the package; in those read from files, the file is the split.
    """

    annotations: Path | None = None
    images: tuple[Path, ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)
    as_published: bool = False
    split: str = "test"

    def need_annotations(self, benchmark: str) -> Path:
        """Return the annotation file.  Raises: InputError where none was given."""
        if self.annotations is None:
            raise InputError(
                f"{benchmark}: no annotation file is given. `vledit data list` says where it is to be had; then give "
                "--annotations FILE and --images FOLDER."
            )
        return self.annotations

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders to look for pictures in.  Raises: InputError where one that was given does not exist."""
        for folder in self.images:
            if not Path(folder).expanduser().is_dir():
                raise InputError(f"images: there is no folder '{folder}'.")
        if self.images or self.annotations is None:
            return self.images
        return (self.annotations.parent,)


@dataclass(frozen=True)
class BadRecord:
    """A record that became no case, with the field that is at fault."""

    index: int
    field: str
    text: str

    def __str__(self) -> str:
        return f"record {self.index}: field '{self.field}' {self.text}"


@dataclass(frozen=True)
class Missing:
    """A picture that was not found, once, however many records name it."""

    name: str
    reason: str
    uses: int
    first: str

    def __str__(self) -> str:
        more = f" and {self.uses - 1} more" if self.uses > 1 else ""
        return f"{self.name} ({self.first}{more}): {self.reason}"


@dataclass(frozen=True)
class Reading:
    """Everything that was in a benchmark's files.

    Args:
        records: how many there were.
        cases: those that became cases.
        bad: those that did not, each with its fault.
        left_out: ids of those whose edited picture is missing.
        missing: every missing picture once.
        dropped: cell → probes that were taken out of `cases` because their picture is missing.
        notes: what else a user should know before trusting a figure.

    Raises: ValueError where a record is neither a case nor accounted for: a fault of the reader, never of the data.
    """

    benchmark: str
    fingerprint: Fingerprint
    records: int
    cases: tuple[EditCase, ...]
    bad: tuple[BadRecord, ...] = ()
    left_out: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        kept = len(self.cases) + len(self.bad) + len(self.left_out)
        if kept != self.records:
            raise ValueError(f"{self.benchmark}: {self.records} records were read, {kept} are accounted for")

    def probes(self) -> dict[str, int]:
        """Return family/cell → number of probes over all cases."""
        return dict(Counter(f"{family}/{cell}" for case in self.cases for family, cell, _, _ in case.probes()))

    def summary(self) -> list[str]:
        """Return what was left out and what to know, in sentences; [] where there is nothing to say."""
        said = []
        if self.bad:
            said.append(f"{len(self.bad)} of {self.records} records are invalid and left out")
        if self.left_out:
            said.append(f"{len(self.left_out)} of {self.records} records are left out: their own picture is missing")
        if self.dropped:
            cells = ", ".join(f"{count} of {cell}" for cell, count in self.dropped.items())
            said.append(f"{sum(self.dropped.values())} probes are left out, their picture is missing: {cells}")
        return [*said, *self.notes]


def collect(
    benchmark: str,
    records: Sequence[Any],
    convert: Callable[[int, Record], EditCase],
    fingerprint: Fingerprint,
    notes: Callable[[Sequence[EditCase]], Iterable[str]] = lambda _: (),
) -> Reading:
    """Turn every record into a case or into a line that says why not.

    Args:
        convert: index and record → case; raises `FieldError`.
        notes: all cases, those with missing pictures included → what to say about them.
    """
    cases: list[EditCase] = []
    converted: list[EditCase] = []
    bad: list[BadRecord] = []
    left_out: list[str] = []
    dropped: Counter[str] = Counter()
    uses: dict[str, list[tuple[MissingPicture, str]]] = {}
    ids: set[str] = set()
    for index, values in enumerate(records):
        try:
            case = convert(index, Record(values))
            if case.id in ids:
                raise FieldError("id", f"{case.id} was given to an earlier record")
        except FieldError as error:
            bad.append(BadRecord(index, error.field, error.text))
            continue
        ids.add(case.id)
        converted.append(case)
        for cell, picture in _gone(case):
            uses.setdefault(picture.name, []).append((picture, f"record {index}, {cell}"))
            dropped[cell] += not isinstance(case.request.image, MissingPicture)
        if isinstance(case.request.image, MissingPicture):
            left_out.append(case.id)
        else:
            cases.append(_without_gone(case))
    missing = tuple(Missing(name, used[0][0].reason, len(used), used[0][1]) for name, used in uses.items())
    return Reading(
        benchmark,
        fingerprint,
        len(records),
        tuple(cases),
        tuple(bad),
        tuple(left_out),
        missing,
        {cell: count for cell, count in dropped.items() if count},
        tuple(notes(converted)),
    )


def _gone(case: EditCase) -> list[tuple[str, MissingPicture]]:
    """Return (cell, picture) of all that is missing; of a picture that several probes share, once per cell."""
    found = [("edit", case.request.image)] if isinstance(case.request.image, MissingPicture) else []
    found += [
        (f"{family}/{cell}", probe.image)
        for family, cell, _, probe in case.probes()
        if isinstance(probe.image, MissingPicture) and probe.image is not case.request.image
    ]
    return found


def _without_gone(case: EditCase) -> EditCase:
    def present(cells: Cells) -> Cells:
        left = {
            cell: tuple(probe for probe in probes if not isinstance(probe.image, MissingPicture))
            for cell, probes in cells.items()
        }
        return {cell: probes for cell, probes in left.items() if probes}

    return replace(case, **{family: present(getattr(case, family)) for family in FAMILIES})


def demand(reading: Reading, skip_missing: bool = False, skip_bad: bool = False) -> list[EditCase]:
    """Return the cases, where nothing stands against them.

    Raises:
        InputError: records are unfit and `skip_bad` was not asked for; each is named with its field.
        MissingDataError: pictures are missing and `skip_missing` was not asked for; each is named once.
        InputError: nothing is left.
    """
    if reading.bad and not skip_bad:
        raise InputError(
            f"{reading.benchmark}: {len(reading.bad)} of {reading.records} records are invalid. Correct them, or leave them "
            f"out with --skip-bad.\n{_listed(reading.bad)}"
        )
    if reading.missing and not skip_missing:
        raise MissingDataError(
            f"{reading.benchmark}: {len(reading.missing)} pictures are missing. Give the folder that holds them with "
            "--images (may be repeated), or leave out what needs them with --skip-missing.\n"
            f"{_listed(reading.missing)}"
        )
    if not reading.cases:
        raise InputError(f"{reading.benchmark}: no case is left of {reading.records} records.")
    return list(reading.cases)


def _listed(items: Sequence[object]) -> str:
    lines = [f"  {item}" for item in items[:_LISTED]]
    if len(items) > _LISTED:
        lines.append(f"  … and {len(items) - _LISTED} more; `vledit data check` lists all of them")
    return "\n".join(lines)


def unfit_answers(cases: Iterable[EditCase], tokens: Callable[[str, str, bool], object]) -> list[str]:
    """Return a line for each answer to be given that a model cannot score: too long, or of unknown characters.

    Those are the edits' and portability's own; locality is measured against what the base itself answers.

    Args:
        tokens: question, answer, with a picture? → the answer's tokens; raises InputError (`VLM.answer_tokens`).
    """
    found = []
    for case in cases:
        edit = Probe(case.request.image, case.request.question, case.request.answer)
        asked = [
            ("edit", edit),
            *((f"portability/{c}", probe) for c, probes in case.portability.items() for probe in probes),
        ]
        for cell, probe in asked:
            try:
                if probe.answer:
                    tokens(probe.question, probe.answer, probe.image is not None)
            except InputError as error:
                found.append(f"{case.id}, {cell}: {error}")
    return found
