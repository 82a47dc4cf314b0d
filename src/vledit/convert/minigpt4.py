"""MiniGPT-4 (Vicuna) out of its four published pieces, as one `Blip2ForConditionalGeneration` folder.

The pieces, as MiniGPT-4 itself loads them: EVA ViT-g (`eva_vit_g.pth`), BLIP-2's Q-Former (`blip2_pretrained_flant5xxl.pth`),
Vicuna v0 (a Hugging Face folder) and the projection that MiniGPT-4 trained (`pretrained_minigpt4_7b.pth`).

Two things are not as in the published pieces.  Hugging Face marks where a picture stands with a token `<image>` that Vicuna
lacks: the embedding and the vocabulary projection get a row for it, a copy of that of `<unk>`, so that the model is never
likelier to say it than `<unk>`, which it never says.  And `ln_vision` has an epsilon of 1e-5 in LAVIS, while transformers
has one for all norms of the vision part, EVA's 1e-6: a relative difference of about 5e-6 divided by the variance of what
is normalised, below the rounding of the 16-bit weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.cache import staging
from ..errors import InputError, MissingDataError
from . import folder as folders
from .naming import LANGUAGE, PROJECTION, QFORMER, VISION
from .plan import ConversionError, Piece, Plan, make_plan
from .sources import Source, open_checkpoint, open_folder

IMAGE_TOKEN = "<image>"
VISUAL = "visual_encoder."
_EMBEDDING = "language_model.model.embed_tokens.weight"
_OUTPUT = "language_model.lm_head.weight"
WITHOUT_QFORMER = 4
"""The versions without a Q-Former join this many neighbouring visual tokens before their projection."""


@dataclass(frozen=True)
class Unwritten:
    """What the shapes of the published tensors do not tell; the defaults are BLIP-2's and MiniGPT-4's.

    Args:
        vision_layers: blocks of the ViT that are run; the published file has one more.
        vision_heads: attention heads of the ViT.
        qformer_heads: attention heads of the Q-Former.
    """

    vision_layers: int = 39
    vision_heads: int = 16
    qformer_heads: int = 12


@dataclass(frozen=True)
class Pieces:
    """Where the published pieces lie.

    Args:
        qformer: BLIP-2 checkpoint in LAVIS naming; may hold the ViT as well.
        language: folder of Vicuna in Hugging Face form.
        projection: MiniGPT-4's own checkpoint.
        vision: EVA ViT-g; None where the BLIP-2 checkpoint holds it.
    """

    qformer: Path
    language: Path
    projection: Path
    vision: Path | None = None


def convert(
    pieces: Pieces,
    target: Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    shard_bytes: int = folders.SHARD_BYTES,
    unwritten: Unwritten | None = None,
    progress: folders.Progress | None = None,
) -> dict[str, Any]:
    """Writes the folder `target` and returns its manifest.  Everything is checked before anything is written.

    Args:
        dtype: "float16", "bfloat16" or "float32"; None: every tensor keeps the dtype, and so the bits, it was published in.
        overwrite: replace a folder that is there already.

    Raises:
        MissingDataError: a piece is not there or is damaged.
        ConversionError: the pieces do not account for the model tensor by tensor; each one is named.
        InputError: the target is there already, or Vicuna's folder is of another kind of model.
    """
    torch_dtype = _dtype(dtype)
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not overwrite:
        raise InputError(f"--out: '{target}' is there already. Choose another folder, or --overwrite.")
    sources = open_pieces(pieces)
    text_config = _text_config(pieces.language)
    processor = _processor(pieces.language, sources["q-former"], sources["vision"])
    config = model_config(sources, text_config, processor.tokenizer, unwritten or Unwritten())
    plan = account(sources, config, processor.tokenizer, unwritten or Unwritten())
    with staging(target, mark=folders.MARK) as folder:
        _write_settings(folder, config, processor, torch_dtype or plan.dtype(_EMBEDDING))
        files = sorted(path for path in folder.iterdir() if path.name != folders.MARK)
        shards = folders.write_weights(folder, plan, torch_dtype, shard_bytes, progress)
        files += [path for path in sorted(folder.glob("*.index.json")) if path not in files]
        manifest = {
            "format": 1,
            "family": "minigpt4",
            "vledit": __version__,
            "dtype": dtype or "as published",
            "sources": {
                source.name: folders.hashed(source.files, progress)
                for source in dict.fromkeys(sources.values())  # the ViT may be in the BLIP-2 checkpoint
            },
            "shards": folders.hashed((folder / name for name in shards), progress),
            "files": folders.hashed(files, progress),
            **folders.tensor_account(plan),
        }
        folders.write_json(folder / folders.MANIFEST, manifest)
    return manifest


def open_pieces(pieces: Pieces) -> dict[str, Source]:
    """The four sources: "vision", "q-former", "vicuna", "projection"."""
    qformer = open_checkpoint("q-former", pieces.qformer)
    holds_vision = any(name.startswith(VISUAL) for name in qformer.shapes)
    if holds_vision and pieces.vision is not None:
        raise InputError(f"--vision: '{pieces.qformer}' holds a ViT already; leave '{pieces.vision}' out.")
    if not holds_vision and pieces.vision is None:
        raise InputError(f"--vision: '{pieces.qformer}' holds no ViT (visual_encoder.…); give eva_vit_g.pth as well.")
    return {
        "vision": qformer if pieces.vision is None else open_checkpoint("vision", pieces.vision),
        "q-former": qformer,
        "vicuna": open_folder("vicuna", pieces.language),
        "projection": open_checkpoint("projection", pieces.projection),
    }


def model_config(sources: Mapping[str, Source], text_config: Any, tokenizer: Any, unwritten: Unwritten) -> Any:
    """The new model's configuration, read off the shapes of the published tensors.

    Raises:
        ConversionError: a tensor whose shape is needed is not there.
    """
    from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig

    prefix = _visual_prefix(sources)
    patch = _size(sources["vision"], f"{prefix}patch_embed.proj.weight", 4)
    positions = _size(sources["vision"], f"{prefix}pos_embed", 3)[1]
    vision = Blip2VisionConfig(
        hidden_size=patch[0],
        intermediate_size=_size(sources["vision"], f"{prefix}blocks.0.mlp.fc1.weight", 2)[0],
        num_hidden_layers=unwritten.vision_layers,
        num_attention_heads=unwritten.vision_heads,
        patch_size=patch[2],
        image_size=round((positions - 1) ** 0.5) * patch[2],
    )
    qformer, layer = sources["q-former"], "Qformer.bert.encoder.layer."
    queries = _size(qformer, "query_tokens", 3)
    crossing = _layers(qformer, rf"{re.escape(layer)}(\d+)\.crossattention\..*")
    layers = _layers(qformer, rf"{re.escape(layer)}(\d+)\..*")
    qformer_config = Blip2QFormerConfig(
        hidden_size=queries[2],
        intermediate_size=_size(qformer, f"{layer}0.intermediate_query.dense.weight", 2)[0],
        num_hidden_layers=len(layers),
        num_attention_heads=unwritten.qformer_heads,
        cross_attention_frequency=crossing[1] - crossing[0] if len(crossing) > 1 else max(len(layers), 1),
        encoder_hidden_size=patch[0],
    )
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    text_config.vocab_size = max(text_config.vocab_size, image_token + 1)
    return Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer_config.to_dict(),
        text_config=text_config.to_dict(),
        num_query_tokens=queries[1],
        image_token_index=image_token,
    )


def account(sources: Mapping[str, Source], config: Any, tokenizer: Any, unwritten: Unwritten) -> Plan:
    """Which published tensors the new model is made of.

    Raises:
        ConversionError: naming every tensor that is missing, unknown, there twice or of another size.
    """
    from accelerate import init_empty_weights
    from transformers import Blip2ForConditionalGeneration

    _check_projection(sources["projection"], config)
    with init_empty_weights():
        model = Blip2ForConditionalGeneration(config)
    sizes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    prefix = _visual_prefix(sources)
    layers = ("vision_model.encoder.layers.", unwritten.vision_layers)
    pieces = [
        Piece(sources["vision"], VISION, prefix=prefix, last_layers=layers),
        Piece(sources["q-former"], QFORMER, not_prefix=VISUAL),
        Piece(sources["projection"], PROJECTION),
        Piece(sources["vicuna"], LANGUAGE),
    ]
    unknown = getattr(tokenizer, "unk_token_id", None) or 0
    return make_plan(pieces, sizes, {_EMBEDDING: unknown, _OUTPUT: unknown})


def _check_projection(source: Source, config: Any) -> None:
    """Two likely mix-ups in words; anything else is told by `make_plan`."""
    shape = source.shapes.get("llama_proj.weight")
    if shape is None or len(shape.size) != 2:
        return
    out, inner = shape.size
    if inner == WITHOUT_QFORMER * config.vision_config.hidden_size:
        raise ConversionError(
            f"projection: '{source.files[0]}' reads {inner} numbers, four visual tokens at once: it is of a version without "
            "Q-Former (LLaMA-2, MiniGPT-v2). Give that of MiniGPT-4 with Vicuna, e.g. pretrained_minigpt4_7b.pth."
        )
    if out != config.text_config.hidden_size:
        raise ConversionError(
            f"projection: '{source.files[0]}' is made for a language model of width {out}, Vicuna's folder has one of width "
            f"{config.text_config.hidden_size}. Take both of the same size (7B: 4096, 13B: 5120)."
        )


def _visual_prefix(sources: Mapping[str, Source]) -> str:
    return VISUAL if sources["vision"] is sources["q-former"] else ""


def _size(source: Source, name: str, dimensions: int) -> tuple[int, ...]:
    shape = source.shapes.get(name)
    if shape is None or len(shape.size) != dimensions:
        state = "is missing" if shape is None else f"has {len(shape.size)} dimensions instead of {dimensions}"
        raise ConversionError(
            f"{source.name}: in '{source.files[0]}' the tensor '{name}' {state}. Is it the right file?"
        )
    return shape.size


def _layers(source: Source, pattern: str) -> list[int]:
    """The layer numbers in names of that pattern, sorted."""
    return sorted({int(found.group(1)) for name in source.shapes if (found := re.fullmatch(pattern, name))})


def _text_config(folder: Path) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise MissingDataError(
            f"vicuna: '{folder}' has no config.json. Give the folder of Vicuna in Hugging Face form."
        )
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise MissingDataError(f"vicuna: the config.json in '{folder}' cannot be read: {error}.") from error
    if config.model_type != "llama":
        raise InputError(f"vicuna: '{folder}' is a model of type '{config.model_type}'; Vicuna is of type 'llama'.")
    return config


def _processor(folder: Path, qformer: Source, vision: Source) -> Any:
    """Vicuna's tokenizer with the token `<image>`, and BLIP-2's preparation of pictures at the ViT's own size."""
    from transformers import AutoTokenizer, Blip2Processor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers and their optional readers raise whatever they like
        raise MissingDataError(f"vicuna: the tokenizer in '{folder}' cannot be read: {error}.") from error
    sources = {"vision": vision, "q-former": qformer}
    prefix = _visual_prefix(sources)
    patch = _size(vision, f"{prefix}patch_embed.proj.weight", 4)[2]
    side = round((_size(vision, f"{prefix}pos_embed", 3)[1] - 1) ** 0.5) * patch
    pictures = BlipImageProcessorPil(size={"height": side, "width": side})
    return Blip2Processor(pictures, tokenizer, num_query_tokens=_size(qformer, "query_tokens", 3)[1])


def _write_settings(folder: Path, config: Any, processor: Any, dtype: Any) -> None:
    from transformers import GenerationConfig

    config.architectures = ["Blip2ForConditionalGeneration"]
    config.dtype = dtype
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    GenerationConfig.from_model_config(config.text_config).save_pretrained(folder)


def _dtype(name: str | None) -> Any:
    if name is None:
        return None
    from ..loading import parse_dtype

    return parse_dtype(name)
