"""What every method does before and after it makes an edit: the picture is opened, and what was made is reported."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

from ..data.case import EditRequest
from ..vlm.pictures import open_picture, picture_key
from .base import Edit, EditReport

if TYPE_CHECKING:
    from ..codebook import Codebook


def opened(request: EditRequest) -> EditRequest:
    """The request with its picture opened.  Raises: PictureError for one that cannot be read."""
    image = None if request.image is None else open_picture(request.image)
    return EditRequest(image, request.question, request.answer, request.rephrases, request.id)


def new_id(request: EditRequest, codebook: Codebook | None = None) -> str:
    """A short id from the edit's content; numbered where the codebook has it already."""
    picture = "" if request.image is None else picture_key(request.image)  # type: ignore[arg-type]
    text = "\0".join([picture, request.question, request.answer])
    stem = hashlib.sha256(text.encode()).hexdigest()[:8]
    return stem if codebook is None else codebook.free_id(stem)


def reported(
    editor: str, request: EditRequest, began: float, steps: int, loss: float, lead: float, nbytes: int, **held: Any
) -> Edit:
    """The edit with its report; it is learnt where the answer's weakest token leads.

    Args:
        began: `time.perf_counter()` when the making began.
        steps, loss, lead, nbytes: see `EditReport`.
        held: `weights` or `payload`, see `Edit`.
    """
    report = EditReport(time.perf_counter() - began, steps, loss, lead, nbytes, lead > 0)
    return Edit(request.id or new_id(request), editor, request, report, **held)
