"""The only module in which the analyses apply edits: within `acting`, a prompt is run by the edited model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..editors.answering import encode
from ..editors.edited_model import EditedModel
from ..vlm.acting import acting as changes_acting

if TYPE_CHECKING:
    from ..data.case import EditRequest
    from ..evaluate.manifest import Variant
    from ..vlm.base import VLM, Encoded


def edited(vlm: VLM, variant: Variant, request: EditRequest) -> EditedModel:
    """The base with one edit of this variant.  Raises: see `EditedModel.edit`."""
    model = EditedModel(vlm)
    model.edit(request, variant.editor, **variant.settings)
    return model


@contextmanager
def acting(
    vlm: VLM, model: EditedModel | None, image: object, question: str, answer: str | None = None
) -> Iterator[tuple[VLM, Encoded]]:
    """Gives the model that answers (the base; another where an editor has one answer in its place) and the encoded prompt, one
    row, with what an edit puts into it; within the context the edits act as it was decided on the prompt alone.

    Args:
        model: the edited model; None: the base.
        answer: forced behind the prompt.
    """
    answers = None if answer is None else [answer]
    if model is None:
        yield vlm, vlm.encode([image], [question], answers)
        return
    with vlm.lock:
        (effect,) = model.effects([image], [question])
        answering = effect.responder or vlm
        encoded = encode(answering, [image], [question], [effect], answers)
        with changes_acting(answering, [effect.changes], encoded):
            yield answering, encoded
