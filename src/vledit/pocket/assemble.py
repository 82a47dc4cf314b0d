"""Puts the embedded model together: third-party weights from their packages, our trained weights from this package.

The result is an ordinary Hugging Face folder in the cache; it is built once, written to a temporary folder and moved into
place, so that an interrupted build leaves nothing behind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..data.cache import cache_root, sha256_file, staging
from ..errors import MissingDataError
from .packages import EFFICIENTNET, SMOLLM2, fetch

WEIGHTS = Path(__file__).parent / "weights" / "pocket.safetensors"
"""The weights that we trained: Q-Former, projection, upper vision stages, LoRA factors (bfloat16)."""

LORA_PREFIX = "lora."
LEFTOVERS = "*.tmp*"
"""Temporary folders in the cache: a build that was killed leaves them, whatever it was to become."""


def base_language_model() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder (bfloat16), converted from its GGUF file at first use."""
    target = cache_root() / "pocket" / f"smollm2-{SMOLLM2.sha256[:12]}"
    if (target / "model.safetensors").exists():
        return target
    source = fetch(SMOLLM2)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    quiet()
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    settings = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    # the loaded model refuses to be saved (it counts as quantised): a fresh one takes its values
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(loaded.state_dict())
    with staging(target, leftovers=LEFTOVERS) as folder:
        model.to(dtype=torch.bfloat16).save_pretrained(folder)  # type: ignore[call-arg]
        tokenizer.save_pretrained(folder)
        name_image_token(folder / "tokenizer.json")
    return target


def name_image_token(path: Path) -> None:
    """Renames the never-used special token 16 to `<image>` in a saved tokenizer."""
    from .configuration import IMAGE_TOKEN, IMAGE_TOKEN_ID

    data = json.loads(path.read_text())
    token = next(t for t in data["added_tokens"] if t["id"] == IMAGE_TOKEN_ID)
    old = token["content"]
    token["content"] = IMAGE_TOKEN
    vocabulary = data["model"]["vocab"]
    if vocabulary.get(old) == IMAGE_TOKEN_ID:
        data["model"]["vocab"] = {(IMAGE_TOKEN if k == old else k): v for k, v in vocabulary.items()}
    path.write_text(json.dumps(data, ensure_ascii=False))


def new_model(dtype: Any = None, image_size: int = 192, memory_slots: int = 0) -> tuple[Any, Any]:
    """A model with third-party weights below and above and fresh Q-Former and projection; (model, tokenizer)."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from .configuration import PocketConfig
    from .efficientnet import fold_published
    from .modeling import PocketForConditionalGeneration

    folder = base_language_model()
    text_config = LlamaConfig.from_pretrained(folder)
    config = PocketConfig(text_config=text_config, image_size=image_size, memory_slots=memory_slots)
    model = PocketForConditionalGeneration(config)
    language = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.language_model.load_state_dict(language.state_dict())
    published = torch.load(fetch(EFFICIENTNET), weights_only=True, map_location="cpu")
    model.vision_model.load_state_dict(fold_published(published))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return (model.to(dtype) if dtype is not None else model), tokenizer


def ensure_pocket(progress: bool = True, weights: Path | None = None) -> Path:
    """The folder of the assembled embedded model, built at first use (about a minute).

    Raises: MissingDataError where the trained weights are not there or do not fit, naming every tensor that does not.
    """
    weights = weights or WEIGHTS
    if not weights.exists():
        raise MissingDataError(f"no trained weights at {weights}; train them with 'vledit train-pocket'")
    digest = sha256_file(weights)[:12]
    target = cache_root() / "pocket" / f"model-{digest}"
    if (target / "model.safetensors").exists():
        return target
    if progress:
        from rich.console import Console

        Console(stderr=True).print("assembling the embedded model (once, about a minute) …")
    quiet()
    import torch
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        trained = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings = json.loads(file.metadata()["settings"])
    slots = trained.get("qformer.memory_values")
    model, tokenizer = new_model(memory_slots=len(slots) if slots is not None else 0)
    load_trained(model, trained, settings["lora_scale"])
    model.config.weights_id = digest
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id
    model.generation_config.pad_token_id = model.config.text_config.pad_token_id
    with staging(target, leftovers=LEFTOVERS) as folder:
        model.to(torch.bfloat16).save_pretrained(folder)
        new_processor(tokenizer, model.config).save_pretrained(folder)
    return target


def load_trained(model: Any, trained: dict[str, Any], lora_scale: float) -> None:
    """Puts our trained tensors into a model fresh from `new_model`; LoRA factors are added to the base weights.

    Raises: MissingDataError naming the missing and surplus tensors.
    """
    from .lora import merged_weight

    own = model.state_dict()
    decoder = model.get_decoder()
    unknown, seen = [], set()
    pairs: dict[str, dict[str, Any]] = {}
    for name, tensor in trained.items():
        if name.startswith(LORA_PREFIX):
            module, factor = name.removeprefix(LORA_PREFIX).rsplit(".", 1)
            pairs.setdefault(module, {})[factor] = tensor
        elif name in own and own[name].shape == tensor.shape:
            own[name].copy_(tensor)
            seen.add(name)
        else:
            unknown.append(name)
    ours = ("qformer.", "language_projection.")
    missing = [n for n, t in own.items() if n.startswith(ours) and n not in seen and t.numel()]
    if unknown or missing:
        raise MissingDataError(f"trained weights do not fit this model: surplus {unknown}, missing {missing}")
    for module, factors in pairs.items():
        index, name = module.split(".")
        layer = decoder.layers[int(index)]
        block = layer.self_attn if hasattr(layer.self_attn, name) else layer.mlp
        weight = getattr(block, name).weight
        # rounded to bfloat16 as it will be saved, from sums that do not depend on the machine
        weight.data = merged_weight(weight.data, factors["a"], factors["b"], lora_scale)


def new_processor(tokenizer: Any, config: Any) -> Any:
    from .processing import PocketImageProcessor, PocketProcessor

    return PocketProcessor(PocketImageProcessor(config.image_size), tokenizer, config.num_query_tokens)


def quiet() -> None:
    """Silences transformers' own progress bars and advice."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
