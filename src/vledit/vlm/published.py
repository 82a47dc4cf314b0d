"""`Published`: the sizes of a checkpoint that others have published, as data, so that its needs are known without it."""

from __future__ import annotations

from dataclasses import dataclass

COUNTED = "the published configuration, written down by hand and counted without weights"
DERIVED = "transformers' default configuration of the type, counted without weights"
ASSUMED = "assumed: written down from memory, not read off the checkpoint's own config.json; take it as an estimate"
"""What a `source` says."""


@dataclass(frozen=True)
class Published:
    """One published checkpoint of a family.  All counts are those of the checkpoint that is loaded, vision part included.

    Args:
        hub_id: Hugging Face id, e.g. "Salesforce/blip2-opt-2.7b"; for a model that has to be converted, the id or name of
            what it is made of.
        parameters: of the whole model; a weight that two modules share counts once.
        hidden: width H of the language model's hidden states.
        intermediate: width of its MLP.
        layers: number of its decoder layers.
        vocabulary: rows of its embedding.
        visual_tokens: tokens that one picture of the model's own input size becomes (a common size where it has none).
        names: short names that `load` takes for it; the first is the one that lists show, the others are aliases.
        tied: the vocabulary projection shares the embedding's weight.
        linear: parameters in the weights of linear layers, the vocabulary projection left out: what 8-bit and 4-bit
            loading shrinks.  None: taken to be all that is neither embedding nor vocabulary projection.
        kv_width: numbers per token and layer in the keys of the cache (heads × their width); None: H, no grouped queries.
        float32: parameters that stay float32 when the model is loaded in float16 (and, `float32_always` of them, in bfloat16).
        float32_always: see `float32`.
        convert: name of the `vledit convert` command that makes it; None: it is published in Hugging Face form.
        source: where the numbers are from, e.g. "config.json of the checkpoint, counted on the meta device".

    Raises:
        ValueError: a count that is not positive.
    """

    hub_id: str
    parameters: int
    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    visual_tokens: int
    names: tuple[str, ...] = ()
    tied: bool = False
    linear: int | None = None
    kv_width: int | None = None
    float32: int = 0
    float32_always: int = 0
    convert: str | None = None
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("parameters", "hidden", "intermediate", "layers", "vocabulary", "visual_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"'{self.hub_id}': {name} is {getattr(self, name)}; it must be positive")

    @property
    def shrinkable(self) -> int:
        """Parameters that 8-bit and 4-bit loading shrinks; an upper bound where `linear` is not given."""
        if self.linear is not None:
            return self.linear
        return self.parameters - self.vocabulary * self.hidden * (1 if self.tied else 2)
