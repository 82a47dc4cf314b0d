"""Edits that a server is given at its start and that cannot be changed: always-on weights, and memories of other methods.

Codebook entries can be made, disabled and removed while a server runs. Edits of the other methods are made with
`EditedModel.edit`, saved with `save_pretrained`, and served from that folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..editors.edited_model import EditedModel
from ..editors.keeping import CODEBOOK_FILE
from ..errors import InputError

if TYPE_CHECKING:
    from ..codebook import Codebook
    from ..data.case import EditRequest
    from ..editors.base import Edit
    from ..editors.memory import Memory
    from ..vlm.base import VLM


@dataclass(frozen=True)
class Fixed:
    """Edits beside the codebook.

    Args:
        weights: always-on edits by id.
        memories: edits of methods with a memory of their own, by the method's name.
        folder: where they come from, for messages.
    """

    weights: Mapping[str, Edit] = field(default_factory=dict)
    memories: Mapping[str, Memory] = field(default_factory=dict)
    folder: str = ""

    @classmethod
    def read(cls, vlm: VLM, folder: str | Path) -> Fixed:
        """What `EditedModel.save_pretrained` wrote, its codebook apart (see `codebook_in`).

        Raises: ModelMismatchError where it belongs to another model; CodebookError where files are missing or damaged.
        """
        saved = EditedModel.from_pretrained(vlm, folder, readonly=True)
        saved.codebook.close()
        return cls(saved.weights, saved.memories, str(folder))

    def __bool__(self) -> bool:
        return bool(self.weights or self.memories)

    def model(self, vlm: VLM, codebook: Codebook | None = None) -> EditedModel:
        """The base with these edits and a codebook."""
        return EditedModel(vlm, codebook, self.weights, self.memories)

    @property
    def before(self) -> list[Memory]:
        """Memories that decide before the codebook is asked."""
        return [one for one in self.memories.values() if one.when == "request"]

    @property
    def apart(self) -> bool:
        """Whether requests have to be run one by one: what is put into a prompt, and who answers, differs from row to row."""
        return bool(self.before)

    def ids(self) -> list[str]:
        """Ids of all of them, whatever their status."""
        return [*self.weights, *(id for memory in self.memories.values() for id in memory.kept)]

    def records(self) -> list[dict[str, Any]]:
        """For JSON: what they are about and how they act."""
        found = [_record(edit, "on every request", "active") for edit in self.weights.values()]
        for memory in self.memories.values():
            found += [_record(one.edit, "on the requests it is for", one.status) for one in memory.kept.values()]
        return found

    def check_id(self, id: str) -> None:
        """Raises: InputError where one of them has this id."""
        if id and id in self.ids():
            raise InputError(f"id: '{id}' is the id of a fixed edit (from '{self.folder}'). Choose another, or none.")

    def check_answers(self, model: EditedModel, request: EditRequest, id: str | None) -> None:
        """Looks whether a new edit would be heard beside these.

        Args:
            model: with the new edit, if there is one.
            id: of the new edit; None where the base answers as wanted and nothing has to be kept.
        Raises: InputError that names the fixed edit which answers in its place.
        """
        if id is None and self:
            right = bool(model.verify([request.image], [request.question], [request.answer]).exact[0])
            if not right:
                by = model.route([request.image], [request.question])[0].entry
                which = f"'{by}'" if by in self.ids() else "always acting"
                raise InputError(
                    f"answer: the base gives this answer already, but a fixed edit ({which}, from '{self.folder}') gives "
                    "another. Take it out of that folder and start the server again."
                )
        elif id is not None and self.before:
            by = model.route([request.image], [request.question])[0].entry
            if by != id and by in self.ids():
                raise InputError(
                    f"question: the fixed edit '{by}' (from '{self.folder}') answers it before the codebook is asked. Take it "
                    "out of that folder and start the server again."
                )


def codebook_in(folder: str | Path) -> Path:
    """The codebook of a saved model."""
    return Path(folder) / CODEBOOK_FILE


def _record(edit: Edit, acts: str, status: str) -> dict[str, Any]:
    return {
        "id": edit.id,
        "object": "vledit.fixed_edit",
        "editor": edit.editor,
        "question": edit.request.question,
        "answer": edit.request.answer,
        "acts": acts,
        "status": status,
    }
