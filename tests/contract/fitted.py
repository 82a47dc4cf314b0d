"""Editors that are fitted first, on tiny models: fitted to the one edit that the contract makes, in a moment, once a session."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.vlm.models import QUESTIONS, picture
from vledit.data.cache import sha256_bytes
from vledit.data.case import EditCase, EditRequest, Probe
from vledit.editors.training.fitting import Fitting, fitting_class
from vledit.vlm import VLM

OUTSIDE = {
    "text": (Probe(None, QUESTIONS[1]),),
    "random_image": (Probe(picture(7), QUESTIONS[1]),),
    "other_subject": (Probe(picture(9), QUESTIONS[2]),),
}
"""What is out of scope; among it the contract's unrelated request, as a fitting to one edit cannot generalise."""


@cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="vledit-contract-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def fitted(vlm: VLM, editor: str, request: EditRequest, settings: Mapping[str, Any]) -> str:
    """The folder of an editor's fitting to a model, on a request that is asked as it stands; made when it is asked for first."""
    asked = f"{request.question}|{request.answer}|{sorted(settings.items())}"
    folder = _root() / f"{editor}-{vlm.fingerprint}-{sha256_bytes(asked.encode())[:12]}"
    case = EditCase(request, {"text": (Probe(request.image, request.question),)}, OUTSIDE)
    method = fitting_class(editor)
    with torch.random.fork_rng(devices=[]):
        method.fit(Fitting(vlm, [case], folder, method.FitConfig(**settings)))
    return str(folder)
