"""`check`: whether a model can be edited, known before any weight is read; `vledit.load` refuses with the same message.

A model's configuration is built without weights (parameters have shapes but no memory), analysed like a loaded model, and
combined with its processor if there is one.  The result states what would be edited, what was assumed because no family
specifies it, and what is missing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import InputError, MissingDataError, UnfitModelError, VLEditError
from .vlm.site import BLOCK, LAYER, ROLES

if TYPE_CHECKING:
    from .vlm.base import VLM
    from .vlm.families import Family

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json")
"""A local folder with none of these has no processor."""
BETWEEN = "gated_cross_attn_layers"
"""By this name a decoder holds cross attention to pictures that belongs to none of its layers (Idefics 1)."""
NO_PROCESSOR = "processor: there is neither a processor nor a tokenizer; the model needs both before it can be asked"


@dataclass(frozen=True)
class Checked:
    """What is known of a model without its weights.

    Args:
        model: the name, folder or id that was asked about.
        type: its config's `model_type`; "" where no config can be read.
        fits: whether it can be edited.
        reason: why not; "" where it can.
        family, title: the family it is taken for; "generic" where none covers it.
        model_class, decoder: class names of the whole and of its language model's stack of layers.
        layers: number of decoder layers.
        sites: role → the layers that have it, 0-based.
        recurrent: layers that carry a state from token to token instead of attending (gated delta nets, Mamba, convolutions).
        default_site, default_alpha: where an edit acts, and how far it reaches, if the user says nothing.
        prompt, text_prompt: the templates of a question with and without a picture.
        picture_size: (width, height) in pixels of the model's own input.
        visual_tokens: tokens of a picture of that size.
        processor: the processor's class; "" where it was not read.
        missing: what the model needs and does not have here.
        assumed: what neither a family nor the checkpoint says.
        memory: bytes by what they are for, as `vledit models --estimate` says; {} where it is not known.
    """

    model: str
    type: str = ""
    fits: bool = False
    reason: str = ""
    family: str = ""
    title: str = ""
    model_class: str = ""
    decoder: str = ""
    layers: int = 0
    sites: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    recurrent: tuple[int, ...] = ()
    default_site: str = ""
    default_alpha: float | None = None
    prompt: str = ""
    text_prompt: str = ""
    picture_size: tuple[int, int] | None = None
    visual_tokens: int | None = None
    processor: str = ""
    missing: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    memory: Mapping[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def check(name: str, dtype: str = "float32", trust_remote_code: bool = False) -> Checked:
    """Looks at a model's configuration and, where there is one, its processor; no weights are read.

    Args:
        name: as `load` takes it.
        dtype: for the memory.
        trust_remote_code: run the Python code that a checkpoint carries; see `load`.

    Raises:
        MissingDataError, UnknownNameError: there is no such model, or its config cannot be read.
        InputError: the folder is not that of a checkpoint.
    """
    from .loading import read_config

    try:
        source, config, family = read_config(name, trust_remote_code)
    except UnfitModelError as error:
        return Checked(name, error.kind, reason=str(error))
    return look(name, source, config, family, dtype, trust_remote_code)


def look(
    name: str,
    source: str | None,
    config: Any,
    family: Family,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> Checked:
    """`check` for a config that is read already.

    Args:
        source: the folder or id that it is from; None: there is only a config.
        dtype: None: the memory is not counted.
    """
    from .loading import read_processor

    kind = str(config.model_type)
    try:
        model = buildable(family, config)
    except InputError as error:
        return Checked(name, kind, reason=str(error), family=family.name, title=family.title)
    vlm, missing, assumed = None, [], []
    try:
        if source is not None and has_processor(source):
            processor = read_processor(name, source, config, family, trust_remote_code)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                vlm = fitted(model, processor, family, name)
            assumed += [str(one.message) for one in said if issubclass(one.category, UserWarning)]
        else:
            missing.append(NO_PROCESSOR)
    except MissingDataError as error:
        missing.append(str(error))
    except InputError as error:
        return Checked(name, kind, reason=str(error), family=family.name, title=family.title)
    return _said(name, kind, model, vlm, vlm.family if vlm else family, missing, assumed, dtype)


def has_processor(source: str) -> bool:
    """Whether a local folder holds any part of a processor; a Hugging Face id is taken to."""
    from pathlib import Path

    folder = Path(source)
    return not folder.is_dir() or any((folder / one).is_file() for one in PROCESSOR_FILES)


def buildable(family: Family, config: Any) -> Any:
    """The model of a configuration without its weights.

    Raises:
        UnfitModelError: it cannot be built, or has no decoder, no vocabulary or no site.
    """
    from .quantization import skeleton
    from .vlm.anatomy import dissect
    from .vlm.places import roles

    kind = str(config.model_type)
    try:
        model = skeleton(family, config)
    except InputError as error:
        raise UnfitModelError(str(error), kind) from None
    name = type(model).__name__
    if not getattr(model, "can_generate", lambda: False)():
        raise UnfitModelError(
            f"model: {name} does not write text token by token, so that there is no answer to edit.", kind
        )
    try:
        anatomy = dissect(model)
    except (VLEditError, AttributeError, NotImplementedError) as error:
        raise UnfitModelError(
            f"model: {name} cannot be edited: its decoder layers are not to be found ({error}). Edits need one stack of "
            "decoder layers that prompt and answer pass.",
            kind,
        ) from None
    if hasattr(anatomy.decoder, BETWEEN):
        raise UnfitModelError(
            f"model: {name} cannot be edited: it lets pictures in by cross attention between its decoder layers, so that "
            "the layers above a site cannot be run by themselves. Models whose layers hold it (Llama 3.2 Vision) can be edited.",
            kind,
        )
    if anatomy.lm_head is None or not hasattr(anatomy.lm_head, "weight"):
        raise UnfitModelError(f"model: {name} cannot be edited: it has no vocabulary projection.", kind)
    if not any(set(roles(layer)) - {LAYER} for layer in anatomy.layers):
        layer = type(anatomy.layers[-1]).__name__
        raise UnfitModelError(
            f"model: {name} cannot be edited: its layers ({layer}) have no MLP of a known form.", kind
        )
    return model


def fitted(model: Any, processor: Any, family: Family, name: str) -> VLM:
    """A model without weights and its processor, put together as `load` does.

    Raises:
        InputError: they do not fit together.
    """
    from .vlm.base import VLM

    return VLM(model, processor, family, name)


def _said(
    name: str,
    kind: str,
    model: Any,
    vlm: VLM | None,
    family: Family,
    missing: list[str],
    assumed: list[str],
    dtype: str | None,
) -> Checked:
    from .vlm.anatomy import dissect
    from .vlm.generic import GENERIC
    from .vlm.measures import default_among
    from .vlm.picture_inputs import sized
    from .vlm.places import is_recurrent, roles

    anatomy = dissect(model)
    there = {role: tuple(i for i, layer in enumerate(anatomy.layers) if role in roles(layer)) for role in ROLES}
    site = default_among(anatomy.layers, family.default_site)
    size, guess = sized(family, vlm.processor if vlm else None, model.config)
    tokens = None
    if vlm is not None:
        if guess:
            assumed.append(guess)
        try:
            tokens = sum(vlm.prompt("What is shown?").visual)
        except InputError as error:
            return Checked(name, kind, reason=str(error), family=family.name, title=family.title)
    elif family is GENERIC:
        assumed.append(
            f"no family covers {type(model).__name__}; prompt and visual tokens are known once there is a processor"
        )
    if site.role == BLOCK != family.default_site.role:
        assumed.append(
            f"site: layer {site.layer} has no '{family.default_site.role}', its whole MLP block is edited instead"
        )
    known = vlm is not None or family is not GENERIC
    return Checked(
        model=name,
        type=kind,
        fits=True,
        family=family.name,
        title=family.title,
        model_class=type(model).__name__,
        decoder=type(anatomy.decoder).__name__,
        layers=len(anatomy.layers),
        sites={role: layers for role, layers in there.items() if layers},
        recurrent=tuple(i for i, layer in enumerate(anatomy.layers) if is_recurrent(layer)),
        default_site=str(site),
        default_alpha=family.default_alpha,
        prompt=family.prompt if known else "",
        text_prompt=family.text_prompt if known else "",
        picture_size=size if vlm is not None or not guess else None,
        visual_tokens=tokens,
        processor=type(vlm.processor).__name__ if vlm else "",
        missing=tuple(missing),
        assumed=tuple(assumed),
        memory={} if dtype is None else _memory(name, model, family, site, tokens, dtype),
    )


def _memory(name: str, model: Any, family: Family, site: Any, tokens: int | None, dtype: str) -> dict[str, int]:
    from dataclasses import replace

    from .estimate import count_of, estimate

    sizes = count_of(name, model, model.config, family)
    sizes = replace(sizes, visual_tokens=tokens) if tokens else sizes
    found = estimate(sizes, family, dtype=dtype, site=site)
    names = ("parameters", "weights", "trunk_per_probe", "answering", "full_per_edit", "span_per_edit", "making_full")
    return {one: getattr(found, one) for one in names}
