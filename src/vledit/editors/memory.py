"""A memory stores the edits of one method and decides, once per request, which of them act.

The codebook (`codebook.Codebook`) and the always-on edits (`weights`) were the first two; every other method has a
subclass of `Memory`.  `when` says what a memory needs in order to decide:

- "request": the picture and the question as the user gave them, before any pass (retrieval);
- "prefill": what its `reads` select of the prompt, inside the answer's own first pass.

Neither of them contains a reference answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..codebook.relation import Fact, Relation, conflict
from ..data.cache import sha256_bytes, write_atomic
from ..data.case import EditRequest
from ..errors import CodebookError, InputError, ModelMismatchError, UnknownNameError, VLEditError
from ..tensor_bytes import tensors_of
from .base import Edit, EditReport, Payload

if TYPE_CHECKING:
    from torch import Tensor

    from ..vlm.acting import Read
    from ..vlm.base import VLM
    from .effect import Effect

SCHEMA = 1
RECORD, TENSORS = "memory.json", "memory.safetensors"


@dataclass
class Kept:
    """One edit of a memory.

    Args:
        status: "active" | "retired" (a newer edit of the same fact took its place) | "removed".
        retired_by: id of the edit that took its place; kept while that one is removed.
        image_key: what identifies the picture; pictures themselves are not saved.
    """

    edit: Edit
    status: str = "active"
    retired_by: str | None = None
    image_key: str | None = None
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def payload(self) -> Payload:
        assert self.edit.payload is not None
        return self.edit.payload

    @property
    def fact(self) -> Fact:
        request = self.edit.request
        return Fact(request.question, request.answer, self.image_key, tuple(request.rephrases))


class Memory:
    """Edits of one method, oldest first, and what they do to a request.

    A method's own memory gives `when` and `request_effects` or `prefill_effects`, and whatever it derives from its edits in
    `changed`.  What remains after any removals is a function of the active edits alone, in their order.

    Args:
        vlm: the base.
        editor: name of the method.
        settings: of the method, as they decide here; kept with the edits.
    """

    when: ClassVar[str] = "request"

    def __init__(self, vlm: VLM, editor: str, settings: Mapping[str, Any] | None = None):
        self.vlm, self.editor, self.settings = vlm, editor, dict(settings or {})
        self.kept: dict[str, Kept] = {}

    # --- what a method says ---------------------------------------------------------------------------------------

    def request_effects(self, images: Sequence[Any], questions: Sequence[str]) -> list[Effect | None]:
        """For `when == "request"`: what happens to each request, or None.

        Args:
            images: opened pictures, lists of them, or None.
        """
        raise NotImplementedError

    def reads(self) -> tuple[Read, ...]:
        """For `when == "prefill"`: what must be read of a prompt; all at one site."""
        return ()

    def points(self) -> tuple[str, ...]:
        """For `when == "prefill"`: where an edit may act, none below the site of `reads`."""
        return ()

    def prefill_effects(self, seen: Mapping[tuple[str, bool, str], Tensor], rows: int) -> list[Effect | None]:
        """For `when == "prefill"`: what happens to each of the rows of a batch, from what was read, by `Read.key`."""
        raise NotImplementedError

    def changed(self) -> None:
        """Called when active edits came or went."""

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the memory keeps beside its edits: JSON and tensors (thresholds, running statistics)."""
        return {}, {}

    def restore_state(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""

    def refuse_attach(self) -> str:
        """Why an ordinary Hugging Face call cannot be served (`EditedModel.attached`); empty where it can."""
        return (
            ""
            if self.when == "prefill"
            else "its edits put something into the prompt, which is encoded before the call"
        )

    # --- edits ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.active())

    def __contains__(self, id: object) -> bool:
        return id in self.kept

    def active(self) -> list[Kept]:
        """The edits that act, oldest first."""
        return [one for one in self.kept.values() if one.status == "active"]

    def get(self, id: str) -> Kept:
        """Raises: UnknownNameError."""
        if id not in self.kept:
            raise UnknownNameError("edit", id, self.kept)
        return self.kept[id]

    def holding(self, fact: Fact) -> Relation | None:
        """The relation "same" where an active edit gives this answer to this question already."""
        for one in self.active():
            if one.fact.asks_as(fact) and one.fact.answers_as(fact):
                text = f"Edit '{one.edit.id}' gives this answer to this question already: nothing changes."
                return Relation("same", one.edit.id, (), text, same=one.edit.id)
        return None

    def add(self, edit: Edit) -> Edit:
        """Adds an edit, which retires those that give another answer to the same question; returns it as it is held.

        Raises: InputError where the id is taken.
        """
        if edit.payload is None:
            raise InputError(f"edit '{edit.id}' is no edit of '{self.editor}'.")
        if edit.id in self.kept:
            raise InputError(f"id: there is an edit '{edit.id}' already; remove it first or give another id.")
        new = Kept(edit, image_key=image_key(edit))
        if (same := self.holding(new.fact)) is not None:
            return replace(edit, id=same.same or edit.id, payload=None, relation=same)
        retired = tuple(one.edit.id for one in self.active() if one.fact.asks_as(new.fact))
        self.kept[edit.id] = new
        for id in retired:
            self.kept[id].status, self.kept[id].retired_by = "retired", edit.id
        self.changed()
        return replace(edit, relation=conflict(retired, None)) if retired else edit

    def remove(self, id: str) -> None:
        """Takes an edit out; what it had retired acts again.  Raises: UnknownNameError; InputError where it is removed."""
        if self.get(id).status == "removed":
            raise InputError(f"edit '{id}' is removed already; `restore` brings it back, `purge` deletes it.")
        self.kept[id].status = "removed"
        self._settle()

    def restore(self, id: str) -> None:
        """Puts a removed or retired edit back.  Raises: UnknownNameError; InputError where it acts already."""
        one = self.get(id)
        if one.status == "active":
            raise InputError(f"edit '{id}' is active: there is nothing to restore.")
        if one.status == "retired":
            one.retired_by = None
        one.status = "active"
        self._settle()

    def purge(self, id: str) -> None:
        """Deletes an edit for good.  Raises: UnknownNameError."""
        by = self.get(id).retired_by
        for other in self.kept.values():
            if other.retired_by == id:
                other.retired_by = by
        del self.kept[id]
        self._settle()

    def _settle(self) -> None:
        for one in self.kept.values():
            if one.status != "removed":
                one.status = "retired" if self._stands(one) else "active"
        self.changed()

    def _stands(self, one: Kept) -> bool:
        """Whether what retired `one` is there: a removed successor passes the question on to its own successor."""
        by = one.retired_by
        while by is not None:
            successor = self.kept.get(by)
            if successor is None or successor.status != "removed":
                return successor is not None
            by = successor.retired_by
        return False

    # --- keeping --------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes everything into `folder`, whole or not at all."""
        from safetensors.torch import save as as_bytes

        tensors: dict[str, Tensor] = {}
        records = []
        for number, one in enumerate(self.kept.values()):
            names = {}
            for name, tensor in one.payload.tensors.items():
                tensors[f"edit/{number}/{name}"] = tensor.detach().cpu().clone().contiguous()
                names[name] = f"edit/{number}/{name}"
            records.append({**_record(one), "tensors": names})
        own, own_tensors = self.state()
        tensors |= {f"state/{name}": t.detach().cpu().clone().contiguous() for name, t in own_tensors.items()}
        data = as_bytes(tensors)
        record = {
            "schema": SCHEMA,
            "editor": self.editor,
            "settings": self.settings,
            "fingerprint": self.vlm.fingerprint,
            "model_name": self.vlm.name,
            "sha256": sha256_bytes(data),
            "state": own,
            "edits": records,
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / TENSORS, data)
        write_atomic(folder / RECORD, (json.dumps(record, ensure_ascii=False, indent=2) + "\n").encode())

    def load(self, folder: Path) -> None:
        """Takes in what `save` wrote.

        Raises: ModelMismatchError where it is for another model; CodebookError where files are missing, damaged or newer.
        """
        try:
            record = json.loads((folder / RECORD).read_bytes())
            if record["schema"] > SCHEMA:
                raise CodebookError(
                    f"'{folder}' has schema {record['schema']}, this VLEdit reads up to {SCHEMA}: upgrade it."
                )
            if record["fingerprint"] != self.vlm.fingerprint:
                raise ModelMismatchError(
                    f"'{folder}' was made for the model '{record['model_name']}' ({record['fingerprint']}), not for "
                    f"'{self.vlm.name}' ({self.vlm.fingerprint}): load that model, or make the edits again."
                )
            data = (folder / TENSORS).read_bytes()
            if sha256_bytes(data) != record["sha256"]:
                raise CodebookError(f"'{folder / TENSORS}' is damaged: its bytes are not those that were written.")
            tensors = tensors_of(data)
            self.kept = {one["id"]: _kept(one, tensors) for one in record["edits"]}
            prefix = "state/"
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            self.restore_state(record["state"], own)
        except VLEditError:
            raise
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CodebookError(f"'{folder}': the edits cannot be read ({error}). Restore them from a copy.") from error
        self.changed()


def saved_settings(folder: Path) -> dict[str, Any]:
    """The settings that a saved memory decides with.  Raises: CodebookError where the file is damaged."""
    try:
        return dict(json.loads((folder / RECORD).read_bytes())["settings"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CodebookError(f"'{folder}': the edits cannot be read ({error}). Restore them from a copy.") from error


def image_key(edit: Edit) -> str | None:
    """What identifies the picture of an edit, read from a folder or made here; None without one."""
    from ..vlm.pictures import picture_key

    image = edit.request.image
    return edit.image_key or (None if image is None else picture_key(image))  # type: ignore[arg-type]


def _record(one: Kept) -> dict[str, Any]:
    request = one.edit.request
    return {
        "id": one.edit.id,
        "question": request.question,
        "answer": request.answer,
        "rephrases": list(request.rephrases),
        "image_key": one.image_key,
        "status": one.status,
        "retired_by": one.retired_by,
        "report": asdict(one.edit.report),
        "editor": one.edit.editor,
        "meta": dict(one.payload.meta),
    }


def _kept(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Kept:
    request = EditRequest(None, record["question"], record["answer"], tuple(record["rephrases"]), record["id"])
    payload = Payload({name: tensors[full] for name, full in record["tensors"].items()}, record["meta"])
    report = EditReport(**record["report"])
    edit = Edit(record["id"], record["editor"], request, report, payload=payload, image_key=record["image_key"])
    return Kept(edit, record["status"], record["retired_by"], record["image_key"])
