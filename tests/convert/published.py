"""Random stand-ins for what was published, small, under the published names; and what the published code computes of them.

Names and computations: LAVIS' `eva_vit.py` and `Qformer.py`, MiniGPT-4's `minigpt4.py`; written anew, in plain torch, on
the published names, so that it shares nothing with the conversion that it checks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tests.vlm.models import llama_tokenizer
from vledit.convert.minigpt4 import Pieces, Unwritten
from vledit.convert.sources import Shape, Source

State = dict[str, Tensor]
BLOCKS, HEADS, QHEADS = 3, 2, 2  # of the ViT in its file, of which one less is run
UNWRITTEN = Unwritten(vision_layers=BLOCKS - 1, vision_heads=HEADS, qformer_heads=QHEADS)


@dataclass(frozen=True)
class Sizes:
    """Dimensions of the pieces; the defaults are the miniature's, `TRUE` those that were published."""

    vision: int = 16
    vision_mlp: int = 24
    blocks: int = BLOCKS
    patch: int = 8
    side: int = 32
    qformer: int = 12
    qformer_mlp: int = 20
    qformer_layers: int = 3
    queries: int = 4
    words: int = 10
    t5: int = 9
    language: int = 32


TRUE = Sizes(1408, 6144, 40, 14, 224, 768, 3072, 12, 32, 30522, 4096, 4096)
MINIATURE = Sizes()


