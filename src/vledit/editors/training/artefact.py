"""The result of a training: a folder with `manifest.json` and `weights.safetensors`, tied to its model; no pickle, no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.cache import cache_root, sha256_bytes, write_atomic
from ...errors import CodebookError, MissingDataError, ModelMismatchError, VLEditError
from ...tensor_bytes import tensors_of

if TYPE_CHECKING:
    from torch import Tensor

    from ...vlm.base import VLM

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
SHIPPED = Path(__file__).parent.parent / "fitted"
"""Small artefacts for `pocket` that come with the package: one folder per editor and model."""


@dataclass(frozen=True)
class Artefact:
    """A fitted part.

    Args:
        editor: the method that fitted it.
        settings: what it was fitted with.
        about: everything else in its manifest: data, versions, steps, last losses.
        sha256: of the weights file: what an edit made with it names.
    """

    folder: Path
    editor: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    sha256: str
    about: Mapping[str, Any] = field(default_factory=dict)


def default_folder(editor: str, vlm: VLM) -> Path:
    """Where `vledit fit` puts an editor's fitted part, and where the editor looks for it."""
    return cache_root() / "fitted" / f"{editor}-{vlm.fingerprint[:16]}"


def write(
    folder: Path,
    editor: str,
    vlm: VLM,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
) -> None:
    """Writes the weights, then the manifest that names their hash: a folder without a fitting manifest is not used."""
    from safetensors.torch import save

    data = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    manifest = {
        "format": FORMAT,
        "editor": editor,
        "model": {"name": vlm.name, "fingerprint": vlm.fingerprint},
        "settings": dict(settings),
        "sha256": sha256_bytes(data),
        **about,
    }
    write_atomic(folder / WEIGHTS, data)
    write_atomic(folder / MANIFEST, (json.dumps(manifest, ensure_ascii=False, indent=1) + "\n").encode())


def find(editor: str, vlm: VLM, folder: str | Path = "") -> Artefact:
    """The fitted part of an editor for this model: in the folder that is given, else where `vledit fit` puts it, else the one
    that comes with the package.

    Raises:
        MissingDataError: there is none; the message says the command that makes it.
        ModelMismatchError: the given folder is for another model.
        CodebookError: damaged, of another editor, or written by a newer version.
    """
    if folder:
        return read(Path(folder).expanduser(), editor, vlm)
    usual = default_folder(editor, vlm)
    for place in (usual, SHIPPED / usual.name):
        if (place / MANIFEST).exists():
            return read(place, editor, vlm)
    raise MissingDataError(
        f"editor '{editor}' has to be fitted to '{vlm.name}' first: run `vledit fit --editor {editor} --model {vlm.name}`, or "
        "give the folder of a fitting as the setting 'fitted'."
    )


def read(folder: Path, editor: str, vlm: VLM) -> Artefact:
    """The fitted part in a folder, its tensors on the model's device.  Raises: see `find`."""
    from safetensors import SafetensorError

    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] > FORMAT:
            raise CodebookError(f"'{path}' has format {manifest['format']}, this VLEdit reads up to {FORMAT}: upgrade.")
        if manifest["editor"] != editor:
            raise CodebookError(f"'{folder}' was fitted for the editor '{manifest['editor']}', not for '{editor}'.")
        made_for = manifest["model"]
        if made_for["fingerprint"] != vlm.fingerprint:
            raise ModelMismatchError(
                f"'{folder}' was fitted to the model '{made_for['name']}' ({made_for['fingerprint']}), not to '{vlm.name}' "
                f"({vlm.fingerprint}): load that model, or run `vledit fit --editor {editor}` for this one."
            )
        data = (folder / WEIGHTS).read_bytes()
        if sha256_bytes(data) != manifest["sha256"]:
            raise CodebookError(f"'{folder / WEIGHTS}' is damaged: its bytes are not those that were written.")
        tensors = {name: _full(tensor).to(vlm.device) for name, tensor in tensors_of(data).items()}
        return Artefact(folder, editor, manifest["settings"], tensors, manifest["sha256"], manifest)
    except VLEditError:
        raise
    except FileNotFoundError as error:
        raise MissingDataError(
            f"'{folder}' holds no finished fitting ({Path(error.filename).name} is missing): run "
            f"`vledit fit --editor {editor} --out {folder}`, which also continues an interrupted one."
        ) from error
    except (OSError, KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise CodebookError(f"'{folder}': the fitted part cannot be read ({error}). Fit it again.") from error


def _full(tensor: Tensor) -> Tensor:
    """float32 where it was kept in float16."""
    import torch

    return tensor.float() if tensor.dtype == torch.float16 else tensor
