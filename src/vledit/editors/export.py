"""Edits for other tools: a LoRA adapter that `peft` loads, or an ordinary Hugging Face folder with the edits in its weights.

Both act on every request.  An adapter is written only from changes that are exactly of low rank, not from an approximation, so
that it computes the same as the edited model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..codebook import SpanTransformation
from ..data.cache import write_atomic
from ..errors import InputError, MissingDataError
from ..paths import output_folder
from ..vlm.acting import VISION, is_vision
from ..vlm.site import BLOCK, LAYER
from .fitting import as_full

if TYPE_CHECKING:
    from ..codebook import Transformation
    from ..vlm.base import VLM
    from .keeping import Keeping

TOLERANCE = 1e-6
"""Of low rank is a matrix that its factors give back to this part of its size: the rounding of float32."""
FIRST_RANK = 16


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        folder: where.
        ranks: path of each changed linear below the Hugging Face model → rank of its change; empty for a merged model.
    """

    folder: Path
    ranks: Mapping[str, int]


def peft_adapter(edited: Keeping, folder: str | Path, entry: str | None = None) -> Exported:
    """See `EditedModel.export_peft`."""
    vlm = edited.vlm
    changes = _changes(edited, entry)
    _no_adapters(vlm, "export_peft")
    lora_config = _lora_config()
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for point, change in changes.items():
        path, read, write = _pair(vlm, point, change)
        if len(read):
            pairs[path] = read, write
    if not pairs:
        raise InputError(
            "export_peft: these edits change nothing (the base gives their answers), so there is no adapter."
        )
    folder = output_folder(folder, "export_peft")
    ranks = {path: len(read) for path, (read, _) in pairs.items()}
    most = max(ranks.values())
    other = {path: rank for path, rank in ranks.items() if rank != most}
    config = lora_config(
        base_model_name_or_path=_base_name(vlm),
        target_modules=sorted(ranks),
        r=most,
        lora_alpha=most,  # a strength of 1 everywhere
        rank_pattern=other,
        alpha_pattern=other,
        lora_dropout=0.0,
        inference_mode=True,
    )
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for path, (read, write) in pairs.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = read.detach().float().cpu().contiguous().clone()
        tensors[f"base_model.model.{path}.lora_B.weight"] = write.detach().float().cpu().contiguous().clone()
    write_atomic(folder / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    config.save_pretrained(str(folder))
    write_atomic(folder / "README.md", _card(edited, entry, ranks).encode())
    return Exported(folder, ranks)


def merged(edited: Keeping) -> Any:
    """See `EditedModel.merge`."""
    vlm = edited.vlm
    if len(edited.codebook) or any(map(len, edited.memories.values())):
        raise InputError("merge: codebook entries act on some requests only; they cannot be merged into weights.")
    with vlm.lock:
        names = {id(module): name for name, module in vlm.model.named_modules()}
        weights = {}
        for point, change in edited.always.items():
            try:
                name = names[id(point_weight(vlm, point))]  # first: why there is no weight to change says the most
                weights[name] = as_full(change).weight_delta
            except InputError as error:
                raise InputError(f"merge: {error}") from None
        model = copy.deepcopy(vlm.model)
        for name, delta in weights.items():
            weight = model.get_submodule(name).weight
            with torch.no_grad():
                weight.add_(delta.to(weight))
    return model


def merged_folder(edited: Keeping, folder: str | Path) -> Exported:
    """See `EditedModel.export_merged`."""
    _no_adapters(edited.vlm, "export_merged")
    model = merged(edited)
    folder = output_folder(folder, "export_merged")
    model.save_pretrained(folder)
    edited.vlm.processor.save_pretrained(folder)
    return Exported(folder, {})


def point_weight(vlm: VLM, point: str) -> nn.Module:
    """The linear whose weight is changed at a point.  Raises: InputError where there is no such weight."""
    if is_vision(point):
        return vlm.vision_linears()[point.removeprefix(VISION)]
    vlm.site_weight(point)
    return vlm.site_module(point)


# --- what can be written as LoRA ------------------------------------------------------------------------------------------


def _changes(edited: Keeping, entry: str | None) -> Mapping[str, Transformation]:
    if entry is not None:
        found = edited.codebook.get(entry)
        return {found.site: found.transformation.to("cpu")}
    held = [f"{len(edited.codebook)} codebook entries"] if len(edited.codebook) else []
    held += [f"{len(memory)} edits of {name}" for name, memory in edited.memories.items() if len(memory)]
    if held:
        raise InputError(
            f"export_peft: this model holds {' and '.join(held)}, which act on some requests only; an adapter acts on all. "
            "Remove them first, or name one entry (entry=, --id) whose change shall act on every request."
        )
    if not edited.always:
        raise InputError("export_peft: there are no weight edits here. Make one with 'ft', 'ft_v' or 'mend'.")
    return edited.always


def _pair(vlm: VLM, point: str, change: Transformation) -> tuple[str, Tensor, Tensor]:
    """The linear's path, and its change as (r, in) and (out, r).  Raises: InputError for what LoRA cannot hold."""
    change = change.load() if hasattr(change, "load") else change  # type: ignore[attr-defined]
    module, half = _linear(vlm, point, change)
    if isinstance(change, SpanTransformation):
        read, write = change.inputs, change.directions
    else:
        read, write = factors(as_full(change).weight_delta, f"export_peft: the change at '{point}'")
    if half is not None:  # gate and up in one linear: nothing is written to the other half
        other = torch.zeros_like(write)
        write = torch.cat([write, other] if half == 0 else [other, write])
    names = {id(one): name for name, one in vlm.model.named_modules()}
    return names[id(module)], read, write


def _linear(vlm: VLM, point: str, change: Transformation) -> tuple[nn.Module, int | None]:
    if is_vision(point):
        return vlm.vision_linears()[point.removeprefix(VISION)], None
    site = vlm.resolve_site(point)
    place = vlm.site_place(site)
    if site.role in (BLOCK, LAYER):
        reason = (
            f"'{point}' is a whole {'MLP block' if site.role == BLOCK else 'layer'}, and LoRA stands beside linears"
        )
    elif change.kind not in ("span", "full"):
        reason = f"a change of the kind '{change.kind}' at '{point}' is not linear"
    elif getattr(change, "bias_delta", None) is not None:
        reason = f"the change at '{point}' has a bias of its own"
    elif place.entry is not place.exit:
        reason = f"'{point}' is not one linear"
    else:
        return place.exit, place.half
    raise InputError(f"export_peft: {reason}. Edit a linear, e.g. '-1.mlp.out', or use `attached`.")


def factors(delta: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """A matrix (out, in) of low rank as its factors (r, in) and (out, r), to the rounding of float32.

    Source: the range finder of Halko, Martinsson and Tropp, SIAM Review 2011, Algorithm 4.2, until nothing is left over.

    Raises: InputError where the factors would hold as many numbers as the matrix.
    """
    whole = delta.detach().double().cpu()
    out, inputs = whole.shape
    size, limit = whole.norm(), (out * inputs - 1) // (out + inputs)
    if not size:
        return whole.new_zeros(0, inputs).float(), whole.new_zeros(out, 0).float()
    generator = torch.Generator().manual_seed(0)
    rank = min(FIRST_RANK, limit)
    while rank:
        basis = torch.linalg.qr(whole @ torch.randn(inputs, rank, generator=generator, dtype=whole.dtype))[0]
        read = basis.T @ whole
        if (whole - basis @ read).norm() <= TOLERANCE * size:
            left, values, right = torch.linalg.svd(read, full_matrices=False)
            kept = int((values > TOLERANCE * values[0]).sum())
            root = values[:kept].sqrt()
            return (root[:, None] * right[:kept]).float(), (basis @ left[:, :kept] * root).float()
        if rank == limit:
            break
        rank = min(2 * rank, limit)
    raise InputError(
        f"{what} is not of low rank: as LoRA it would need more than rank {limit}, as many numbers as the weight itself has. "
        "Make the edit with transformation='span', or export the merged model."
    )


# --- around it -------------------------------------------------------------------------------------------------------------


def _no_adapters(vlm: VLM, what: str) -> None:
    for name, module in vlm.model.named_modules():
        if hasattr(module, "base_layer"):
            raise InputError(
                f"{what}: the base has an adapter in '{name}', which would not be in what is written. Merge it into the base "
                "first (peft: merge_and_unload), and make the edits on that."
            )


def _lora_config() -> Any:
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingDataError(
            f"export_peft: peft is not installed ({error}). Run: pip install 'vledit[peft]' (or: pip install peft)."
        ) from error
    return LoraConfig


def _base_name(vlm: VLM) -> str:
    asked = vlm.loaded_by or {}
    return str(asked.get("name_or_path") or getattr(vlm.model.config, "_name_or_path", "") or vlm.name)


def _card(edited: Keeping, entry: str | None, ranks: Mapping[str, int]) -> str:
    """A README for people and hubs: what the adapter changes."""
    if entry is None:
        facts = [(one.request.question, one.request.answer, one.editor) for one in edited.weights.values()]
    else:
        held = edited.codebook.get(entry)
        facts = [(held.question, held.answer, "codebook entry")]
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {_base_name(edited.vlm)}",
        "---",
        "",
        "# Edits as a LoRA adapter",
        "",
    ]
    lines += [f"Written by VLEdit for the model {edited.vlm.name}, fingerprint `{edited.vlm.fingerprint}`.", ""]
    lines += [f"- {question!r} → {answer!r} ({how})" for question, answer, how in facts]
    lines += ["", "| linear | rank |", "|---|---|", *(f"| `{path}` | {rank} |" for path, rank in ranks.items()), ""]
    return "\n".join(lines)
