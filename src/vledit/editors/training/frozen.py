"""Requests with forced answers whose frozen layers are run once: what editors train on that act inside the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .cases import base_log_probs
from .requests import Forced, Requests

if TYPE_CHECKING:
    from ...vlm.base import VLM, Trunk


@dataclass
class FrozenRequests:
    """Some requests in one batch, with everything below a site run.

    Attributes:
        names: what each row is.
        trunk: the rows, at the site's layer.
        tokens: (B, T, H) what leaves the site.
    """

    vlm: VLM = field(repr=False)
    names: list[str]
    trunk: Trunk
    tokens: Tensor
    _base: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def read(cls, requests: Requests, site: str, named: Sequence[tuple[str, Forced]]) -> FrozenRequests:
        """Runs the layers below the site.  Raises: InputError for an answer that cannot be forced."""
        vlm = requests.vlm
        trunk = vlm.trunk(requests.batch([one for _, one in named]), vlm.resolve_site(site).layer)
        encoded = trunk.encoded  # the pictures are below the site and not needed again
        inputs = {name: value for name, value in encoded.model_inputs.items() if name not in encoded.picture_sizes}
        trunk = replace(trunk, encoded=replace(encoded, model_inputs=inputs, picture_sizes={}, pictures={}))
        with torch.no_grad():
            return cls(vlm, [name for name, _ in named], trunk, vlm.site_output(trunk, site))

    def at(self, *names: str) -> list[int]:
        """The rows of these names."""
        return [row for row, name in enumerate(self.names) if name in names]

    def base_log_probs(self, rows: Sequence[int]) -> Tensor:
        """(n, V) float32: the base's log-probabilities where the answers of these rows are predicted, row after row."""
        vlm = self.vlm
        for row in rows:
            if row not in self._base:
                one = self.trunk.select([row])
                with vlm.lock, torch.inference_mode(False), torch.no_grad():
                    hidden = vlm.run_layers(one, one.hidden, one.layer)
                    self._base[row] = vlm.anatomy.finish(hidden[one.encoded.predict_mask])
        return base_log_probs(vlm, torch.cat([self._base[row] for row in rows]))

    @property
    def nbytes(self) -> int:
        """What the tensors take."""
        found = [self.trunk.hidden, self.tokens, *(call.added for call in self.trunk.calls)]
        return sum(one.nbytes for one in found if one is not None) + _masks(self.trunk)


def _masks(trunk: Trunk) -> int:
    """What the calls of the layers take beside hidden states, counted once where they share it."""
    inputs = {id(one): one for call in trunk.calls for one in call.inputs.values() if isinstance(one, Tensor)}
    return sum(one.nbytes for one in inputs.values())


class Kept:
    """Frozen requests by number; those used longest ago are dropped, and read again to the same bits when they are needed.

    Args:
        read: number → the frozen requests.
        memory_gb: most that they take in memory, 10⁹ bytes.
    """

    def __init__(self, read: Callable[[int], FrozenRequests], memory_gb: float):
        self._read, self._budget, self._used = read, int(memory_gb * 1e9), 0
        self._kept: OrderedDict[int, FrozenRequests] = OrderedDict()

    def __getitem__(self, number: int) -> FrozenRequests:
        if number not in self._kept:
            self._kept[number] = self._read(number)
            self._used += self._kept[number].nbytes
            while self._used > self._budget and len(self._kept) > 1:
                self._used -= self._kept.popitem(last=False)[1].nbytes
        self._kept.move_to_end(number)
        return self._kept[number]
