"""`load`: from a name, a folder or a Hugging Face id to a model that can be edited."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError, MissingDataError, UnknownNameError
from .vlm import registry

if TYPE_CHECKING:
    import torch

    from .editors.edited_model import EditedModel
    from .vlm.base import VLM

POCKET = "pocket"
DTYPES = ("float32", "bfloat16", "float16")


def load(
    name_or_path: str | Path = POCKET,
    device: str = "cpu",
    dtype: str | torch.dtype = "float32",
    codebook: Any = None,
) -> EditedModel:
    """Loads a vision-language model, ready to be asked and edited.

    Args:
        name_or_path: "pocket" (the embedded model, built at first use), a short name such as "blip2-opt-2.7b", a local
            Hugging Face folder, or a Hugging Face id.
        device: "cpu", "cuda", "cuda:1", ..., or "auto" (the accelerator where there is one).
        dtype: what the weights are loaded in.
        codebook: a `Codebook` of earlier edits, or None to start without any.

    Raises:
        MissingDataError: there is no such folder, no connection, or weights are missing from the checkpoint.
        InputError: an unknown device or dtype, or a model of no known family.
    """
    from .editors.edited_model import EditedModel

    return EditedModel(load_vlm(name_or_path, device, dtype), codebook=codebook)


def load_vlm(
    name_or_path: str | Path = POCKET,
    device: str = "cpu",
    dtype: str | torch.dtype = "float32",
    max_answer_tokens: int = 64,
) -> VLM:
    """Loads the frozen model by itself; see `load`."""
    from .vlm.base import VLM

    torch_device, torch_dtype = _device(device), _dtype(dtype)
    name = str(name_or_path)
    source = _source(name)
    for (
        known
    ) in registry.family_names():  # classes of our own have to be known to transformers before it reads a config
        if prepare := registry.family(known).prepare:
            prepare()
    from transformers import AutoConfig, AutoProcessor

    config = _read(name, source, AutoConfig.from_pretrained, source)
    family = registry.family_of(config)
    load_processor = family.load_processor or (lambda source, config: AutoProcessor.from_pretrained(source))
    processor = _read(name, source, load_processor, source, config)
    model, report = _read(
        name, source, family.load_class().from_pretrained, source, dtype=torch_dtype, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise MissingDataError(
            f"checkpoint '{name}' lacks {len(missing)} weights, e.g. {', '.join(missing[:3])}. "
            "It is damaged or of another model; get it again."
        )
    return VLM(model.to(torch_device), processor, family, name=name, max_answer_tokens=max_answer_tokens)


def _source(name: str) -> str:
    """The local folder or the Hugging Face id that a name means."""
    if name == POCKET:
        from .pocket.assemble import ensure_pocket

        return str(ensure_pocket(progress=True))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(
                f"model: the folder '{name}' has no config.json; give the folder of a Hugging Face checkpoint."
            )
        return str(path)
    known = registry.checkpoints()
    if name in known:
        return known[name]
    if path.is_absolute() or name.startswith((".", "~")):
        raise MissingDataError(f"model: there is no folder '{name}'. Check the path.")
    if name.count("/") != 1:
        raise UnknownNameError("model", name, [POCKET, *known])
    return name


def _read(name: str, source: str, read: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a `from_pretrained`, turning what goes wrong into words about the model."""
    try:
        return read(*args, **kwargs)
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise whatever the many readers behind `from_pretrained` raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = f"folder '{source}'" if Path(source).is_dir() else f"'{source}' (Hugging Face)"
        raise MissingDataError(f"model '{name}': cannot be read from {where}: {reason}") from error


def _device(device: str) -> torch.device:
    import torch

    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator if accelerator is not None else torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device '{device}' cannot be used ({reason}). Use 'cpu' or 'auto'.") from None
    return chosen


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    import torch

    if isinstance(dtype, torch.dtype):
        if not dtype.is_floating_point:
            raise InputError(f"dtype {dtype} cannot hold weights. Known: {', '.join(DTYPES)}.")
        return dtype
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", str(dtype), DTYPES)
    return getattr(torch, dtype)