def eva_vit(sizes: Sizes = MINIATURE) -> dict[str, tuple[int, ...]]:
    """`eva_vit_g.pth`."""
    h, m = sizes.vision, sizes.vision_mlp
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, h),
        "pos_embed": (1, (sizes.side // sizes.patch) ** 2 + 1, h),
        "patch_embed.proj.weight": (h, 3, sizes.patch, sizes.patch),
        "patch_embed.proj.bias": (h,),
        "norm.weight": (h,),
        "norm.bias": (h,),
        "head.weight": (7, h),
        "head.bias": (7,),
    }
    for i in range(sizes.blocks):
        block = {
            "norm1.weight": (h,), "norm1.bias": (h,), "attn.q_bias": (h,), "attn.v_bias": (h,),
            "attn.qkv.weight": (3 * h, h), "attn.proj.weight": (h, h), "attn.proj.bias": (h,),
            "norm2.weight": (h,), "norm2.bias": (h,), "mlp.fc1.weight": (m, h), "mlp.fc1.bias": (m,),
            "mlp.fc2.weight": (h, m), "mlp.fc2.bias": (h,),
        }  # fmt: skip
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return shapes


def lavis(sizes: Sizes = MINIATURE, with_text: bool = False) -> dict[str, tuple[int, ...]]:
    """`blip2_pretrained_flant5xxl.pth`; with the text side and the heads of pre-training: `blip2_pretrained.pth`."""
    h, m = sizes.qformer, sizes.qformer_mlp
    shapes: dict[str, tuple[int, ...]] = {
        "query_tokens": (1, sizes.queries, h),
        "ln_vision.weight": (sizes.vision,),
        "ln_vision.bias": (sizes.vision,),
        "Qformer.bert.embeddings.position_ids": (1, 16),
        "Qformer.bert.embeddings.LayerNorm.weight": (h,),
        "Qformer.bert.embeddings.LayerNorm.bias": (h,),
    }

    def linear(name: str, out: int, inner: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, inner), (out,)

    def norm(name: str) -> None:
        shapes[f"{name}.LayerNorm.weight"] = shapes[f"{name}.LayerNorm.bias"] = (h,)

    for i in range(sizes.qformer_layers):
        layer = f"Qformer.bert.encoder.layer.{i}"
        for kind, inner in (("attention", h), *([("crossattention", sizes.vision)] if i % 2 == 0 else [])):
            linear(f"{layer}.{kind}.self.query", h, h)
            linear(f"{layer}.{kind}.self.key", h, inner)
            linear(f"{layer}.{kind}.self.value", h, inner)
            linear(f"{layer}.{kind}.output.dense", h, h)
            norm(f"{layer}.{kind}.output")
        for side in ("_query", *([""] if with_text else [])):
            linear(f"{layer}.intermediate{side}.dense", m, h)
            linear(f"{layer}.output{side}.dense", h, m)
            norm(f"{layer}.output{side}")
    if not with_text:
        linear("t5_proj", sizes.t5, h)
        return shapes
    shapes["Qformer.bert.embeddings.word_embeddings.weight"] = (sizes.words, h)
    shapes["Qformer.bert.embeddings.position_embeddings.weight"] = (16, h)
    shapes["Qformer.cls.predictions.bias"] = (sizes.words,)
    linear("Qformer.cls.predictions.transform.dense", h, h)
    norm("Qformer.cls.predictions.transform")
    linear("Qformer.cls.predictions.decoder", sizes.words, h)
    for head, out in (("vision_proj", 8), ("text_proj", 8), ("itm_head", 2)):
        linear(head, out, h)
    shapes["temp"] = ()
    return shapes


def projection(sizes: Sizes = MINIATURE) -> dict[str, tuple[int, ...]]:
    """`pretrained_minigpt4_7b.pth`: what MiniGPT-4 trained, and a buffer of Vicuna's that is saved with it."""
    return {
        "llama_proj.weight": (sizes.language, sizes.qformer),
        "llama_proj.bias": (sizes.language,),
        "llama_model.model.layers.0.self_attn.rotary_emb.inv_freq": (4,),
    }


def filled(shapes: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype = torch.float32) -> State:
    """Random values, large enough that every tensor matters to the result."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("position_ids"):
            state[name] = torch.arange(shape[1])[None]
            continue
        values = torch.randn(shape, generator=generator) * (0.25 if len(shape) > 1 else 0.1)
        if len(shape) == 1 and name.endswith("weight"):
            values = values + 1
        state[name] = values.to(dtype)
    return state


def shapes_only(name: str, shapes: dict[str, tuple[int, ...]]) -> Source:
    """A source that has names and shapes and nothing to read."""

    def read(key: str) -> Tensor:
        raise AssertionError(f"{key} was read")

    return Source(name, [Path(name)], {k: Shape(v, torch.float16) for k, v in shapes.items()}, read)


def write_vicuna(folder: Path, kind: str = "bin", **settings: object) -> LlamaForCausalLM:
    """A random Llama with a tokenizer, as an old Hugging Face folder: two shards, with rotary buffers in them."""
    tokenizer = llama_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(**{**sizes, **tokens, "max_position_embeddings": 256, **settings})
    torch.manual_seed(3)
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5 if "lm_head" in name or "embed" in name else 0.2)
        parameter.data = parameter.data.half().float()  # not `model.half()`: it would round the rotary frequencies too
    config.dtype = torch.float16
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    for layer in range(config.num_hidden_layers):
        state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    names = sorted(state)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    stem, end, index = {
        "bin": ("pytorch_model", "bin", "pytorch_model.bin.index.json"),
        "safetensors": ("model", "safetensors", "model.safetensors.index.json"),
    }[kind]
    where = {}
    for number, half in enumerate(halves, 1):
        file = f"{stem}-{number:05d}-of-00002.{end}"
        part = {name: state[name] for name in half}
        torch.save(part, folder / file) if kind == "bin" else save_file(part, folder / file)
        where |= dict.fromkeys(half, file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return model


@dataclass
class Published:
    """The miniature pieces on disk, and in memory for the reference."""

    folder: Path
    vision: State
    qformer: State
    projection: State
    vicuna: LlamaForCausalLM

    @property
    def pieces(self) -> Pieces:
        return Pieces(
            qformer=self.folder / "blip2_pretrained_flant5xxl.pth",
            language=self.folder / "vicuna",
            projection=self.folder / "pretrained_minigpt4.pth",
            vision=self.folder / "eva_vit_g.pth",
        )

    def save(self) -> Published:
        """Writes the three checkpoints anew, as they are now."""
        torch.save(self.vision, self.pieces.vision)
        torch.save({"model": self.qformer}, self.pieces.qformer)
        torch.save({"model": self.projection, "epoch": 4, "config": {"run": {"seed": 42}}}, self.pieces.projection)
        return self


def publish(folder: Path, kind: str = "bin", with_text: bool = False) -> Published:
    """Writes all pieces: ViT and Vicuna in float16, the rest in float32, as they were published."""
    vicuna = write_vicuna(folder / "vicuna", kind)
    states = filled(eva_vit(), 1, torch.float16), filled(lavis(with_text=with_text), 2), filled(projection(), 4)
    return Published(folder, *states, vicuna).save()


# --- what the published code computes -------------------------------------------------------------------------------


def pixels(picture: Image.Image, side: int = MINIATURE.side) -> Tensor:
    """(1, 3, side, side): LAVIS' evaluation transform, bicubic to the ViT's size, CLIP's mean and deviation."""
    small = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.array(small)).float().permute(2, 0, 1) / 255
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return ((values - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None])[None]


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """(T, H), (S, H), (S, H) → (T, H)."""
    out = []
    for head in range(heads):
        part = slice(head * q.shape[1] // heads, (head + 1) * q.shape[1] // heads)
        scores = q[:, part] @ k[:, part].T / (q.shape[1] // heads) ** 0.5
        out.append(scores.softmax(-1) @ v[:, part])
    return torch.cat(out, 1)


def see(state: State, values: Tensor, blocks: int = BLOCKS - 1) -> Tensor:
    """(1, 3, side, side) → (tokens, H): EVA ViT-g without its last block."""
    s = {name: tensor.float() for name, tensor in state.items()}
    stride = s["patch_embed.proj.weight"].shape[-1]
    patches = F.conv2d(values, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=stride)
    x = torch.cat([s["cls_token"][0], patches[0].flatten(1).T]) + s["pos_embed"][0]
    width = (x.shape[1],)
    for i in range(blocks):
        b = {name.removeprefix(f"blocks.{i}."): t for name, t in s.items() if name.startswith(f"blocks.{i}.")}
        y = F.layer_norm(x, width, b["norm1.weight"], b["norm1.bias"], 1e-6)
        bias = torch.cat([b["attn.q_bias"], torch.zeros_like(b["attn.v_bias"]), b["attn.v_bias"]])
        q, k, v = F.linear(y, b["attn.qkv.weight"], bias).chunk(3, dim=1)
        x = x + F.linear(_attend(q, k, v, HEADS), b["attn.proj.weight"], b["attn.proj.bias"])
        y = F.layer_norm(x, width, b["norm2.weight"], b["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
        x = x + F.linear(y, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
    return x


LN_VISION_EPS = 1e-5


def query(s: State, seen: Tensor, eps: float = LN_VISION_EPS) -> Tensor:
    """(tokens, H) → (queries, Q): ln_vision and the Q-Former's query side."""
    seen = F.layer_norm(seen, (seen.shape[1],), s["ln_vision.weight"], s["ln_vision.bias"], eps)
    width = (s["query_tokens"].shape[2],)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, width, s[f"{name}.LayerNorm.weight"], s[f"{name}.LayerNorm.bias"], 1e-12)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])

    def attention(x: Tensor, other: Tensor, name: str) -> Tensor:
        q, k, v = (linear(y, f"{name}.self.{n}") for y, n in ((x, "query"), (other, "key"), (other, "value")))
        return norm(linear(_attend(q, k, v, QHEADS), f"{name}.output.dense") + x, f"{name}.output")

    x = norm(s["query_tokens"][0], "Qformer.bert.embeddings")
    for i in range(MINIATURE.qformer_layers):
        layer = f"Qformer.bert.encoder.layer.{i}"
        x = attention(x, x, f"{layer}.attention")
        if i % 2 == 0:
            x = attention(x, seen, f"{layer}.crossattention")
        y = linear(F.gelu(linear(x, f"{layer}.intermediate_query.dense")), f"{layer}.output_query.dense")
        x = norm(y + x, f"{layer}.output_query")
    return x


@torch.no_grad()
def speak(
    published: Published, picture: Image.Image, ids: list[int], image_at: list[bool], eps: float = LN_VISION_EPS
) -> Tensor:
    """(T, V): Vicuna's logits with the picture's tokens in their places; V is the published vocabulary."""
    proj = published.projection
    seen = query(published.qformer, see(published.vision, pixels(picture)), eps)
    visual = iter(F.linear(seen, proj["llama_proj.weight"], proj["llama_proj.bias"]))
    table = published.vicuna.get_input_embeddings().weight
    rows = [next(visual) if here else table[token] for token, here in zip(ids, image_at, strict=True)]
    return published.vicuna(inputs_embeds=torch.stack(rows)[None]).logits[0]
