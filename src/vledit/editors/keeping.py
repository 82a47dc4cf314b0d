"""Edits written to a folder and read again, for VLEdit (`save_pretrained`) and for other tools (`merge`, `export_…`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ..codebook import Codebook
from ..errors import CodebookError
from ..paths import local, output_folder
from ..vlm.base import VLM
from ..vlm.surroundings import on_cpu_unless_named
from . import export
from . import weights as always_on
from .base import Edit
from .memory import RECORD, Memory, saved_settings
from .registry import editor as make_editor
from .registry import editor_class

CODEBOOK_FILE = "codebook.vledit"
MEMORIES = "memories"


class Keeping:
    """A model's edits, which are written to a folder and read again; see `EditedModel`."""

    def __init__(
        self,
        vlm: VLM,
        codebook: Codebook | None = None,
        weights: Mapping[str, Edit] | None = None,
        memories: Mapping[str, Memory] | None = None,
    ):
        self.vlm = vlm
        self.memories: dict[str, Memory] = dict(memories or {})
        self.codebook = codebook if codebook is not None else new_codebook(vlm)
        self.weights: dict[str, Edit] = dict(weights or {})
        self._always = always_on.changes(self.weights)

    @on_cpu_unless_named
    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the edits (not the base) into `folder`, for `from_pretrained`; `export_peft` writes for other tools."""
        folder = output_folder(folder, "save_pretrained")
        with self.vlm.lock:
            self.codebook.save(folder / CODEBOOK_FILE, overwrite=True)
            always_on.save(folder, self.weights, self.vlm.fingerprint, self.vlm.name)
            for name in {*self.memories, *_saved(folder)}:
                if name in self.memories:
                    self.memories[name].save(folder / MEMORIES / name)
                else:
                    (folder / MEMORIES / name / RECORD).unlink()

    @classmethod
    def from_pretrained(cls, vlm: VLM, folder: str | Path, *, readonly: bool = False) -> Self:
        """The edits in `folder`, on the base they were made for.

        The codebook stays the folder's file: what is edited from here on is in it at once.  Always-on edits are written
        by `save_pretrained` alone.

        Args:
            readonly: open the codebook for reading only.
        Raises: ModelMismatchError on another base; CodebookError where files are missing or damaged.
        """
        folder = local(folder)
        weights = always_on.load(folder, vlm.fingerprint, vlm.name)
        book = Codebook.open(folder / CODEBOOK_FILE, vlm.fingerprint, vlm.name, readonly=readonly)
        memories = {}
        for name in _saved(folder):
            memories[name] = _empty_memory(vlm, name, folder)
            memories[name].load(folder / MEMORIES / name)
        return cls(vlm, book, weights, memories)

    @property
    def always(self) -> Mapping[str, Any]:
        """Point → what the always-on edits do there together."""
        return self._always

    @on_cpu_unless_named
    def merge(self) -> Any:
        """A copy of the Hugging Face model with the always-on edits added to its weights.

        Raises: InputError where there are codebook entries, which act on some requests only, or where a site's weights
            are quantised: they cannot be merged.
        """
        return export.merged(self)

    @on_cpu_unless_named
    def export_merged(self, folder: str | Path) -> export.Exported:
        """Writes what `merge` gives, with the processor, as an ordinary Hugging Face folder.

        Raises: InputError as `merge`, for a folder that cannot be written, and for a base that holds a PEFT adapter.
        """
        return export.merged_folder(self, folder)

    @on_cpu_unless_named
    def export_peft(self, folder: str | Path, entry: str | None = None) -> export.Exported:
        """Writes the always-on edits as a LoRA adapter, which `peft.PeftModel.from_pretrained(base, folder)` loads.

        Args:
            entry: id of a codebook entry; its change is written in their place, and then acts on every request.

        Raises: InputError where an edit is not linear, not of low rank or not at a linear, acts on some requests only, or the
            base holds an adapter already; MissingDataError without `peft` (`pip install 'vledit[peft]'`).
        """
        return export.peft_adapter(self, folder, entry)


def new_codebook(vlm: VLM) -> Codebook:
    """An empty codebook for this model."""
    return Codebook(fingerprint=vlm.fingerprint, model_name=vlm.name)


def _saved(folder: Path) -> list[str]:
    """Names of the methods whose memories are in a folder."""
    return sorted(path.parent.name for path in (folder / MEMORIES).glob(f"*/{RECORD}"))


def _empty_memory(vlm: VLM, name: str, folder: Path) -> Memory:
    if not hasattr(editor_class(name), "memory"):
        raise CodebookError(f"'{folder / MEMORIES / name}': the editor '{name}' has no memory of its own.")
    return make_editor(name, **saved_settings(folder / MEMORIES / name)).memory(vlm)
