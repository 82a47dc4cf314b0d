"""How much memory a model and its edits take, known before any weight is read.

The estimate includes the weights; the hidden states that scoring keeps for a probe (the input of the edited decoder layer, at
every token); the key-value cache while a batch is answered; and what one edit stores and needs while it is made.  It does not
include buffers and temporary activations, which depend on the kernels, nor the memory of the libraries themselves.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .vlm import registry
from .vlm.published import Published
from .vlm.site import BLOCK, Site

if TYPE_CHECKING:
    from .vlm.families import Family

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PACKED_BYTES = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
"""Bytes per quantised number; in 4 bits every block of 64 has a float32 scale.  (In 8 bits every row of a matrix has one,
which is left out: 4 bytes in some thousand.)"""

EDIT_BYTES = 4
"""Bytes per number of an edit: transformations and keys are float32, whatever the base is loaded in."""
ADAM_COPIES = 4
"""What is trained, its gradient, and Adam's two moments."""
THUMBNAIL_BYTES = 3000
"""A picture's thumbnail in a codebook entry: JPEG of at most 96 pixels a side, 1 to 5 kB."""
QUESTION_TOKENS = 32
"""Tokens of template and question in an ordinary prompt."""
ANSWER_TOKENS = 4
"""Tokens of an ordinary answer, its end included."""


@dataclass(frozen=True)
class Estimate:
    """Bytes, all of them.

    Args:
        model, family, dtype, quantization, site, edits, batch, tokens: what was asked; `tokens` of a prompt and its answer.
        parameters: how many the model has.
        weights: the base.
        trunk_per_probe: hidden states kept of one probe.
        answering: key-value cache of a batch that is being answered.
        key_per_edit: one key of the scope.
        full_per_edit, span_per_edit: the transformation of one edit.
        thumbnail_per_edit: the picture kept for people to see.
        making_full, making_span: what training one edit holds, the transformation itself included.
        total_full, total_span: weights and all edits.
        sizes_from: where the model's sizes are from; they may be assumed.
    """

    model: str
    family: str
    dtype: str
    quantization: str | None
    site: str
    edits: int
    batch: int
    tokens: int
    parameters: int
    weights: int
    trunk_per_probe: int
    answering: int
    key_per_edit: int
    full_per_edit: int
    span_per_edit: int
    thumbnail_per_edit: int
    making_full: int
    making_span: int
    total_full: int
    total_span: int
    sizes_from: str = ""

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def estimate(
    sizes: Published,
    family: Family,
    *,
    edits: int = 1000,
    dtype: str = "float32",
    quantization: str | None = None,
    batch: int = 1,
    question_tokens: int = QUESTION_TOKENS,
    answer_tokens: int = ANSWER_TOKENS,
    site: Site | None = None,
) -> Estimate:
    """What a model of these sizes takes, with `edits` edits of its default site (or `site`).

    Args:
        dtype: "float32", "bfloat16" or "float16".
        question_tokens: of a prompt, besides those of the picture.
        answer_tokens: also the rank of a span transformation.

    Raises:
        InputError: a count that is negative or zero where there must be one, an unknown dtype or quantization.
    """
    for name, value, least in (("edits", edits, 0), ("batch", batch, 1), ("answer_tokens", answer_tokens, 1)):
        if value < least:
            raise InputError(f"{name}: {value} given; at least {least} is needed.")
    site = site or family.default_site
    rows, columns = site_shape(sizes, site)
    item = ITEM_BYTES[dtype]
    tokens = sizes.visual_tokens + question_tokens + answer_tokens
    weights = weight_bytes(sizes, dtype, quantization, kept=rows * columns)
    key, full = columns * EDIT_BYTES, rows * columns * EDIT_BYTES
    span = answer_tokens * (rows + columns) * EDIT_BYTES
    return Estimate(
        sizes_from=sizes.source,
        model=sizes.hub_id,
        family=family.name,
        dtype=dtype,
        quantization=quantization,
        site=str(site),
        edits=edits,
        batch=batch,
        tokens=tokens,
        parameters=sizes.parameters,
        weights=weights,
        trunk_per_probe=tokens * sizes.hidden * item,
        answering=2 * sizes.layers * (sizes.kv_width or sizes.hidden) * tokens * batch * item,
        key_per_edit=key,
        full_per_edit=full,
        span_per_edit=span,
        thumbnail_per_edit=THUMBNAIL_BYTES,
        making_full=ADAM_COPIES * full,
        making_span=ADAM_COPIES * answer_tokens * rows * EDIT_BYTES + answer_tokens * columns * EDIT_BYTES,
        total_full=weights + edits * (full + key + THUMBNAIL_BYTES),
        total_span=weights + edits * (span + key + THUMBNAIL_BYTES),
    )


def site_shape(sizes: Published, site: Site) -> tuple[int, int]:
    """(out, in) of the linear or the block that a site means."""
    if site.role == BLOCK:
        return sizes.hidden, sizes.hidden
    if site.role == "mlp.out":
        return sizes.hidden, sizes.intermediate
    return sizes.intermediate, sizes.hidden


