"""Bases in 8 and 4 bits (bitsandbytes), with the edited site and the vocabulary projection left as they are."""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from .errors import InputError, MissingDataError, UnknownNameError

if TYPE_CHECKING:
    import torch

    from .vlm.families import Family

QUANTIZATIONS = ("8bit", "4bit")
PACKAGE = "bitsandbytes"
LEAST = (0, 46, 1)
"""The oldest bitsandbytes that computes on a CPU as well."""


def check(quantization: str | None) -> None:
    """Refuses what cannot be done before anything is read.

    Raises:
        UnknownNameError: neither "8bit" nor "4bit".
        MissingDataError: bitsandbytes is not installed, or too old.
    """
    if quantization is None:
        return
    if quantization not in QUANTIZATIONS:
        raise UnknownNameError("quantization", str(quantization), QUANTIZATIONS)
    try:
        installed = version(PACKAGE)
    except PackageNotFoundError:
        installed = ""
    numbers = tuple(int(part) for part in installed.split(".")[:3] if part.isdigit())
    if numbers < LEAST:
        state = f"version {installed} is too old" if installed else "is not installed"
        raise MissingDataError(
            f"quantization '{quantization}': {PACKAGE} {state}. Run: pip install 'vledit[quantization]' "
            f"(or: pip install '{PACKAGE}>={'.'.join(map(str, LEAST))}')."
        )


def settings(quantization: str, kept: list[str], compute: torch.dtype) -> Any:
    """transformers' `BitsAndBytesConfig`.

    Args:
        kept: paths of the linear layers that stay as they are.
        compute: dtype that 4-bit layers are multiplied in.
    """
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_once)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute, llm_int8_skip_modules=kept
    )


_said: set[str] = set()


def _once(record: logging.LogRecord) -> bool:
    """Lets a message through the first time: 8-bit layers tell at every single use that they compute in float16."""
    text = record.getMessage()
    new = text not in _said
    _said.add(text)
    return new


def kept_modules(family: Family, config: Any) -> list[str]:
    """Paths, below the Hugging Face model, of what is not quantised: the vocabulary projection, and the linear of the family's
    default site where there is one, so that its weight can be added to (`merge`)."""
    from .vlm.anatomy import dissect
    from .vlm.places import place, roles
    from .vlm.site import BLOCK

    model = skeleton(family, config)
    anatomy = dissect(model)
    site = family.default_site.resolve(len(anatomy.layers))
    layer, wanted = anatomy.layers[site.layer], {id(anatomy.lm_head)}
    if site.role in roles(layer) and site.role != BLOCK:
        wanted.add(id(place(layer, site.role).exit))
    return [path for path, module in model.named_modules() if id(module) in wanted]


def keep_differentiable(model: Any) -> None:
    """Switches off that 4-bit layers repack themselves when they are first used (bitsandbytes from 0.49, on processors
    with AVX512-BF16): the repacked ones have no gradient, so that training below them silently goes wrong, their weights
    are no longer those that were loaded, and sizes that are no multiples of 32 and 64 fail."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def unpack_ahead(model: Any) -> None:
    """Lets a checkpoint of compressed-tensors (llm-compressor's FP8, GPTQ, AWQ) unpack its weights now.

    It does so by itself at the first forward pass; then the fingerprint would change in between, and what runs a part of the
    model alone (the vision side of `generate`) would meet packed weights.
    """
    if hasattr(model, "ct_decompress_hook"):
        for hook in list(model._forward_pre_hooks.values()):
            if getattr(hook, "__name__", "") == "ct_decompress_hook":
                hook(model, ())


def skeleton(family: Family, config: Any) -> Any:
    """The model of a configuration without its weights: parameters have shapes and no memory.

    Raises:
        InputError: the configuration does not describe a model that can be built.
    """
    import copy

    import torch
    from transformers.initialization import no_init_weights

    model_class = family.load_class()
    build = getattr(model_class, "from_config", model_class)  # `AutoModel…` classes are not called
    trusted = type(config).__module__.startswith(
        "transformers_modules"
    )  # the config is code that was asked for already
    options = {"trust_remote_code": True} if trusted else {}
    try:
        with torch.device("meta"), no_init_weights():  # as transformers' own loading does
            model = build(copy.deepcopy(config), **options)
    except ImportError as error:
        reason = next(line for line in str(error).splitlines() if line.strip()).strip()
        raise InputError(f"model: {family.model_class} needs a package that is not installed: {reason}") from error
    except Exception as error:  # whatever a config that does not fit together makes a model class raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"model: its config.json describes no {family.model_class} that can be built: {reason}"
        ) from error
    model.tie_weights()
    return model
