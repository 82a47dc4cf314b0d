"""One prompt through the decoder, layer by layer, with the outputs of attention and MLP and the attention weights.

The decoder's layers are called as the model itself was observed to call them, with the eager attention kernel, which returns its
weights.  An edit that acts by hooks (see `acting`) acts here as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..vlm.encoded import Encoded, LayerCall, Trunk
from ..vlm.hooks import recording

if TYPE_CHECKING:
    from ..vlm.base import VLM

_BEFORE_MLP = ("pre_feedforward_layernorm", "final_layer_norm", "post_attention_layernorm")
"""The norm whose input is the residual between attention and MLP, as Gemma, OPT and Llama call it; in this order."""


def check_traceable(vlm: VLM) -> None:
    """Algorithm 1 follows attention weights from token to token; so every layer has to have them, for the prompt's own tokens.

    Raises: InputError for a model some of whose layers have none, saying which and why.
    """
    for index, layer in enumerate(vlm.layers):
        if isinstance(getattr(layer, "self_attn", None), nn.Module):
            if any(hasattr(layer, name) for name in _BEFORE_MLP):
                continue
            why = "has no norm before its MLP of a known name: attention and MLP stand side by side, and are not taken apart here"
        elif isinstance(getattr(layer, "cross_attn", None), nn.Module):
            why = (
                "looks at the picture by cross attention: the picture is none of the prompt's tokens, so that no share of an "
                "answer can be traced to tokens of it"
            )
        else:
            why = "has no attention: it mixes tokens by a recurrence or a convolution, and no token looks at another by a weight"
        raise InputError(
            f"attribution: {vlm.family.title} cannot be traced; its layer {index} ({type(layer).__name__}) {why}. "
            "`vledit analyze kl` works with every model."
        )


@dataclass(frozen=True)
class Anatomised:
    """One prompt; L layers, T tokens, H numbers.

    Attributes:
        entering: (L, T, H) what enters each layer.
        attention, mlp: (L, T, H) what the layer's attention and its MLP add.
        leaving: (L, T, H) what leaves it: entering + attention + mlp.
        weights: (L, T, T) float32, attention weights, mean over heads; row t is where token t looks.
        encoded: the prompt, one row, for its masks.
    """

    entering: Tensor
    attention: Tensor
    mlp: Tensor
    leaving: Tensor
    weights: Tensor
    encoded: Encoded

    @property
    def visual(self) -> Tensor:
        """(T,) bool."""
        return self.encoded.visual_mask[0].cpu()


def anatomise(vlm: VLM, encoded: Encoded) -> Anatomised:
    """Runs one prompt and keeps the parts of every layer.

    Args:
        encoded: one row, without answers or with one.

    Raises: InputError for several rows, or a model of which attribution cannot be had (`check_traceable`).
    """
    check_traceable(vlm)
    if len(encoded) != 1:
        raise InputError(f"attribution: one prompt at a time; {len(encoded)} given.")
    parts: dict[str, list[Tensor]] = {name: [] for name in ("entering", "attention", "mlp", "leaving", "weights")}
    with vlm.lock, torch.inference_mode(False), torch.no_grad(), eager(vlm):
        trunk = vlm.trunk(encoded, 0)
        hidden = trunk.hidden
        for index, layer in enumerate(vlm.layers):
            call = with_mask(trunk.call(index), causal_mask(trunk, index))
            leaving, attended, weights = _taken_apart(layer, call, hidden)
            parts["entering"].append(hidden[0])
            parts["attention"].append(attended)
            parts["leaving"].append(leaving[0])
            parts["mlp"].append(leaving[0] - hidden[0] - attended)
            parts["weights"].append(weights)
            hidden = leaving if call.added is None else leaving + call.added
    return Anatomised(**{name: torch.stack(some) for name, some in parts.items()}, encoded=encoded)


def _taken_apart(layer: nn.Module, call: LayerCall, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(what leaves the layer (1, T, H), what attention adds (T, H), weights (T, T))."""
    attention: Any = layer.self_attn
    name = next((name for name in _BEFORE_MLP if hasattr(layer, name)), None)
    if name is None:
        raise InputError(f"attribution: {type(layer).__name__} has no norm before its MLP of a known name.")
    looked: list[Tensor] = []

    def keep(_module: nn.Module, _args: tuple, output: Any) -> None:
        if isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], Tensor):
            looked.append(output[1])

    handle = attention.register_forward_hook(keep)
    try:
        with recording({"middle": getattr(layer, name)}, inputs=True) as seen:
            leaving = layer(hidden, **call.inputs)
    finally:
        handle.remove()
    if not looked:
        raise InputError(f"attribution: the attention of {type(layer).__name__} gives no weights.")
    leaving = leaving[0] if isinstance(leaving, tuple) else leaving
    middle = seen["middle"].reshape(hidden.shape)
    return leaving, (middle - hidden)[0], looked[0][0].float().mean(0)


