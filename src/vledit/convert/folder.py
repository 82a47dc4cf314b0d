"""Writes a converted model as a Hugging Face folder: weights in shards, an index, and a manifest with every hash.

The folder is written beside its place and moved there when it is whole.  While it is being written it holds the file
`MARK`, by which a folder whose conversion was cut short is known for what it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..data.cache import sha256_file
from ..errors import MissingDataError
from .plan import Plan

MARK = "CONVERSION_NOT_FINISHED"
MANIFEST = "conversion.json"
SHARD_BYTES = 2_000_000_000
"""Largest shard; also about the memory that a conversion takes."""

Progress = Callable[[str, int, int], None]
"""Told (what is being done, bytes done, bytes in all)."""


def split(names: Iterable[str], nbytes: Callable[[str], int], limit: int = SHARD_BYTES) -> list[list[str]]:
    """The names in shards of at most `limit` bytes each (a larger tensor has one of its own), in their order."""
    shards: list[list[str]] = []
    room = 0
    for name in names:
        size = nbytes(name)
        if not shards or size > room:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards


def write_weights(
    folder: Path, plan: Plan, dtype: Any = None, limit: int = SHARD_BYTES, progress: Progress | None = None
) -> list[str]:
    """Writes all tensors of a plan, one shard in memory at a time; returns the names of the shards.

    Args:
        dtype: torch dtype to write floating point tensors in; None: that in which each was published.
    """
    from safetensors.torch import save_file

    def kind(name: str) -> Any:
        published = plan.dtype(name)
        return dtype if dtype is not None and published.is_floating_point else published

    def nbytes(name: str) -> int:
        count = 1
        for size in plan.sizes[name]:
            count *= size
        return count * kind(name).itemsize

    shards = split(plan.sizes, nbytes, limit)
    total, done = sum(map(nbytes, plan.sizes)), 0
    files, where = [], {}
    for number, names in enumerate(shards, 1):
        single = len(shards) == 1
        file = "model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for name in names:
            tensors[name] = plan.read(name).to(kind(name)).contiguous().clone()
            where[name] = file
            done += nbytes(name)
            if progress is not None:
                progress(f"writing {file}", done, total)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        files.append(file)
    if len(files) > 1:
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    return files


def hashed(paths: Iterable[Path], progress: Progress | None = None) -> list[dict[str, Any]]:
    """Name, bytes and SHA-256 of files, as the manifest keeps them."""
    paths = list(paths)
    total, done, found = sum(path.stat().st_size for path in paths), 0, []
    for path in paths:
        size = path.stat().st_size
        if progress is not None:
            progress(f"hashing {path.name}", done, total)
        found.append({"name": path.name, "bytes": size, "sha256": sha256_file(path)})
        done += size
    return found


def tensor_account(plan: Plan) -> dict[str, Any]:
    """For the manifest: what every new tensor was made of, and what was left out and why."""
    tensors = {
        name: {"from": [str(part) for part in plan.parts[name]], "how": plan.how(name), "size": list(size)}
        for name, size in plan.sizes.items()
    }
    dropped: dict[str, dict[str, list[str]]] = {}
    for one in plan.dropped:
        dropped.setdefault(one.source, {}).setdefault(one.why, []).append(one.name)
    return {"tensors": tensors, "left_out": dropped}


def write_json(path: Path, value: Any) -> None:
    """UTF-8 JSON for people to read; equal values give equal bytes."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def require_whole(folder: Path) -> None:
    """Refuses the folder of a conversion that was cut short or has since lost a file; others pass.  Reads no weights.

    Raises:
        MissingDataError: naming what is missing and the command that makes it anew.
    """
    if (folder / MARK).exists():
        raise MissingDataError(
            f"model: '{folder}' is a conversion that was cut short. Run `vledit convert` again and delete this folder."
        )
    if not (folder / MANIFEST).is_file():
        return
    for file in _manifest(folder)["shards"]:
        path = folder / file["name"]
        size = path.stat().st_size if path.is_file() else None
        if size != file["bytes"]:
            state = "is missing" if size is None else f"has {size} bytes instead of {file['bytes']}"
            raise MissingDataError(f"model: in '{folder}' the file {file['name']} {state}. Run `vledit convert` again.")


def verify(folder: Path, progress: Progress | None = None) -> int:
    """Compares every file of a converted folder with the hashes in its manifest; returns their number.

    Raises:
        MissingDataError: there is no manifest, or a file is missing or differs.
    """
    if not (folder / MANIFEST).is_file():
        raise MissingDataError(f"'{folder}' has no {MANIFEST}: it is not a folder that `vledit convert` made.")
    require_whole(folder)
    manifest = _manifest(folder)
    listed = [*manifest["shards"], *manifest["files"]]
    if gone := [file["name"] for file in listed if not (folder / file["name"]).is_file()]:
        raise MissingDataError(f"'{folder}' lacks {', '.join(gone)}. Convert again.")
    found = hashed((folder / file["name"] for file in listed), progress)
    if changed := [a["name"] for a, b in zip(listed, found, strict=True) if a["sha256"] != b["sha256"]]:
        raise MissingDataError(
            f"in '{folder}' {', '.join(changed)} differs from its hash in {MANIFEST}. Convert again."
        )
    return len(listed)


def _manifest(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The parts of the manifest that say which files there are."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        wanted = ("name", "bytes", "sha256")
        return {part: [{key: file[key] for key in wanted} for file in manifest[part]] for part in ("shards", "files")}
    except (ValueError, KeyError, TypeError) as error:
        raise MissingDataError(
            f"model: {MANIFEST} in '{folder}' is damaged ({error}). Run `vledit convert` again."
        ) from error
