"""`Site`: a linear layer or the whole MLP block of the language model, addressed by decoder layer index and role."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import InputError, UnknownNameError

BLOCK = "mlp"
LAYER = "layer"
SHARED = ("mlp.shared.in", "mlp.shared.up", "mlp.shared.out")
EXPERT = "mlp.expert."
ROLES = ("mlp.in", "mlp.up", "mlp.out", BLOCK, LAYER, *SHARED)
"""`mlp.in`: `gate_proj` where the MLP is gated, else its first linear; `mlp.up`: `up_proj`, else the first linear;
`mlp.out`: `down_proj` or the second linear.  These are there where the layer has such a linear.  `mlp`: the whole block, what
enters it → what leaves it, whatever is inside (experts, a fused linear, a mixer); every layer has it.  `layer`: the
whole decoder layer, what enters it → what leaves it.  `mlp.shared.…`: the linears of a mixture's expert that all tokens pass.

Besides these `mlp.expert.3`: a named expert of a mixture, counted from 0.  What enters it → what leaves it; a change of it
reaches the tokens that the router sends there, by the weight that the router gives them."""


_ORDER = {"mlp.in": 0, "mlp.up": 0, "mlp.out": 1, BLOCK: 2, LAYER: 3}
"""In which order the places of a layer give their outputs."""


def expert_of(role: str) -> int | None:
    """The expert that a role names; None where it names none."""
    number = role.removeprefix(EXPERT)
    return int(number) if role.startswith(EXPERT) and number.isdecimal() else None


@dataclass(frozen=True, order=True)
class Site:
    """One linear layer, one MLP block or one decoder layer, whose output an edit may change.

    A dotted path would differ from family to family and between transformers versions; layer and role do not.

    Args:
        layer: 0-based index of the decoder layer; negative counts from the end.
        role: one of `ROLES`, or `mlp.expert.<number>`.
    """

    layer: int
    role: str

    def __post_init__(self) -> None:
        if self.role not in ROLES and expert_of(self.role) is None:
            raise UnknownNameError("site role", self.role, (*ROLES, f"{EXPERT}0"))

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
                f"roles: {', '.join(ROLES)}, {EXPERT}<number>."
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

    def known_before(self, other: Site) -> bool:
        """Whether, in one pass, what goes in and out here is seen before the other site's output is changed, or together with it.

        Both with non-negative layers.  Where two sites of a layer are called in an order that differs from model to model, no.
        """
        if self == other or self.layer != other.layer:
            return self.layer <= other.layer
        if self.role not in _ORDER or other.role not in _ORDER:
            return False
        return _ORDER[self.role] < _ORDER[other.role]

    def __str__(self) -> str:
        return f"{self.layer}.{self.role}"
