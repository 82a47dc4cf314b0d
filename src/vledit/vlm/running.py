"""`Running`: runs a model in parts: all layers below a decoder layer, single layers, and the projection above them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from . import measures
from .encoded import Encoded, Trunk
from .exact import exact_convolutions
from .families import Family
from .gradients import passing_gradients
from .hooks import Transforms, as_rows, call_until, record_calls, recording, transformed
from .places import Place
from .site import BLOCK, Site
from .surroundings import lasting, on_cpu_unless_named

if TYPE_CHECKING:
    from .tail import SiteTail


class Running:
    """A model that is run in parts: `trunk` once per prompt, then `head` (or `site_tail` in training) as often as needed.

    `VLM` has the attributes; see there.
    """

    model: Any
    anatomy: Any
    family: Family
    lock: Any
    default_site: Site

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return measures.home(self.anatomy.lm_head, self.model).device

    @property
    def layers(self) -> nn.ModuleList:
        """The language model's decoder layers."""
        return self.anatomy.layers

    @property
    def n_layers(self) -> int:
        return len(self.anatomy.layers)

    def resolve_site(self, site: Site | str) -> Site:
        """The site with a non-negative layer; reads text such as "-1.mlp.out".

        Raises:
            InputError: unknown role, or no such layer.
        """
        return Site.parse(site).resolve(self.n_layers)

    def site_place(self, site: Site | str) -> Place:
        """Where a site's inputs come in and its outputs come out.

        Raises:
            InputError: unknown role, no such layer, or the layer has no such place.
        """
        return measures.place_of(self, self.resolve_site(site))

    def site_module(self, site: Site | str) -> nn.Module:
        """The module that gives a site's output: a linear, whatever its class, or the whole MLP block."""
        return self.site_place(site).exit

    @property
    def _embeds_outside(self) -> bool:
        """Whether the language model is a whole one of its own (BLIP-2 and its kin), into which we put the pictures
        ourselves: these models' own `forward` knows no question without a picture."""
        return self.anatomy.causal is not self.model

    def language_inputs(self, encoded: Encoded) -> dict[str, Tensor]:
        """What `anatomy.causal` is called with: for most models all of `model_inputs`; for BLIP-2 and its kin
        inputs_embeds (B, T, E) with the pictures put in, mask and positions.

        Raises:
            InputError: placeholders and visual tokens are not equally many.
        """
        inputs = encoded.model_inputs
        if not self._embeds_outside:
            return dict(inputs)
        embeds = self.model.get_input_embeddings()(inputs["input_ids"])
        if encoded.picture_sizes:
            features = self.model.get_image_features(**encoded.picture_inputs)
            features = features if isinstance(features, Tensor) else features.pooler_output
            placeholders, tokens = int(encoded.visual_mask.sum()), features.shape[:-1].numel()
            if placeholders != tokens:
                raise InputError(f"image: {placeholders} image placeholders for {tokens} visual tokens.")
            embeds = embeds.masked_scatter(encoded.visual_mask[..., None], features.to(embeds))
        return {
            "inputs_embeds": embeds,
            "attention_mask": inputs["attention_mask"],
            "position_ids": inputs["position_ids"],
        }

    @lasting
    def trunk(self, encoded: Encoded, layer: int) -> Trunk:
        """Runs everything below decoder layer `layer` (negative counts from the end), without gradient."""
        layer = Site(layer, BLOCK).resolve(self.n_layers).layer
        forward = self.anatomy.decoder if self._embeds_outside else self.model
        end = next(iter(self.anatomy.finishing), None if self._embeds_outside else self.anatomy.lm_head)
        # inference mode off: what comes out may enter a computation with gradient
        with self.lock, torch.inference_mode(False), torch.no_grad(), exact_convolutions(self.device):
            inputs = self.language_inputs(encoded)
            hidden, calls = record_calls(lambda: forward(**inputs, use_cache=False), list(self.layers)[layer:], end)
        return Trunk(layer, hidden, calls, encoded)

    @on_cpu_unless_named
    def run_layers(self, trunk: Trunk, hidden: Tensor, start: int, stop: int | None = None) -> Tensor:
        """`hidden` (B, T, H) entering decoder layer `start` → what enters layer `stop`, or leaves the last one.

        Args:
            trunk: says how the layers are called; it starts at or below `start`.
        """
        for index in range(start, self.n_layers if stop is None else stop):
            hidden = trunk.call(index).run(self.layers[index], hidden)
        return hidden

    @lasting
    def raise_trunk(self, trunk: Trunk, layer: int) -> Trunk:
        """The trunk of a higher layer, from that of a lower one; base weights, without gradient."""
        layer = Site(layer, BLOCK).resolve(self.n_layers).layer
        self._check_above(trunk, layer)
        with self.lock, torch.inference_mode(False), torch.no_grad():
            hidden = self.run_layers(trunk, trunk.hidden, trunk.layer, layer)
        return Trunk(layer, hidden, trunk.calls[layer - trunk.layer :], trunk.encoded)

    @lasting
    def site_input(self, trunk: Trunk, site: Site | str) -> Tensor:
        """(B, T, in): what enters the site; base weights, without gradient."""
        site = self.resolve_site(site)
        trunk = self.raise_trunk(trunk, site.layer)
        with self.lock, torch.inference_mode(False), torch.no_grad():
            layer, call = self.layers[site.layer], trunk.calls[0]
            place = self.site_place(site)
            entered = place.take(*call_until(lambda: layer(trunk.hidden, **call.inputs), place.entry))
        return entered.reshape(*trunk.hidden.shape[:2], -1)  # OPT flattens (B, T, H) before its MLP

    @lasting
    def site_output(self, trunk: Trunk, site: Site | str) -> Tensor:
        """(B, T, out): what leaves the site; base weights, without gradient."""
        site = self.resolve_site(site)
        trunk, place = self.raise_trunk(trunk, site.layer), self.site_place(site)
        with self.lock, torch.inference_mode(False), torch.no_grad(), recording({"out": place.exit}) as left:
            trunk.calls[0].run(self.layers[site.layer], trunk.hidden)
        return place.read(left["out"]).reshape(*trunk.hidden.shape[:2], -1)

    @on_cpu_unless_named
    def head(
        self,
        trunk: Trunk,
        site: Site | str | None = None,
        transform: Transforms = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Runs decoder layer `trunk.layer` and all above it, the final norm and the vocabulary projection.

        Gradients flow to the transformations' parameters unless the caller switches them off.

        Args:
            site: where the transformations act (default: the family's default site).
            transform: one transformation for every row, or a list with one (or None) per row.
            positions: (B, T) bool; only there the logits are computed.

        Returns:
            logits (B, T, V), or (n_positions, V) row after row where `positions` are given.
        """
        site = self.default_site if site is None else self.resolve_site(site)
        rows = as_rows(transform, len(trunk))
        if any(row is not None for row in rows):
            self._check_above(trunk, site.layer)
        with transformed(self, site, rows), passing_gradients(self, trunk.layer):
            hidden = self.run_layers(trunk, trunk.hidden, trunk.layer)
            hidden = hidden if positions is None else hidden[positions]
            return self.after_projection(self.anatomy.lm_head(self.anatomy.finish(hidden)))

    def after_projection(self, logits: Tensor) -> Tensor:
        """What the vocabulary projection gives → the logits (the same, but for models that cap them)."""
        change = self.family.after_projection
        return logits if change is None else change(self.anatomy.decoder.config, logits)

    def _check_above(self, trunk: Trunk, layer: int) -> None:
        if layer < trunk.layer:
            raise InputError(f"site: layer {layer} lies below the trunk, which starts at layer {trunk.layer}.")

    @lasting
    def site_tail(self, trunk: Trunk, site: Site | str, read: Callable[[Tensor], object] | None = None) -> SiteTail:
        """The part of the model above a site, prepared for training a transformation on the batch's answers.

        Args:
            read: called once with what `site_input` would give, (B, T, in), so that the site's layer need not run for it again.
        """
        from .tail import SiteTail

        return SiteTail(self, trunk, self.resolve_site(site), read)
