"""What can be known of a loaded model, whatever its layers are made of: sites, widths, weights, device and dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError, VLEditError
from .hooks import recording
from .places import Place, place, roles
from .site import BLOCK, Site
from .spread import is_spread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .encoded import Encoded
    from .layered import Layered


def default_among(layers: nn.ModuleList, site: Site) -> Site:
    """A family's default site; where its layer has no such linear (a mixture of experts), that layer's whole MLP block."""
    site = site.resolve(len(layers))
    there = roles(layers[site.layer])
    return Site(site.layer, BLOCK) if site.role not in there and BLOCK in there else site


def place_of(vlm: Layered, site: Site) -> Place:
    """See `VLM.site_place`; `site` with a non-negative layer, here and below."""
    try:
        return place(vlm.layers[site.layer], site.role)
    except VLEditError as error:
        raise InputError(f"site '{site}': {error}") from None


def shape_of(vlm: Layered, encode: Callable[[Sequence[None], Sequence[str]], Encoded], site: Site) -> tuple[int, int]:
    """See `VLM.site_shape`; `encode` is `VLM.encode`."""
    found = place_of(vlm, site)
    if type(found.exit) is nn.Linear and found.half is None and found.entry is found.exit:
        return found.exit.out_features, found.exit.in_features
    trunk = vlm.trunk(encode([None], ["?"]), site.layer)
    taken, given = recording({"in": found.entry}, inputs=True), recording({"out": found.exit})
    with vlm.lock, torch.inference_mode(False), torch.no_grad(), taken as entered, given as left:
        trunk.call(site.layer).run(vlm.layers[site.layer], trunk.hidden)
    return found.read(left["out"]).shape[-1], entered["in"].shape[-1]


def weight_of(vlm: Layered, site: Site) -> Tensor:
    """See `VLM.site_weight`."""
    found = place_of(vlm, site)
    weight = getattr(found.exit, "weight", None)
    kind = type(found.exit).__name__
    if site.role == BLOCK:
        reason = "it is a whole MLP block, which has no one weight"
    elif found.expert is not None:
        reason = "the weights of all experts are one tensor, and a change acts beside one of them"
    elif found.half is not None:
        reason = "it is one half of a fused linear"
    elif type(found.exit) is not nn.Linear:
        reason = f"its layer is a {kind}, not a plain linear; load the model without quantization, its adapters merged"
    elif is_spread(weight):
        reason = "it is spread over the ranks of a process group; load the model without tensor parallelism"
    elif type(weight) is not nn.Parameter or not weight.is_floating_point():
        reason = f"its weight is quantised ({type(weight).__name__}); load the model without quantization"
    else:
        return weight
    raise InputError(f"the weight at site '{site}' cannot be had: {reason}.")


def bare(model: Any) -> Any:
    """The Hugging Face model inside a `PeftModel`, with its adapters in it; any other model as it is.

    Raises:
        InputError: the adapter is no change of layers but puts tokens before the prompt.
    """
    if not hasattr(model, "peft_config") or not hasattr(model, "get_base_model"):
        return model
    for name, config in model.peft_config.items():
        if getattr(config, "is_prompt_learning", False):
            kind = getattr(config.peft_type, "value", config.peft_type)
            raise InputError(
                f"adapter '{name}': {kind} puts learned tokens before the prompt, which cannot be edited around. Give an "
                "adapter that changes layers, e.g. LoRA."
            )
    return model.get_base_model()


def home(*modules: nn.Module, wide: bool = False) -> Tensor:
    """The first tensor that one of `modules` holds; a weight may be a method, or packed away.

    Args:
        wide: one of at least 16 bits floating point, as activations are.
    """
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            if not wide or (tensor.is_floating_point() and tensor.dtype.itemsize >= 2):
                return tensor
    raise InputError("model: it holds no weights.")


def is_plain(module: Any) -> bool:
    """Whether a module is an ordinary linear with ordinary weights, neither adapted nor packed nor wrapped."""
    return (
        type(module) is nn.Linear
        and type(module.weight) is nn.Parameter
        and module.weight.is_floating_point()
        and "forward" not in vars(module)
    )


def embedding_table(model: Any) -> Tensor:
    """(V, E): the input embeddings of all tokens; those of an adapted or quantised table as it gives them."""
    embed = model.get_input_embeddings()
    if type(embed.weight) is nn.Parameter and embed.weight.is_floating_point() and isinstance(embed, nn.Embedding):
        return embed.weight
    with torch.no_grad():
        return embed(torch.arange(embed.num_embeddings, device=home(embed).device))
