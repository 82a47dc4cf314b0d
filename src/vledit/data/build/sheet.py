"""Contact sheets for a human: every made picture with what was expected, what the verifier said, and accept or reject.

Each page is one HTML file that needs nothing else. What a person decides on it is saved as a JSON file from the page, and
`vledit data build okedit --review FILE` builds again with these decisions above the verifier's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vledit.data.build.construct import Built
from vledit.data.build.records import JudgedPicture
from vledit.errors import InputError

TEMPLATE = Path(__file__).with_name("sheet.html.j2")
PER_PAGE = 50
SIDE, OWN_SIDE, QUALITY = 112, 160, 70
"""Pixels of a made picture and of a record's own, and the quality of their WebP."""


def write_sheets(judged: Sequence[Built], kept: set[str], manifest: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write pages of `PER_PAGE` records each into `folder` and return them."""
    from vledit.report.pages import data_uri, write_page
    from vledit.vlm.pictures import open_picture

    def shown(one: JudgedPicture) -> dict[str, Any]:
        p = one.picture
        return {
            "name": f"{p.record}/{p.role}/{p.number}",
            "role": p.role,
            "uri": data_uri(open_picture(p.path), SIDE, QUALITY),
            "expected": one.expected,
            "answer": one.answer,
            "accepted": one.accepted,
            "reason": one.reason,
            "by": one.by,
            "prompt": p.prompt,
        }

    pages = [judged[start : start + PER_PAGE] for start in range(0, len(judged), PER_PAGE)]
    names = [f"{number:03d}.html" for number in range(1, len(pages) + 1)]
    written = []
    for name, some in zip(names, pages, strict=True):
        records = [
            {
                "id": one.source.id,
                "question": one.source.question,
                "answer": one.source.answer,
                "new": one.texts.counterfactual,
                "third": one.texts.third,
                "kept": one.source.id in kept,
                "rephrasings": one.rephrasings,
                "uri": data_uri(open_picture(one.source.picture), OWN_SIDE, QUALITY),
                "pictures": [shown(picture) for picture in one.pictures],
            }
            for one in some
        ]
        values = {"records": records, "rates": manifest["rates"], "names": names, "name": name}
        written.append(write_page(TEMPLATE, folder / name, **values))
    return written


def read_review(path: Path) -> dict[str, bool]:
    """A human's decisions: "record/role/number" → accepted?  Raises: InputError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"review: '{path}' cannot be read as JSON ({error}).") from error
    if not isinstance(value, dict) or any(said not in ("accept", "reject") for said in value.values()):
        raise InputError(
            f'review: \'{path}\' is not an object of names with "accept" or "reject", as a sheet saves it.'
        )
    return {str(name): said == "accept" for name, said in value.items()}
