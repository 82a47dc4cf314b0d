"""Trunks and base answers of prepared cases on disk, memory-mapped, and shared by editors, protocols and runs.

There is one safetensors file per (model, dtype, device kind, versions, layer, all questions of the case).  A file appears
under its name complete or not at all, and its content is checked against its SHA-256 when it is read. A damaged file is deleted
and the case is run again.  Several processes may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.cache import cache_root, sha256_json
from ..errors import InputError
from ..vlm.base import VLM, Encoded, Trunk
from ..vlm.encoded import LayerCall
from .case_trunks import BATCH, MAX_NEW_TOKENS
from .manifest import case_key
from .prepared import PreparedCase
from .tensor_tree import Packer, Unpacker, UnstorableError
from .trunk_rows import TrunkRows

FORMAT = 6
DEFAULT_GB = 8.0
STALE_SECONDS = 3600
_MASKS = ("prompt_mask", "visual_mask", "question_mask", "answer_mask", "has_image")
_BASE = ("base_answer", "base_new", "base_new_token", "recognised")


@dataclass
class CacheReport:
    """What a cache did. `refused`: cases that were not kept for want of room, or because they cannot be stored."""

    hits: int = 0
    misses: int = 0
    damaged: int = 0
    refused: int = 0
    evicted: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    def __str__(self) -> str:
        rest = {
            name: value for name, value in asdict(self).items() if value and name in ("damaged", "refused", "evicted")
        }
        words = [f"{self.hits} hits", f"{self.misses} misses", *(f"{value} {name}" for name, value in rest.items())]
        return f"{', '.join(words)}; {self.bytes_read / 1e9:.2f} GB read, {self.bytes_written / 1e9:.2f} GB written"


class TrunkCache:
    """A folder of prepared cases of one model.

    Where it is full, the files that were used least recently make room, but never those of this run: it goes over the same cases
    again and again, and would throw out each just before it is needed.

    Args:
        folder: default: in VLEdit's own cache.
        limit_gb: most that all files together may take, 10⁹ bytes.
    """

    def __init__(self, vlm: VLM, limit_gb: float = DEFAULT_GB, folder: Path | None = None):
        if not limit_gb >= 0:
            raise InputError(f"cache-gb: {limit_gb} given; it must not be negative.")
        self.vlm = vlm
        self.limit = int(limit_gb * 1e9)
        self.folder = cache_root() / "trunks" if folder is None else folder
        self.report = CacheReport()
        self._used: set[Path] = set()
        self._model = self._model_key()

    def _model_key(self) -> list[Any]:
        import transformers

        vlm = self.vlm
        processor = getattr(vlm.processor, "image_processor", None)
        read = getattr(processor, "to_dict", None)
        seen = read() if read is not None else repr(processor)
        prompts = [vlm.prompt("?", image).ids for image in (True, False)]
        versions = [torch.__version__, transformers.__version__]
        kind = [vlm.fingerprint, str(vlm.dtype), vlm.device.type]
        return [
            FORMAT,
            BATCH,
            vlm.batch_tokens,
            MAX_NEW_TOKENS,
            *kind,
            *versions,
            prompts,
            json.dumps(seen, sort_keys=True, default=str),
        ]

    def path(self, prepared: PreparedCase) -> Path:
        """Where the case is kept, whether it is there or not."""
        ends = [prepared.wanted, *prepared.key_sites]
        key = sha256_json([self._model, ends, prepared.tokens, case_key(prepared.case)])
        return self.folder / f"{self.vlm.fingerprint[:8]}-{prepared.wanted}-{key[:32]}.safetensors"

    def load(self, prepared: PreparedCase) -> bool:
        """Fills in what is kept of the case; False where nothing is."""
        from safetensors import SafetensorError, safe_open

        path = self.path(prepared)
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["case"])
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
                if _digest(tensors) != file.metadata()["sha256"]:
                    raise ValueError("damaged")
            _unpack(prepared, about, tensors)
            os.utime(path)
        except FileNotFoundError:
            self.report.misses += 1
            return False
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            path.unlink(missing_ok=True)
            self.report.damaged += 1
            self.report.misses += 1
            return False
        self._used.add(path)
        self.report.hits += 1
        self.report.bytes_read += sum(t.nbytes for t in tensors.values())
        return True

    def save(self, prepared: PreparedCase) -> bool:
        """Keeps the case; False where it does not fit, cannot be stored, or the disk refuses."""
        from safetensors.torch import save_file

        path = self.path(prepared)
        try:
            about, tensors = _pack(prepared)
            size = sum(tensor.nbytes for tensor in tensors.values())
            if not self._make_room(size):
                self.report.refused += 1
                return False
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".part")
            os.close(handle)
            try:
                save_file(tensors, name, {"case": json.dumps(about), "sha256": _digest(tensors)})
                os.replace(name, path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except (OSError, UnstorableError):
            self.report.refused += 1
            return False
        self._used.add(path)
        self.report.bytes_written += size
        return True

    def _make_room(self, size: int) -> bool:
        """Deletes what was used least recently until `size` bytes fit."""
        if size > self.limit:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in self.folder.glob(".*.part"):  # what processes that were killed left; others are being written
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink(missing_ok=True)
        files = []
        for path in self.folder.glob("*.safetensors"):
            try:
                found = path.stat()
            except FileNotFoundError:  # another process was quicker
                continue
            files.append((found.st_mtime, found.st_size, path))
        total = sum(length for _, length, _ in files)
        for _, length, path in sorted(files):
            if total + size <= self.limit:
                break
            if path not in self._used:
                path.unlink(missing_ok=True)
                self.report.evicted += 1
                total -= length
        return total + size <= self.limit


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _pack(prepared: PreparedCase) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(what JSON holds, tensors).  Raises: UnstorableError."""
    pack = Packer()
    kinds = {}
    for name, kind in (("targets", prepared.targets), ("sames", prepared.sames)):
        batches = []
        for trunk, rows, local in kind.batches(kind.rows()):
            encoded = trunk.encoded
            batches.append(
                {
                    "rows": rows,
                    "local": local,
                    "hidden": pack(trunk.hidden),
                    "calls": [[pack(call.inputs), pack(call.added)] for call in trunk.calls],
                    "inputs": pack(dict(encoded.model_inputs)),
                    "masks": pack({mask: getattr(encoded, mask) for mask in _MASKS}),
                }
            )
        kinds[name] = batches
    base = [{name: getattr(one, name) for name in _BASE} for one in prepared.asked]
    top = [[row, pack(tokens)] for row, tokens in prepared.base_top.items()]
    keys = [[*read, pack(found)] for read, found in prepared.noted_keys().items()]
    return {"kinds": kinds, "base": base, "top": top, "layer": prepared.layer, "keys": keys}, pack.tensors


def _unpack(prepared: PreparedCase, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    unpack = Unpacker(tensors, prepared.vlm.device)
    prepared.layer = about["layer"]
    prepared.take_keys({(site, prompt, tokens): unpack(found).cpu() for site, prompt, tokens, found in about["keys"]})
    kinds: dict[str, TrunkRows] = {"targets": TrunkRows(), "sames": TrunkRows()}
    for name, batches in about["kinds"].items():
        for batch in batches:
            encoded = Encoded(unpack(batch["inputs"]), **unpack(batch["masks"]))
            calls = [LayerCall(unpack(inputs), unpack(added)) for inputs, added in batch["calls"]]
            trunk = Trunk(prepared.layer, unpack(batch["hidden"]), calls, encoded)
            kinds[name].add_at(trunk, batch["rows"], batch["local"])
    prepared.targets, prepared.sames = kinds["targets"], kinds["sames"]
    prepared.base_top = {row: unpack(tokens).cpu() for row, tokens in about["top"]}
    for one, base in zip(prepared.asked, about["base"], strict=True):
        for name, value in base.items():
            setattr(one, name, value)
