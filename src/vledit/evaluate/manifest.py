"""What a run is: its variants, and the manifest that must be equal for a run to be continued in its results file."""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..data.cache import sha256_file, sha256_json
from ..data.case import EditCase
from ..errors import PictureError
from ..vlm.pictures import picture_key
from . import metrics
from .outcomes import SCHEMA, plain

if TYPE_CHECKING:
    from torch import nn

    from ..vlm.base import VLM


@dataclass(frozen=True)
class Variant:
    """An editor with settings, under the name it has in tables."""

    name: str
    editor: str
    settings: Mapping[str, Any]


def manifest(
    vlm: VLM,
    benchmark: str,
    cases: Sequence[EditCase],
    variants: Sequence[Variant],
    protocol: str = "single",
    **more: Any,
) -> dict[str, Any]:
    """What has to be the same for two runs to be comparable, and what is good to know about this one.

    Args:
        more: further settings that results depend on; None is left out.
    """
    return {
        "manifest": {
            "schema": SCHEMA,
            "metrics": metrics.VERSION,
            "model": vlm.name,
            "fingerprint": vlm.fingerprint,
            "weights": weights_hash(vlm.model),
            "dtype": str(vlm.dtype),
            "benchmark": benchmark,
            "cases": len(cases),
            "cases_hash": sha256_json([case_key(case) for case in cases]),
            "variants": [asdict(v) for v in variants],
            "protocol": protocol,
            **{name: value for name, value in more.items() if value is not None},
        },
        "environment": environment(vlm),
    }


def environment(vlm: VLM | None = None, **more: Any) -> dict[str, Any]:
    """Versions and machine: good to know, but no reason to refuse to go on."""
    import torch
    import transformers

    found = {
        "vledit": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": _version("numpy"),
        "system": platform.system(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "date": time.strftime("%Y-%m-%d"),
    }
    if vlm is not None:
        found["device"] = str(vlm.device)
    return {**found, **more}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def case_key(case: EditCase) -> str:
    """SHA-256 of everything that is asked in a case: questions, answers and what identifies the pictures, in order."""
    request = case.request
    asked = [request.id, _picture(request.image), request.question, request.answer, list(request.rephrases)]
    probes = [
        [family, cell, index, _picture(probe.image), probe.question, probe.answer]
        for family, cell, index, probe in case.probes()
    ]
    return sha256_json([asked, probes])


def _picture(image: object) -> str:
    """What identifies a picture, without decoding files; one that cannot be read is that case's failure, later."""
    try:
        return sha256_file(Path(image)) if isinstance(image, str | Path) else picture_key(image)
    except (OSError, PictureError):
        return f"unreadable: {image}"


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, dtypes and all bytes of the parameters and buffers: 0.5 to 2 GB a second."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda pair: pair[0]):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def differences(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the manifest's fields in which two runs differ, each with both values."""
    mine, other = plain(mine), plain(other)
    absent = object()
    found = []
    for name in sorted({*mine, *other}):
        first, second = mine.get(name, absent), other.get(name, absent)
        if first != second:
            shown = ["nothing" if value is absent else _short(value) for value in (first, second)]
            found.append(f"{name} (now {shown[0]}, there {shown[1]})")
    return found


def _short(value: Any) -> str:
    text = str(value)
    if isinstance(value, list) and all(isinstance(part, dict) and "name" in part for part in value):
        text = "; ".join(
            part["name"] + ("" if part["name"].startswith(part["editor"]) else f" {part['settings']}") for part in value
        )
    return text if len(text) <= 120 else text[:119] + "…"