def weight_bytes(sizes: Published, dtype: str, quantization: str | None, kept: int) -> int:
    """Bytes of the weights.

    Args:
        kept: numbers of the edited site's weight, which is not quantised.

    Raises:
        InputError: unknown dtype or quantization.
    """
    if dtype not in ITEM_BYTES or quantization not in (None, *PACKED_BYTES):
        raise InputError(f"no estimate for dtype '{dtype}' and quantization '{quantization}'.")
    item = ITEM_BYTES[dtype]
    wide = {"float32": 0, "float16": sizes.float32, "bfloat16": sizes.float32_always}[dtype]
    packed = 0 if quantization is None else sizes.shrinkable - kept
    plain = sizes.parameters - packed - wide
    return round(plain * item + wide * ITEM_BYTES["float32"] + packed * PACKED_BYTES.get(quantization or "", 0))


def sizes_of(name: str) -> tuple[Published, Family]:
    """The sizes of a model by its name: from the family's own data where it is published, else from its config alone.

    No weights are read; the network is asked only for the config of a Hugging Face id that no family lists.

    Raises:
        MissingDataError, UnknownNameError, InputError: as `load`.
    """
    for known in registry.family_names():
        family = registry.family(known)
        for one in family.published:
            if name in (one.hub_id, *one.names, *short_names(family, one.hub_id)):
                return one, family
    from .loading import read_config

    _, config, family = read_config(name)
    return count(name, config, family), family


def short_names(family: Family, hub_id: str) -> list[str]:
    """The short names that a family gives to a checkpoint, the longest first; the others are its aliases."""
    return sorted((short for short, hub in family.checkpoints.items() if hub == hub_id), key=lambda s: (-len(s), s))


def count(name: str, config: Any, family: Family) -> Published:
    """The sizes of the model that a configuration describes, counted on a model without weights.

    Raises:
        InputError: the configuration does not describe a model that can be built.
    """
    from .quantization import skeleton

    return count_of(name, skeleton(family, config), config, family)


def count_of(name: str, model: Any, config: Any, family: Family) -> Published:
    """The sizes of a model that is built already, with or without weights."""
    from torch import nn

    from .vlm.anatomy import dissect

    anatomy = dissect(model)
    layer, head = anatomy.layers[0], anatomy.lm_head
    hidden, intermediate = widths(anatomy, layer)
    keys = getattr(getattr(layer, "self_attn", None), "k_proj", None)
    wide, wide_always = _kept_wide(model, "_keep_in_fp32_modules"), _kept_wide(model, "_keep_in_fp32_modules_strict")
    linears = [
        module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and not _is_in(path, wide | wide_always)
    ]
    return Published(
        hub_id=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        hidden=hidden,
        intermediate=intermediate,
        layers=len(anatomy.layers),
        vocabulary=head.out_features,
        visual_tokens=visual_tokens(config, family),
        tied=model.get_input_embeddings().weight is head.weight,
        linear=sum(weight.numel() for weight in {id(m.weight): m.weight for m in linears}.values()),
        kv_width=keys.out_features if isinstance(keys, nn.Linear) else None,
        float32=_parameters_in(model, wide | wide_always),
        float32_always=_parameters_in(model, wide_always),
        source="config.json, counted without weights",
    )


def widths(anatomy: Any, layer: Any) -> tuple[int, int]:
    """What enters the MLP of a decoder layer, and how wide it is inside: from its linear, else as the config says."""
    from .vlm.places import place, roles

    first = place(layer, "mlp.up") if "mlp.up" in roles(layer) else None
    if first is not None and isinstance(getattr(first.exit, "out_features", None), int):
        module: Any = first.exit
        return module.in_features, module.out_features // (1 if first.half is None else 2)
    config = anatomy.decoder.config
    hidden = int(config.hidden_size)
    return hidden, int(getattr(config, "intermediate_size", None) or 4 * hidden)


def visual_tokens(config: Any, family: Family) -> int:
    """Placeholders of one picture, where the config tells; else those of a picture of the ViT's own size, 2 × 2 patches each.

    Models of dynamic resolution write a larger picture with more tokens.
    """
    if family.count_image_tokens is not None:
        return int(family.count_image_tokens(config))
    for settings in (config, getattr(config, "text_config", None)):
        for name in ("mm_tokens_per_image", "num_image_tokens", "image_seq_length"):
            if isinstance(found := getattr(settings, name, None), int) and found > 0:
                return found
    vision = getattr(config, "vision_config", config)
    side, patch = getattr(vision, "image_size", None) or 448, getattr(vision, "patch_size", None) or 14
    side, patch = (value[0] if isinstance(value, list | tuple) else value for value in (side, patch))
    return max(1, (side // patch) ** 2 // 4)


def _kept_wide(model: Any, attribute: str) -> set[str]:
    return set(getattr(model, attribute, None) or ())


def _is_in(path: str, names: set[str]) -> bool:
    return any(f".{name}." in f".{path}." for name in names)


def _parameters_in(model: Any, names: set[str]) -> int:
    return sum(parameter.numel() for path, parameter in model.named_parameters() if _is_in(path, names))
