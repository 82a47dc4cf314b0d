"""Directions that a site's inputs have in common, whatever is asked; a span transformation must not depend on them.

Activations share a few large directions.  A change ΔW = D X whose rows of X lie along them acts on every input. So X is made
of what remains of each input after these directions are removed (`methods.md`). The number of removed directions was
not tuned: there are no figures for other numbers.
They are measured on a fixed list of everyday questions without pictures and with plain-coloured ones; no data set is needed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..data.cache import cache_root, sha256_json, write_atomic
from ..vlm.base import VLM, Site
from ..vlm.surroundings import lasting

if TYPE_CHECKING:
    from PIL.Image import Image

QUESTIONS = (
    "What is this?",
    "What is shown in the picture?",
    "What colour is it?",
    "Where could this be found?",
    "Who made this?",
    "How many are there?",
    "What is it called?",
    "What is it used for?",
    "Which brand is it?",
    "Which country does it come from?",
    "What kind of thing is it?",
    "Is it alive?",
    "What is the capital of this country?",
    "What material is it made of?",
    "What does it taste like?",
    "Name the thing in the image.",
)
FORMAT = 1
COLOURS = ((0, 0, 0), (255, 255, 255), (200, 60, 50), (60, 120, 200), (90, 160, 80))


@lasting
def measure(vlm: VLM, site: Site, count: int) -> Tensor:
    """(count, in) float32, orthonormal rows: the mean input and the largest principal directions of the site's inputs.

    Kept on the model object, because every edit needs the same ones, and in the cache under the model's fingerprint, so that they
    are measured once for a model and not each time it is loaded.
    """
    site = vlm.resolve_site(site)
    kept = vlm.__dict__.setdefault("_common_directions", {})
    if (site, count) not in kept:
        path = _path(vlm, site, count)
        found = _read(path, (count, vlm.site_shape(site)[1]))
        if found is None:
            if sys.stderr.isatty():
                print("span: measuring what all questions have in common, once for a model …", file=sys.stderr)
            found = _measure(vlm, site, count)
            with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
                write_atomic(path, save({"directions": found.cpu()}))
        kept[site, count] = found.to(vlm.device)
    return kept[site, count]


def _path(vlm: VLM, site: Site, count: int) -> Path:
    """Where the directions of a model lie: named by all that they depend on."""
    prompt = vlm.prompt(QUESTIONS[0]).ids  # the template, and how many tokens a picture has
    runs = [str(vlm.dtype), vlm.device.type, torch.__version__]
    asked = [FORMAT, str(site), count, *runs, prompt, vlm.image_size, QUESTIONS, COLOURS]
    return cache_root() / "common_directions" / f"{vlm.fingerprint[:24]}-{sha256_json(asked)[:16]}.safetensors"


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """What was kept; None where nothing was, or what lies there is damaged."""
    try:
        found = load(path.read_bytes())["directions"]
    except (OSError, SafetensorError, KeyError):
        return None
    fits = found.shape[1:] == shape[1:] and len(found) <= shape[0] and found.dtype == torch.float32
    return found if fits and bool(found.isfinite().all()) else None


def _measure(vlm: VLM, site: Site, count: int) -> Tensor:
    from PIL import Image as Pictures

    pictures: list[Image | None] = [Pictures.new("RGB", vlm.image_size, colour) for colour in COLOURS]
    pictures.append(None)
    inputs = []
    for picture in pictures:
        encoded = vlm.encode([picture] * len(QUESTIONS), list(QUESTIONS))
        x = vlm.site_input(vlm.trunk(encoded, site.layer), site)
        inputs.append(x[encoded.prompt_mask & ~encoded.visual_mask].float())
        inputs.append(x[encoded.last_prompt_mask].float())
    rows = torch.cat(inputs)
    mean = rows.mean(0)
    _, _, directions = torch.linalg.svd(rows - mean, full_matrices=False)
    basis = torch.cat([mean[None], directions[: max(count - 1, 0)]])
    return torch.linalg.qr(basis.T).Q.T.contiguous()


def reader(directions: Tensor) -> Callable[[Tensor], Tensor]:
    """The function from inputs x (n, in) to rows X (n, in): `directions` taken out, scaled so that each reads 1 on its own x."""

    def rows(x: Tensor) -> Tensor:
        left = x - (x @ directions.T) @ directions
        return left / (left * x).sum(1, keepdim=True).clamp(min=1e-6)

    return rows
