"""`SiteTail`: the part of the model above a site, prepared for training the site's output.

Everything below the site is frozen, and so are the site's inputs: they are computed once.  Training then costs only the part
above the site.  If the site is in the last decoder layer, no later layer looks at other positions, so only those that predict
the answer's tokens are computed. In addition the vocabulary projection can be restricted to a few rivals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .encoded import Trunk
from .gradients import passing_gradients
from .hooks import Transformation, arguments, recording, site_changed
from .measures import is_plain
from .places import Place, is_gated, n_experts, place, roles
from .site import BLOCK, EXPERT, LAYER, Site
from .surroundings import on_cpu_unless_named

if TYPE_CHECKING:
    from .layered import Layered

BESIDE = ("mlp.shared.", EXPERT)
"""Sites in a mixture, whose sum with the other experts is left to the layer itself."""

_NORM = "norm"
"""In the name of every norm of a layer; what enters the one before the MLP is what the MLP's output is added to."""

_AFTER = ("post_feedforward_layernorm", "post_mlp_layernorm")
"""The norm of what the MLP gives, as Gemma and GLM call it."""


class SiteTail:
    """Maps what is added to a site's output to the logits that predict the batch's answers.

    N needed positions: in the last layer those that predict an answer's token; in lower layers every position that one
    of these can see.  n answer tokens, ends of answers included.  Gradients flow into the change, never into the model.

    Attributes:
        inputs: (N, in) the site's inputs at the needed positions, row after row.
        rows: (N,) int64, the batch row of each.
        positions: (B, T) bool, where they are.
        predicts: (N,) bool, which of them predict an answer's token.
        targets: (n,) int64 token ids, row after row.
        target_rows: (n,) int64, the batch row of each target.

    Args:
        read: called once with what enters the site at every position, (B, T, in), as `site_input` gives it.

    Raises:
        InputError: the batch was encoded without answers, or the site lies below the trunk.
    """

    def __init__(self, vlm: Layered, trunk: Trunk, site: Site | str, read: Callable[[Tensor], object] | None = None):
        encoded = trunk.encoded
        if not bool(encoded.answer_mask.any()):
            raise InputError("answers: the batch was encoded without answers; there is nothing to train on.")
        self.vlm = vlm
        self.site = vlm.resolve_site(site)
        vlm.site_place(self.site)
        self.targets, self.target_rows = encoded.targets, encoded.target_rows
        self._read_weights: dict[nn.Module, Tensor] = {}
        self._trunk = vlm.raise_trunk(trunk, self.site.layer)
        self._call = self._trunk.call(self.site.layer)
        self._is_last = self.site.layer == vlm.n_layers - 1
        self.positions = encoded.predict_mask if self._is_last else self._seen()
        self.rows = self.positions.nonzero()[:, 0]
        self.predicts = encoded.predict_mask[self.positions]
        self._read_layer(read)

    def _seen(self) -> Tensor:
        """(B, T) bool: tokens at or before the last position that predicts something."""
        encoded = self._trunk.encoded
        before_end = encoded.predict_mask.flip(1).cumsum(1).flip(1) > 0
        return encoded.attention_mask.bool() & before_end

    def _read_layer(self, read: Callable[[Tensor], object] | None) -> None:
        """Runs the site's layer once and keeps what its MLP needs, at the needed positions."""
        vlm, layer = self.vlm, self.vlm.layers[self.site.layer]
        places = {role: place(layer, role) for role in {*roles(layer), self.site.role} - {LAYER} | {self.site.role}}
        norms = {name: module for name, module in layer.named_children() if _NORM in name.lower()}
        trunk, shape = self._trunk, self._trunk.hidden.shape[:2]
        with vlm.lock, torch.inference_mode(False), torch.no_grad():
            with (
                recording({role: found.exit for role, found in places.items()}) as outputs,
                arguments({"site": places[self.site.role].entry}) as given,
                recording(norms, inputs=True) as residuals,
            ):
                self._layer_output = layer(trunk.hidden, **self._call.inputs)
            at = {role: self._pick(places[role].read(value), shape) for role, value in outputs.items()}
            entered = places[self.site.role].take(*given["site"]).reshape(*shape, -1)
            self.inputs = self._pick(entered, shape)
            if read is not None:
                read(entered)
            self._check_routing(places[self.site.role], given["site"], shape)
            self._base = at[self.site.role]
            self._rest = None
            for value in residuals.values():
                if value.numel() != trunk.hidden.numel():  # a norm of something else (queries, keys)
                    continue
                rest = _rest_of_layer(layer, self.site.role, at, self._pick(value, shape))
                if rest is not None and self._agrees(rest):
                    self._rest = rest

    def _check_routing(self, found: Place, given: tuple[tuple, dict[str, Any]], shape: torch.Size) -> None:
        """Raises: InputError where the site is an expert that no token which predicts the answer is sent to."""
        if found.expert is None or bool(self._pick(found.weights(*given), shape)[self.predicts].any()):
            return
        layer = self.vlm.layers[self.site.layer]
        chosen = [
            number
            for number in range(n_experts(layer))
            if bool(self._pick(replace(found, expert=number).weights(*given), shape)[self.predicts].any())
        ]
        raise InputError(
            f"site '{self.site}': none of the tokens that predict the answer is sent to this expert, so that a change of it does "
            f"nothing there; they are sent to {', '.join(map(str, chosen))}. Name one of these, or edit the whole block, "
            f"'{self.site.layer}.{BLOCK}'."
        )

    def _pick(self, value: Tensor, shape: torch.Size) -> Tensor:
        return value.reshape(*shape, -1)[self.positions]

    def _agrees(self, rest: Callable[[Tensor], Tensor]) -> bool:
        """Whether our reading of the layer gives what the layer gives; if not, the layer itself is run every time."""
        expected, found = self._layer_output[self.positions], rest(self._base)
        tolerance = 1e-5 if expected.dtype == torch.float32 else 2e-2
        scale = expected.abs().max().clamp(min=1.0)
        return bool(((expected - found).abs().max() <= tolerance * scale).item())

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the site, as seen."""
        return self._base.shape[-1], self.inputs.shape[-1]

    @property
    def replays_layer(self) -> bool:
        """True where the site's layer has a form that is not known, so that each call runs all of it again (slower)."""
        return self._rest is None

    @on_cpu_unless_named
    def logits(self, change: Transformation | Tensor | None = None, vocabulary: Tensor | None = None) -> Tensor:
        """The logits at the positions that predict `targets`.

        Args:
            change: a transformation, or what it gives: deltas (N, out), one for each of `inputs`. None: the base.
            vocabulary: (K,) int64 token ids; only their logits are computed.

        Returns:
            (n, V), or (n, K) where a vocabulary is given.
        """
        with self.vlm.lock, passing_gradients(self.vlm, self.site.layer, self._read_weights):
            hidden, head = self.vlm.anatomy.finish(self._hidden(self._delta(change))), self.vlm.anatomy.lm_head
            if vocabulary is None:
                return self.vlm.after_projection(head(hidden))
            if not is_plain(head):
                return self.vlm.after_projection(head(hidden)[..., vocabulary.to(hidden.device)])
            weight, bias = self._cut(head, vocabulary)
            return self.vlm.after_projection(nn.functional.linear(hidden, weight, bias))

    @on_cpu_unless_named
    def finished(self, change: Transformation | Tensor | None = None) -> Tensor:
        """(n, H): what enters the vocabulary projection at the positions that predict `targets`; arguments as `logits`."""
        with self.vlm.lock, passing_gradients(self.vlm, self.site.layer, self._read_weights):
            return self.vlm.anatomy.finish(self._hidden(self._delta(change)))

    def outputs(self, change: Transformation | Tensor | None = None) -> Tensor:
        """The site's own output at the needed positions, changed: (N, out)."""
        delta = self._delta(change)
        return self._base if delta is None else self._base + delta

    def _delta(self, change: Transformation | Tensor | None) -> Tensor | None:
        if change is None:
            return None
        delta = change if isinstance(change, Tensor) else change.delta(self.inputs)
        if delta.shape != self._base.shape:
            raise InputError(f"change: deltas of shape {tuple(delta.shape)}; expected {tuple(self._base.shape)}.")
        return delta.to(self._base.dtype)

    def _hidden(self, delta: Tensor | None) -> Tensor:
        """What enters the final norm at the positions that predict: (n, H)."""
        if self._rest is None:
            output = self._replayed(delta)
        else:
            changed = self._rest(self._base if delta is None else self._base + delta)
            if self._is_last:
                added = self._call.added
                return changed if added is None else changed + added[self.positions]
            output = self._layer_output.clone()
            output[self.positions] = changed
        if self._call.added is not None:
            output = output + self._call.added
        output = self.vlm.run_layers(self._trunk, output, self.site.layer + 1)
        return output[self._trunk.encoded.predict_mask]

    def _replayed(self, delta: Tensor | None) -> Tensor:
        trunk, layer = self._trunk, self.vlm.layers[self.site.layer]
        if delta is None:
            return self._layer_output

        def add(x: Tensor, y: Tensor) -> Tensor:
            everywhere = torch.zeros_like(y)
            everywhere[self.positions] = delta
            return y + everywhere

        with site_changed(self.vlm, self.site, add):
            return layer(trunk.hidden, **self._call.inputs)

    def _cut(self, head: nn.Linear, vocabulary: Tensor) -> tuple[Tensor, Tensor | None]:
        """The vocabulary projection of a few tokens, kept for the next step."""
        kept = getattr(self, "_kept_cut", None)
        if kept is None or kept[0] is not vocabulary:
            with torch.no_grad():
                rows = vocabulary.to(head.weight.device)
                kept = (vocabulary, head.weight[rows], None if head.bias is None else head.bias[rows])
            self._kept_cut = kept
        return kept[1], kept[2]


