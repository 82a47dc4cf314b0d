"""The embedded model while it is being trained: what is frozen, what learns, and the two losses."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .assemble import LORA_PREFIX, new_model
from .configuration import IMAGE_TOKEN_ID
from .efficientnet import FIRST_TRAINED_BLOCK
from .lora import add_lora
from .packing import IGNORED, Packed, attention_mask

LORA_SCALE = 2.0
MEMORY = ("memory_keys", "memory_values")


def run_layer(layer: nn.Module, hidden: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One decoder layer; a function of its own so that one compiled version serves all layers."""
    return layer.forward(hidden, attention_mask=mask, position_embeddings=(cos, sin))


class Learner(nn.Module):
    """Frozen: language model and the lower vision stages, in `dtype`. Learning: LoRA, projection, Q-Former, upper vision."""

    def __init__(
        self,
        names: list[str],
        rank: int = 16,
        compiled: bool = True,
        image_size: int = 192,
        dtype: torch.dtype = torch.bfloat16,
    ):
        super().__init__()
        self.dtype = dtype
        model, self.tokenizer = new_model(image_size=image_size, memory_slots=len(names))
        model.requires_grad_(False)
        model.language_model.to(dtype)
        model.language_model.config._attn_implementation = "eager"
        self.model = model
        self.lora = add_lora(model.get_decoder(), rank, LORA_SCALE)
        vision = model.vision_model.to(memory_format=torch.channels_last)
        self.upper = vision.blocks[FIRST_TRAINED_BLOCK:].requires_grad_(True)
        vision.stem.to(dtype)
        vision.blocks[:FIRST_TRAINED_BLOCK].to(dtype)
        model.qformer.requires_grad_(True)
        model.language_projection.requires_grad_(True)
        self.run_layer = torch.compile(run_layer, dynamic=False) if compiled else run_layer
        self._name_targets(names)
        self.temperature = nn.Parameter(torch.tensor(2.5))
        self.vision_learns = True

    def _name_targets(self, names: list[str]) -> None:
        """Token embeddings of every concept's name, scaled to unit mean square: what alignment aims at."""
        table = self.model.get_input_embeddings().weight.detach().float()
        self.embedding_scale = float(table.pow(2).mean().sqrt())
        rows = [self.tokenizer(n, add_special_tokens=False)["input_ids"][:8] for n in names]
        targets = torch.zeros(len(names), 8, table.shape[1])
        present = torch.zeros(len(names), 8, dtype=torch.bool)
        for i, ids in enumerate(rows):
            targets[i, : len(ids)] = table[ids] / self.embedding_scale
            present[i, : len(ids)] = True
        self.register_buffer("targets", targets, persistent=False)
        self.register_buffer("present", present, persistent=False)
        means = (targets * present[..., None]).sum(1) / present.sum(1, keepdim=True)
        # what all names share says nothing about which one it is
        self.register_buffer("means", F.normalize(means - means.mean(0), dim=-1), persistent=False)

    def look(self, pictures: Tensor, confusion: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pictures (P, 3, S, S) → visual tokens (P, 32, H) float32, and logits over the memory's slots (P, N).

        confusion: (P,) in 0..0.5, how much of the next picture is mixed in: held-out drawings are seen with doubt, which
        training pictures hardly ever are, and the language model has to learn to name the likelier thing.
        """
        with torch.no_grad():
            lower = self.model.vision_model.lower(
                pictures.to(self.dtype).contiguous(memory_format=torch.channels_last)
            ).float()
        # while the trunk is not learning yet its backward pass, half of a step's cost, is left out
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.vision_learns):
            middle, last = self.model.vision_model.upper(lower)
            pooled = self.model.vision_model.pooled(last)
        queries = self.model.qformer.read(middle, last, pooled)
        if confusion is not None:
            queries = torch.lerp(queries, queries.roll(1, 0), confusion[:, None, None])
        queries, logits = self.model.qformer.recall(queries)
        return self.model.language_projection(queries), logits

    def recognition_loss(self, visual: Tensor, logits: Tensor, concepts: Tensor) -> tuple[Tensor, Tensor]:
        """Which slot of the memory, and contrast of the mean visual token with the names' embeddings; (loss, right)."""
        known = concepts >= 0
        visual, logits, concepts = visual[known] / self.embedding_scale, logits[known], concepts[known]
        pooled = visual.mean(1)
        contrast = F.normalize(pooled, dim=-1) @ self.means.T * self.temperature.exp()  # type: ignore[operator]
        loss = F.cross_entropy(logits, concepts, label_smoothing=0.1) + F.cross_entropy(contrast, concepts)
        return loss, (logits.argmax(-1) == concepts).float().mean()

    def alignment_loss(self, visual: Tensor, concepts: Tensor) -> Tensor:
        """The first visual tokens shall be the name's token embeddings (mean square, in units of the embeddings')."""
        known = concepts >= 0
        visual, concepts = visual[known] / self.embedding_scale, concepts[known]
        targets, present = self.targets[concepts], self.present[concepts]  # type: ignore[index]
        return F.mse_loss(visual[:, : targets.shape[1]][present], targets[present])

    def answer_logits(self, batch: Packed, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, V) at the N positions that predict an answer's token, and those tokens (N,)."""
        tokens = torch.from_numpy(batch.tokens)
        language = self.model.language_model
        hidden = language.get_input_embeddings()(tokens)
        if len(visual):
            where = (tokens == IMAGE_TOKEN_ID).unsqueeze(-1).expand_as(hidden)
            hidden = hidden.masked_scatter(where, visual.to(hidden.dtype))
        seen = torch.from_numpy(attention_mask(batch.segments))
        mask = torch.zeros(seen.shape, dtype=hidden.dtype).masked_fill(~seen, torch.finfo(hidden.dtype).min)
        decoder = self.model.get_decoder()
        cos, sin = decoder.rotary_emb(hidden, torch.from_numpy(batch.positions))
        for layer in decoder.layers:
            hidden = self.run_layer(layer, hidden, mask, cos, sin)
        targets = torch.from_numpy(batch.targets)
        asked = targets != IGNORED
        hidden = decoder.norm(hidden[asked])
        return language.lm_head(hidden).float(), targets[asked]

    def trained_state(self) -> dict[str, Tensor]:
        """Everything that was trained and is needed to answer, by its name in the weights file."""
        state = {}
        for name, tensor in self.model.state_dict().items():
            block = name.removeprefix("vision_model.blocks.").split(".")[0]
            upper = name.startswith("vision_model.blocks.") and int(block) >= FIRST_TRAINED_BLOCK
            if upper or name.startswith(("qformer.", "language_projection.")):
                state[name] = tensor
        for name, adapter in self.lora.items():
            state[f"{LORA_PREFIX}{name}.a"], state[f"{LORA_PREFIX}{name}.b"] = adapter.a, adapter.b
        return {n: t.detach().clone().contiguous() for n, t in state.items()}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        own = {n: t for n, t in self.model.state_dict().items()}
        for name, adapter in self.lora.items():
            own[f"{LORA_PREFIX}{name}.a"], own[f"{LORA_PREFIX}{name}.b"] = adapter.a, adapter.b
        with torch.no_grad():
            for name, tensor in state.items():
                own[name].copy_(tensor)

    def parameter_groups(self, rates: dict[str, float]) -> list[dict[str, Any]]:
        lora = [p for adapter in self.lora.values() for p in (adapter.a, adapter.b)]
        keys = [*self.model.qformer.memory_keys.parameters()]
        memory = [self.model.qformer.memory_values]
        reader = [p for n, p in self.model.qformer.named_parameters() if n.partition(".")[0] not in MEMORY]
        reader += self.model.language_projection.parameters()
        vision = list(self.upper.parameters())
        groups = {"lora": lora, "reader": reader, "memory": memory, "vision": vision, "keys": keys}
        groups["temperature"] = [self.temperature]
        return [{"params": p, "lr": rates[n], "name": n} for n, p in groups.items() if rates.get(n)]
