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
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from ..data.cache import cache_root, sha256_json, write_atomic
from ..errors import VLEditError
from ..tensor_bytes import tensors_of
from ..vlm.base import VLM, Site
from ..vlm.surroundings import lasting
from .training import artefact

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
COUNT = 40
"""Of how many directions the package holds those of `pocket`: what editors leave out unless told otherwise."""
NAME = "common_directions"
COLOURS = ((0, 0, 0), (255, 255, 255), (200, 60, 50), (60, 120, 200), (90, 160, 80))


@lasting
def measure(vlm: VLM, site: Site, count: int) -> Tensor:
    """(count, in) float32, orthonormal rows: the mean input and the largest principal directions of the site's inputs.

    Kept on the model object, because every edit needs the same ones. Those of `pocket` come with the package; of other models
    they are kept in the cache under the model's fingerprint, so that they are measured once and not each time it is loaded.
    """
    site = vlm.resolve_site(site)
    kept = vlm.__dict__.setdefault("_common_directions", {})
    if (site, count) not in kept:
        path = _path(vlm, site, count)
        found = shipped(vlm, site, count)
        if found is None:
            found = _read(path, (count, vlm.site_shape(site)[1]))
        if found is None:
            found = _measure(vlm, site, count, _tell if sys.stderr.isatty() else None)
            with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
                write_atomic(path, save({"directions": found.cpu()}))
        kept[site, count] = found.to(vlm.device)
    return kept[site, count]


def shipped(vlm: VLM, site: Site, count: int) -> Tensor | None:
    """What comes with the package for this model and these settings; None where nothing does."""
    try:
        found = artefact.find(NAME, vlm)
    except VLEditError:
        return None
    return found.tensors["directions"] if dict(found.settings) == _asked(vlm, site, count) else None


def write_shipped(vlm: VLM) -> Path:
    """Measures the directions of the default site and writes them where `shipped` looks for them."""
    site = vlm.resolve_site(vlm.default_site)
    folder = artefact.SHIPPED / f"{NAME}-{vlm.fingerprint[:16]}"
    directions = _measure(vlm, site, COUNT, _tell)
    artefact.write(
        folder, NAME, vlm, _asked(vlm, site, COUNT), {"directions": directions}, {"torch": torch.__version__}
    )
    return folder


def _asked(vlm: VLM, site: Site, count: int) -> dict[str, Any]:
    """All that the directions of a model depend on, up to rounding."""
    questions = sha256_json(
        [vlm.prompt(QUESTIONS[0]).ids, vlm.image_size, QUESTIONS, COLOURS]
    )  # and the prompt's template
    return {"version": FORMAT, "site": str(site), "count": count, "dtype": str(vlm.dtype), "questions": questions}


def _tell(done: int, of: int) -> None:
    text = f"\rspan: measuring what all questions have in common, once for a model: {done} of {of}"
    print(text, end="\n" if done == of else "", file=sys.stderr, flush=True)


def _path(vlm: VLM, site: Site, count: int) -> Path:
    """Where the directions of a model lie: named by all that they depend on."""
    prompt = vlm.prompt(QUESTIONS[0]).ids  # the template, and how many tokens a picture has
    runs = [str(vlm.dtype), vlm.device.type, torch.__version__]
    asked = [FORMAT, str(site), count, *runs, prompt, vlm.image_size, QUESTIONS, COLOURS]
    return cache_root() / "common_directions" / f"{vlm.fingerprint[:24]}-{sha256_json(asked)[:16]}.safetensors"


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """What was kept; None where nothing was, or what lies there is damaged."""
    try:
        found = tensors_of(path.read_bytes())["directions"]
    except (OSError, SafetensorError, KeyError):
        return None
    fits = found.shape[1:] == shape[1:] and len(found) <= shape[0] and found.dtype == torch.float32
    return found if fits and bool(found.isfinite().all()) else None


def _measure(vlm: VLM, site: Site, count: int, progress: Callable[[int, int], None] | None = None) -> Tensor:
    from PIL import Image as Pictures

    pictures: list[Image | None] = [Pictures.new("RGB", vlm.image_size, colour) for colour in COLOURS]
    pictures.append(None)
    inputs = []
    for done, picture in enumerate(pictures):
        if progress is not None:
            progress(done, len(pictures))
        encoded = vlm.encode([picture] * len(QUESTIONS), list(QUESTIONS))
        x = vlm.site_input(vlm.trunk(encoded, site.layer), site)
        inputs.append(x[encoded.prompt_mask & ~encoded.visual_mask].float())
        inputs.append(x[encoded.last_prompt_mask].float())
    if progress is not None:
        progress(len(pictures), len(pictures))
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


def main() -> None:
    """`python -m vledit.editors.common_directions`: measures what the package holds for `pocket` again."""
    from ..loading import load as load_model

    print(write_shipped(load_model("pocket").vlm))


if __name__ == "__main__":
    main()
