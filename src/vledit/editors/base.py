"""What an editing method consists of: a frozen configuration, `edit`, and the `Edit` it returns.  The base never changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from ..errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor

    from ..codebook import Entry, Relation, Transformation
    from ..data.case import EditRequest
    from ..vlm.base import VLM


@dataclass(frozen=True)
class EditorConfig:
    """Settings of a method; each field's metadata["help"] is what the command line shows."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> EditorConfig:
        """Build a configuration from names and values.  Raises: UnknownNameError for a setting that does not exist."""
        known = {f.name for f in fields(cls)}
        for name in settings:
            if name not in known:
                raise UnknownNameError("setting", name, known)
        return cls(**settings)


def setting(default: Any, help: str) -> Any:
    """A field of an `EditorConfig` with its documentation."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class EditReport:
    """The cost and outcome of making an edit.

    Args:
        seconds: wall time of the whole edit.
        steps: optimiser steps.
        loss: final loss per answer token, in nats.
        margin: smallest lead of an answer's token over its strongest rival, in logits; positive means that the greedy
            answer is the new one.
        nbytes: size of the stored edit in bytes.
        trained: whether every answer token (end included) became the argmax.
    """

    seconds: float
    steps: int
    loss: float
    margin: float
    nbytes: int
    trained: bool

    @classmethod
    def of_nothing(cls, seconds: float) -> EditReport:
        """The report of an edit that required no training and stores nothing."""
        return cls(seconds, 0, 0.0, 0.0, 0, True)


@dataclass(frozen=True, eq=False)
class Payload:
    """What an edit of a method with its own memory keeps.

    Args:
        tensors: name → tensor.
        meta: anything that JSON can hold.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


@dataclass(frozen=True)
class Edit:
    """One edit, as an object: no model changes until it is added to an `EditedModel`.

    Exactly one of `entry` (for the codebook), `weights` (point → change that is always on) and `payload` (for the method's
    own memory) is set. None is set if nothing has to be stored: the fact is there already (`relation.kind` "same"), or the base
    gives this answer and only an older entry has to be retired ("revert").

    Args:
        breaks: ids of older edits that no longer answer their own request correctly since this one was added.
        parent: for a weight edit that was trained on top of others: the newest of them. Its change includes theirs.
        image_key: for a weight edit read from a folder, which stores no picture: the key that identifies the picture.
    """

    id: str
    editor: str
    request: EditRequest
    report: EditReport
    entry: Entry | None = None
    weights: Mapping[str, Transformation] | None = None
    relation: Relation | None = None
    parent: str | None = None
    image_key: str | None = None
    breaks: tuple[str, ...] = ()
    payload: Payload | None = None

    def __post_init__(self) -> None:
        given = sum(one is not None for one in (self.entry, self.weights, self.payload))
        if given != self.keeps_something:
            raise InputError("Edit: exactly one of 'entry', 'weights' and 'payload' must be set.")

    @property
    def keeps_something(self) -> bool:
        """False if the fact is there already, or an older entry only has to be retired."""
        return self.relation is None or self.relation.kind not in ("same", "revert")


@runtime_checkable
class Editor(Protocol):
    """One editing method.

    The class determines where its edits are stored:

    - `gated = True` and no `memory`: codebook entries; `edit` is given the codebook.
    - `gated = False`: always-on changes of weights; `edit` also takes `start`, point → the change that earlier edits made there.
      With `adds_up = True` each edit is made on the base, is not given `start`, and is added to the others.
    - a method `memory(vlm)`: a `Memory` of its own; `edit` is given that memory.

    `gated` says whether its edits act only on the requests that they are for, or always.  A method that has to be trained before
    its first edit has `fit` (see `docs/architecture.md`).
    """

    name: ClassVar[str]
    gated: ClassVar[bool]
    Config: ClassVar[type[EditorConfig]]
    config: EditorConfig

    def edit(self, vlm: VLM, request: EditRequest, memory: Any = None) -> Edit:
        """Make the edit; no model and no memory is changed.

        Args:
            memory: the edits so far (a Codebook, or the method's Memory), for methods whose new edits depend on old ones.

        Raises:
            InputError: an invalid question, answer, picture or site.  EditFailedError: the model did not learn the answer.
        """
        ...
