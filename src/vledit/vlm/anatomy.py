"""Where the parts of a language model are: decoder layers, final norm, vocabulary projection."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import Tensor, nn

from ..errors import InputError, VLEditError

_FINISHING = ("final_layer_norm", "norm", "embedding_norm", "project_out")
"""`embedding_norm`: LFM2's last norm; `project_out`: the OPT of 350M only."""


@dataclass(frozen=True)
class Anatomy:
    """The language model inside a vision-language model.

    Attributes:
        causal: the module that `generate` is called on and that owns the vocabulary projection.
        decoder: the module whose `.layers` are the decoder layers.
        layers: the decoder layers.
        lm_head: the vocabulary projection.
    """

    causal: nn.Module
    decoder: nn.Module
    layers: nn.ModuleList
    lm_head: nn.Linear

    @property
    def finishing(self) -> list[nn.Module]:
        """What stands between the last decoder layer and the vocabulary projection, in this order."""
        named = (getattr(self.decoder, name, None) for name in _FINISHING)
        return [module for module in named if module is not None]

    def finish(self, hidden: Tensor) -> Tensor:
        """The last decoder layer's output to the vocabulary projection's input: (..., H) → (..., H')."""
        for module in self.finishing:
            hidden = module(hidden)
        return hidden


def dissect(model: Any) -> Anatomy:
    """Finds the parts, by one rule for all families (`d = get_decoder()`, then `.decoder` or `.model` until `.layers`).

    Raises:
        VLEditError: there are no decoder layers.
    """
    decoder = model.get_decoder()
    while not hasattr(decoder, "layers"):
        decoder = getattr(decoder, "decoder", None) or getattr(decoder, "model", None)
        if decoder is None:
            raise VLEditError(f"no decoder layers found in {type(model).__name__}")
    causal = getattr(model, "language_model", None)
    if (
        causal is None
        or _reads_pictures(model)
        or not hasattr(causal, "generate")
        or causal.get_output_embeddings() is None
    ):
        causal = model
    return Anatomy(causal, decoder, decoder.layers, causal.get_output_embeddings())


def _reads_pictures(model: Any) -> bool:
    """Whether a model that holds a whole language model takes pictures, or none, itself (Llama 4; BLIP-2 wants one)."""
    given = signature(type(model).forward).parameters
    taken = "mm_encoder_outputs" in given and "pixel_values" in given and given["pixel_values"].default is None
    return taken and model.get_output_embeddings() is not None


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path; numbers are indices, negative ones count from the end.

    Raises:
        InputError: the model has no such module.
    """
    found: Any = model
    for part in path.split("."):
        try:
            found = found[int(part)] if part.lstrip("-").isdigit() else getattr(found, part)
        except (AttributeError, IndexError, TypeError):
            raise InputError(f"{type(model).__name__} has no module '{path}' ('{part}' is not there).") from None
    return found
