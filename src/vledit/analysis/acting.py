"""The one place where the analyses touch how edits act: within `acting`, whatever is run on the prompt is the edited model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..editors.edited_model import EditedModel

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
) -> Iterator[Encoded]:
    """Gives the encoded prompt, one row; within the context the edits act on it as it was decided on the prompt alone.

    Args:
        model: the edited model; None: the base.
        answer: forced behind the prompt.
    """
    answers = None if answer is None else [answer]
    if model is None:
        yield vlm.encode([image], [question], answers)
        return
    with vlm.lock:
        decisions = model.route([image], [question])
        encoded = vlm.encode([image], [question], answers)
        with model._acting(decisions):
            yield encoded