def _rest_of_layer(
    layer: nn.Module, role: str, outputs: dict[str, Tensor], residual: Tensor
) -> Callable[[Tensor], Tensor] | None:
    """From the site's output (N, out) to the layer's (N, H), the rest of the layer as in its base run.

    None where the layer's activation is not to be found.

    Args:
        outputs: the base outputs of the layer's places by role, each (N, ·).
        residual: (N, H) what the MLP's output is added to.
    """
    norms = (getattr(layer, name, None) for name in _AFTER)
    after = next((norm for norm in norms if norm is not None), nn.Identity())
    if role == LAYER:
        return lambda site_output: site_output
    if role.startswith(BESIDE):
        return None
    if role in ("mlp.out", BLOCK):
        return lambda site_output: residual + after(site_output)
    act = getattr(layer, "activation_fn", None) or getattr(getattr(layer, "mlp", None), "act_fn", None)
    if act is None or "mlp.out" not in outputs:
        return None
    second, gated = place(layer, "mlp.out").exit, is_gated(layer)
    if not gated:
        return lambda site_output: residual + after(second(act(site_output)))
    if role == "mlp.in":
        return lambda site_output: residual + after(second(act(site_output) * outputs["mlp.up"]))
    activated = act(outputs["mlp.in"])
    return lambda site_output: residual + after(second(activated * site_output))