def patch_grid(encoded: Encoded) -> tuple[int, int] | None:
    """(rows, columns) of the patches that the visual tokens of one prompt stand for; None where that cannot be told.

    Told by the processor's own grid (Qwen), or by a square number of tokens; a Q-Former's queries (32) are no patches.
    """
    count = int(encoded.visual_mask[0].sum())
    grid = encoded.model_inputs.get("image_grid_thw")
    if grid is not None and len(grid) == 1 and int(grid[0, 0]) == 1:
        rows, columns = int(grid[0, 1]), int(grid[0, 2])
        merged = round((rows * columns / max(count, 1)) ** 0.5)
        if merged and (rows // merged) * (columns // merged) == count:
            return rows // merged, columns // merged
    side = round(count**0.5)
    return (side, side) if side > 1 and side * side == count else None


@contextmanager
def eager(vlm: VLM) -> Iterator[None]:
    """Within the context, the decoder's attention is the plain one that gives its weights and takes any mask."""
    configs: dict[int, Any] = {}
    for module in vlm.layers.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation"):
            configs[id(config)] = config
    with ExitStack() as stack:
        for config in configs.values():
            stack.callback(setattr, config, "_attn_implementation", config._attn_implementation)
            config._attn_implementation = "eager"
        yield


def causal_mask(trunk: Trunk, index: int) -> Tensor:
    """(1, 1, T, T): the layer's own mask as numbers to add; the plain causal one where the model gives none.

    Raises: InputError for a mask of another form.
    """
    encoded, dtype = trunk.encoded, trunk.hidden.dtype
    length, device = encoded.input_ids.shape[1], trunk.hidden.device
    mask = trunk.call(index).inputs.get("attention_mask")
    if mask is None:
        seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    elif isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[-2:] == (length, length):
        seen = mask if mask.dtype == torch.bool else mask == 0
    else:
        raise InputError("attribution: this model's attention mask has a form that is not known here.")
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)


def with_mask(call: LayerCall, mask: Tensor) -> LayerCall:
    """The same call with another attention mask."""
    return replace(call, inputs={**call.inputs, "attention_mask": mask})


def logits_hiding(vlm: VLM, encoded: Encoded, hidden: Tensor) -> Tensor:
    """The logits at `encoded.predict_mask` when, layer by layer, some tokens may not be looked at by others.

    Args:
        encoded: one row with an answer, n tokens of it with its end.
        hidden: (N, L, T) bool, per way of hiding and layer the tokens that no other token sees; each still sees itself.

    Returns: (N, n, V).
    Raises: InputError as `anatomise`.
    """
    check_traceable(vlm)
    with vlm.lock, torch.inference_mode(False), torch.no_grad(), eager(vlm):
        trunk = vlm.trunk(encoded, 0)
        masks = [causal_mask(trunk, index) for index in range(vlm.n_layers)]
        trunk = trunk.select([0] * len(hidden))
        state = trunk.hidden
        itself = torch.eye(state.shape[1], dtype=torch.bool, device=state.device)
        for index, layer in enumerate(vlm.layers):
            closed = hidden[:, index].to(state.device)[:, None, None, :] & ~itself
            mask = masks[index].expand(len(hidden), -1, -1, -1).masked_fill(closed, torch.finfo(state.dtype).min)
            state = with_mask(trunk.call(index), mask).run(layer, state)
        chosen = vlm.anatomy.finish(state[:, encoded.predict_mask[0]])
        return vlm.after_projection(vlm.anatomy.lm_head(chosen))


def logits_everywhere(vlm: VLM, encoded: Encoded) -> Tensor:
    """(T, V) float32: what the model predicts at every token of one prompt."""
    with vlm.lock, torch.inference_mode(False), torch.no_grad():
        trunk = vlm.trunk(encoded, 0)
        hidden = vlm.run_layers(trunk, trunk.hidden, 0)
        return vlm.after_projection(vlm.anatomy.lm_head(vlm.anatomy.finish(hidden)))[0].float()
