"""`Site`: a linear layer or the whole MLP block of the language model, addressed by decoder layer index and role."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import InputError, UnknownNameError

BLOCK = "mlp"
LAYER = "layer"
ROLES = ("mlp.in", "mlp.up", "mlp.out", BLOCK, LAYER)
"""`mlp.in`: `gate_proj` where the MLP is gated, else its first linear; `mlp.up`: `up_proj`, else the first linear;
`mlp.out`: `down_proj` or the second linear.  These are there where the layer has such a linear.  `mlp`: the whole block, what
enters it → what leaves it, whatever is inside (experts, a fused linear, a mixer); every layer has it.  `layer`: the
whole decoder layer, what enters it → what leaves it."""


@dataclass(frozen=True, order=True)
class Site:
    """One linear layer, one MLP block or one decoder layer, whose output an edit may change.

    A dotted path would differ from family to family and between transformers versions; layer and role do not.

    Args:
        layer: 0-based index of the decoder layer; negative counts from the end.
        role: one of `ROLES`.
    """

    layer: int
    role: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise UnknownNameError("site role", self.role, ROLES)

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """Reads "31.mlp.up" or "-1.mlp.out".

        Raises:
            InputError: the text is not `<layer>.<role>` with a known role.
        """
        if isinstance(text, Site):
            return text
        layer, _, role = str(text).strip().partition(".")
        try:
            number = int(layer)
        except ValueError:
            raise InputError(
                f"site '{text}' does not start with a layer number. Write <layer>.<role>, e.g. '-1.mlp.out'; "
                f"roles: {', '.join(ROLES)}."
            ) from None
        return cls(number, role)

    def resolve(self, n_layers: int) -> Site:
        """The same site with a non-negative layer.

        Raises:
            InputError: the model has no such layer.
        """
        layer = self.layer + n_layers if self.layer < 0 else self.layer
        if not 0 <= layer < n_layers:
            raise InputError(
                f"site '{self}': the model has {n_layers} decoder layers; "
                f"the layer must lie in {-n_layers}..{n_layers - 1}."
            )
        return replace(self, layer=layer)

    def __str__(self) -> str:
        return f"{self.layer}.{self.role}"
