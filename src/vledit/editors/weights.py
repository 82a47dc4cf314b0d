"""Always-on edits: how they add up, and how they are stored in a folder.

`export` writes them for other tools.  Versions up to 0.1 wrote folders with PEFT's file names, which PEFT cannot load; these
folders can still be read, and are replaced when they are written again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..codebook.entry import KINDS, FullTransformation, SpanTransformation, Transformation
from ..data.cache import sha256_bytes, write_atomic
from ..data.case import EditRequest
from ..errors import CodebookError, InputError, ModelMismatchError, VLEditError
from ..tensor_bytes import tensors_of
from .base import Edit, EditReport
from .fitting import as_full, combined

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "weight_edits.json"
WEIGHTS_FILE = "weight_edits.safetensors"
FORMER = ("adapter_config.json", "adapter_model.safetensors")
"""What they were called before, with `"peft_type": "VLEDIT"` in the first."""
SCHEMA = 1


def changes(edits: Mapping[str, Edit]) -> dict[str, Transformation]:
    """Site → what all edits (oldest first) do there together."""
    none: dict[str, Transformation] = {}
    return reduce(extended, edits.values(), none)


def extended(before: Mapping[str, Transformation], edit: Edit) -> dict[str, Transformation]:
    """Site → what the edits so far and a newer one do there together: the bits that `changes` of them all gives."""
    found = dict(before)
    for site, change in (edit.weights or {}).items():
        # an edit that was trained on top of others holds what they do at its sites
        found[site] = change if edit.parent or site not in found else _both(found[site], change)
    return found


def _both(first: Transformation, second: Transformation) -> Transformation:
    """The sum of two changes, as one matrix where that has fewer numbers than their vectors together."""
    if isinstance(first, SpanTransformation) and isinstance(second, SpanTransformation):
        rank, out, inputs = len(first.inputs) + len(second.inputs), len(first.directions), first.inputs.shape[1]
        if rank * (out + inputs) > out * inputs:
            return FullTransformation(as_full(first).weight_delta + as_full(second).weight_delta)
    return combined(first, second)


def check_new(edits: Mapping[str, Edit], edit: Edit) -> None:
    """Raises: InputError where the id is taken, or the edit was trained on top of another than the newest one."""
    if edit.id in edits:
        raise InputError(f"id: there is an edit '{edit.id}' already; remove it first or give another id.")
    newest = next(reversed(list(edits)), None)
    if edit.parent is not None and edit.parent != newest:
        here = "there is none here" if newest is None else f"the newest here is '{newest}'"
        raise InputError(
            f"edit '{edit.id}' was trained on top of '{edit.parent}', but {here}: make it again on this model."
        )


def check_removal(edits: Mapping[str, Edit], id: str) -> None:
    """Raises: InputError where a later edit was trained on top of the edit `id`."""
    order = list(edits)
    for later in reversed(order[order.index(id) + 1 :]):
        if edits[later].parent is not None:
            raise InputError(f"id: later weight edits were trained on top of '{id}'; remove '{later}' first.")


def save(folder: Path, edits: Mapping[str, Edit], fingerprint: str, model_name: str) -> None:
    """Writes the edits, oldest first; without any, files of earlier ones are deleted.

    Pictures are not kept, only what identifies them.
    """
    for name in FORMER if _is_former(folder) else ():
        (folder / name).unlink(missing_ok=True)
    if not edits:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            (folder / name).unlink(missing_ok=True)
        return
    from safetensors.torch import save as as_bytes

    tensors: dict[str, Tensor] = {}
    records = []
    for number, edit in enumerate(edits.values()):
        kinds = {}
        for site, change in (edit.weights or {}).items():
            kinds[site] = change.kind
            for name, tensor in change.tensors().items():
                tensors[f"{number}/{site}/{name}"] = tensor.detach().cpu().clone().contiguous()
        records.append({**_record(edit), "weights": kinds})
    data = as_bytes(tensors)
    config = {
        "schema": SCHEMA,
        "fingerprint": fingerprint,
        "model_name": model_name,
        "sha256": sha256_bytes(data),
        "edits": records,
    }
    write_atomic(folder / WEIGHTS_FILE, data)
    write_atomic(folder / CONFIG_FILE, (json.dumps(config, ensure_ascii=False, indent=2) + "\n").encode())


def load(folder: Path, fingerprint: str, model_name: str) -> dict[str, Edit]:
    """The edits that `save` wrote, by id, oldest first; none where there are none.

    Raises: ModelMismatchError where they are for another model; CodebookError where the files are damaged or newer.
    """
    path, tensors_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if not path.exists():
        if not _is_former(folder):
            return {}
        path, tensors_path = (folder / name for name in FORMER)
    try:
        config = json.loads(path.read_bytes())
        schema, made_for, named, digest, records = (
            config[name] for name in ("schema", "fingerprint", "model_name", "sha256", "edits")
        )
        if schema > SCHEMA:
            raise CodebookError(
                f"'{path}' has schema {schema}, this VLEdit reads up to {SCHEMA}: upgrade to the newer VLEdit."
            )
        if made_for != fingerprint:
            raise ModelMismatchError(
                f"'{path}' was made for the model '{named}' ({made_for}), not for '{model_name}' ({fingerprint}): "
                "load that model, or make the edits again."
            )
        data = tensors_path.read_bytes()
        if sha256_bytes(data) != digest:
            raise CodebookError(f"'{tensors_path}' is damaged: its bytes are not those that were written.")
        tensors = tensors_of(data)
        return {record["id"]: _edit(number, record, tensors) for number, record in enumerate(records)}
    except VLEditError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CodebookError(
            f"'{folder}': the weight edits cannot be read ({error}). Restore them from a copy."
        ) from error


def _is_former(folder: Path) -> bool:
    """Whether a folder holds weight edits under the names that they had before, and no adapter of PEFT's."""
    try:
        found = json.loads((folder / FORMER[0]).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("peft_type") == "VLEDIT"


def _record(edit: Edit) -> dict[str, Any]:
    from ..vlm.pictures import picture_key

    request = edit.request
    return {
        "id": edit.id,
        "editor": edit.editor,
        "question": request.question,
        "answer": request.answer,
        "rephrases": list(request.rephrases),
        "image_key": edit.image_key or (None if request.image is None else picture_key(request.image)),  # type: ignore[arg-type]
        "report": asdict(edit.report),
        "parent": edit.parent,
    }


def _edit(number: int, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Edit:
    made: dict[str, Transformation] = {}
    for site, kind in record["weights"].items():
        prefix = f"{number}/{site}/"
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        made[site] = KINDS[kind].from_tensors(own)
    request = EditRequest(None, record["question"], record["answer"], tuple(record["rephrases"]), record["id"])
    return Edit(
        record["id"],
        record["editor"],
        request,
        EditReport(**record["report"]),
        weights=made,
        parent=record["parent"],
        image_key=record["image_key"],
    )
