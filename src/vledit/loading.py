"""`load`: from a name, a folder or a Hugging Face id to a model that can be edited."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import adapters, hub
from . import quantization as quantizing
from .errors import InputError, MissingDataError, UnfitModelError, UnknownNameError
from .paths import local
from .vlm import registry

if TYPE_CHECKING:
    import torch

    from .editors.edited_model import EditedModel
    from .vlm.base import VLM
    from .vlm.families import Family

POCKET = "pocket"
DTYPES = ("float32", "bfloat16", "float16")
SHORT_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
DeviceMap = str | Mapping[str, Any] | None


def load(
    name_or_path: str | Path = POCKET,
    device: str = "cpu",
    dtype: str | torch.dtype = "float32",
    codebook: Any = None,
    quantization: str | None = None,
    device_map: DeviceMap = None,
    adapter: str | Path | None = None,
    trust_remote_code: bool = False,
) -> EditedModel:
    """Load a vision-language model, ready to be asked and edited.

    Args:
        name_or_path: "pocket" (the embedded model, built at first use), a short name such as "blip2-opt-2.7b", a local
            Hugging Face folder, or a Hugging Face id. For the folder of a PEFT adapter, the base that it names is loaded with it.
        device: "cpu", "cuda", "cuda:1", ..., or "auto" (the accelerator, if there is one).
        dtype: dtype of the weights: "float32", "bfloat16" ("bf16"), "float16" ("fp16") or a torch dtype.
        codebook: a `Codebook` of earlier edits, or None to start without any.
        quantization: "8bit" or "4bit" (bitsandbytes; needs `pip install 'vledit[quantization]'`); the family's default site
            and the vocabulary projection stay in `dtype`.
        device_map: "auto", or the device of each module, as in transformers; replaces `device`.
        adapter: folder or Hugging Face id of a PEFT adapter for the base (needs `pip install 'vledit[peft]'`).
        trust_remote_code: run the Python code in a checkpoint whose model or processor transformers does not know. The code runs
            with your permissions, so read it first. By default such a checkpoint is refused.

    Raises:
        MissingDataError: the folder, the connection, a package, or some of the checkpoint's weights are missing.
        InputError: an unknown device, dtype or quantization; or a model that cannot be edited, with the message of
            `vledit models --check`, before any weight is read.
    """
    from .editors.edited_model import EditedModel

    options: dict[str, Any] = {"quantization": quantization, "device_map": device_map, "adapter": adapter}
    vlm = load_vlm(name_or_path, device, dtype, **options, trust_remote_code=trust_remote_code)
    return EditedModel(vlm, codebook=codebook)


def load_vlm(
    name_or_path: str | Path = POCKET,
    device: str = "cpu",
    dtype: str | torch.dtype = "float32",
    max_answer_tokens: int = 64,
    quantization: str | None = None,
    device_map: DeviceMap = None,
    adapter: str | Path | None = None,
    trust_remote_code: bool = False,
) -> VLM:
    """Loads the frozen model by itself; see `load`."""
    from .vlm.surroundings import lasting

    asked = {
        "name_or_path": str(name_or_path),
        "device": device,
        "dtype": dtype,
        "max_answer_tokens": max_answer_tokens,
        "quantization": quantization,
        "device_map": device_map,
        "adapter": None if adapter is None else str(adapter),
        "trust_remote_code": trust_remote_code,
    }
    vlm = lasting(_load_vlm)(asked)
    vlm.loaded_by = asked | {name: _absolute(asked[name]) for name in ("name_or_path", "adapter")}
    return vlm


def _load_vlm(asked: dict[str, Any]) -> VLM:
    """`load_vlm`, its arguments by name."""
    from .vlm.base import VLM

    name, device, dtype, quantization = (asked[key] for key in ("name_or_path", "device", "dtype", "quantization"))
    device_map, adapter, trust_remote_code = (asked[key] for key in ("device_map", "adapter", "trust_remote_code"))
    torch_device, torch_dtype = parse_device(device), parse_dtype(dtype)
    quantizing.check(quantization)
    if device_map is not None and device not in ("cpu", "auto"):
        raise InputError(f"device_map: given together with device '{device}'. Give one of the two.")
    base, added = adapters.resolve(name, adapter)
    adapters.check(added)
    source, config, family = read_config(base, trust_remote_code)
    from .checking import buildable, fitted

    # all that can be refused is refused before weights are read
    skeleton = buildable(family, config)
    processor_source = added if added is not None and adapters.has_processor(added) else source
    processor = read_processor(name, processor_source, config, family, trust_remote_code)
    family = fitted(skeleton, processor, family, name).family
    options: dict[str, Any] = {"dtype": torch_dtype, "output_loading_info": True}
    if trust_remote_code:
        options["trust_remote_code"] = True
    if quantization is not None:
        kept = quantizing.kept_modules(family, config)
        options["quantization_config"] = quantizing.settings(quantization, kept, torch_dtype)
    placed = device_map is not None or quantization is not None
    if placed:
        options["device_map"] = device_map if device_map is not None else {"": torch_device}
    with hub.without_bars():
        model, report = _read(name, source, family.load_class().from_pretrained, source, **options)
    if missing := sorted(report["missing_keys"]):
        raise MissingDataError(
            f"checkpoint '{name}' lacks {len(missing)} weights, e.g. {', '.join(missing[:3])}. "
            "It is damaged or of another model; get it again."
        )
    if quantization is not None:
        quantizing.keep_differentiable(model)
    if not placed:
        model.to(torch_device)
    if added is not None:
        model = _read(f"{base} + {added}", added, adapters.attach, model, added)
        name = name if adapter is None else f"{name} + {adapter}"
    vlm = VLM(model, processor, family, name, asked["max_answer_tokens"])
    if placed:
        _check_placement(vlm)
    return vlm


def _absolute(name: str | None) -> str | None:
    """The name, as it is understood in any working folder."""
    folder = None if name in (None, POCKET) else local(name)
    return name if folder is None or not folder.exists() else str(folder.absolute())


def read_config(name: str, trust_remote_code: bool = False) -> tuple[str, Any, Family]:
    """What can be known of a model without reading a weight: (local folder or Hugging Face id, its config, its family).

    Raises: as `load`.
    """
    source = _source(adapters.resolve(name)[0])
    # classes of our own have to be known to transformers before it reads a config
    for known in registry.family_names():
        if prepare := registry.family(known).prepare:
            prepare()
    from transformers import AutoConfig

    _refuse_remote_code(name, source, trust_remote_code)
    config = _read(name, source, AutoConfig.from_pretrained, source, trust_remote_code=trust_remote_code)
    return source, config, registry.family_of(config)


def read_processor(name: str, source: str, config: Any, family: Family, trust_remote_code: bool = False) -> Any:
    """The model's processor, by its family's own way where it has one.

    Raises:
        MissingDataError: it is not there, cannot be read, or needs a package that is not installed.
    """
    from transformers import AutoProcessor

    def load_processor(source: str, config: Any) -> Any:
        return AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)

    own = None if trust_remote_code and _carries_code(source, "processor_config.json") else family.load_processor
    return _read(name, source, own or load_processor, source, config)


def _refuse_remote_code(name: str, source: str, trusted: bool) -> None:
    """Raises: UnfitModelError where transformers knows no such model and would have to run the checkpoint's own code."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    settings, _ = _read(name, source, PreTrainedConfig.get_config_dict, source)
    kind = str(settings.get("model_type", ""))
    if trusted or "auto_map" not in settings or kind in CONFIG_MAPPING:
        return
    raise UnfitModelError(
        f"model '{name}': transformers knows no models of type '{kind}'; the checkpoint carries Python code of its own "
        f"({', '.join(sorted(settings['auto_map']))}), which would run here with all that you may do on this machine. "
        "Read that code first; then ask for it by name: --trust-remote-code, or load(…, trust_remote_code=True).",
        kind,
    )


def _carries_code(source: str, file: str) -> bool:
    path = Path(source) / file
    return path.is_file() and "auto_map" in path.read_text(encoding="utf-8", errors="replace")


def _source(name: str) -> str:
    """The local folder or the Hugging Face id that a name means."""
    if name == POCKET:
        from .pocket.assemble import ensure_pocket

        return str(ensure_pocket(progress=True))
    if not name.strip():
        raise InputError("model: the name is empty. Give a name (see `vledit models`), a folder or a Hugging Face id.")
    path = local(name)
    if path.is_dir():
        return _folder(name, path)
    if path.is_file():
        raise InputError(f"model: '{name}' is a file; give the folder of a Hugging Face checkpoint.")
    known = registry.checkpoints()
    if name in known:
        return known[name]
    for family in registry.family_names():
        for one in registry.family(family).published:
            if one.convert is not None and name in (*one.names, one.hub_id):
                raise MissingDataError(
                    f"model: '{name}' is not published in Hugging Face form. Make a folder of its published pieces with "
                    f"`vledit convert {one.convert}` (see --help) and give that folder."
                )
    if path.is_absolute() or name.startswith((".", "~")):
        raise MissingDataError(f"model: there is no folder '{name}'. Check the path.")
    if name.count("/") != 1:
        raise UnknownNameError("model", name, [POCKET, *known])
    return name


def _folder(name: str, path: Path) -> str:
    """A local folder, if it is that of a whole checkpoint."""
    from .convert.folder import require_whole

    require_whole(path)
    if not (path / "config.json").is_file():
        inside = [child.name for child in sorted(path.iterdir()) if (child / "config.json").is_file()]
        hint = f" Did you mean '{path / inside[0]}'?" if inside else ""
        raise InputError(
            f"model: the folder '{name}' has no config.json; give the folder of a Hugging Face checkpoint.{hint}"
        )
    return str(path)


def _read(name: str, source: str, read: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a `from_pretrained`, turning what goes wrong into words about the model."""
    local = Path(source).is_dir()
    offline = "" if local else hub.trouble()
    try:
        with hub.only_what_is_here(bool(offline)):
            return read(*args, **kwargs)
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise whatever the many readers behind `from_pretrained` raise
        if offline:
            raise MissingDataError(
                f"model '{name}': '{source}' is not in Hugging Face's cache, and {offline}. Check the network, or give the "
                f"folder of a checkpoint.{_near_id(source)}"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = f"folder '{source}'" if local else f"'{source}' (Hugging Face)"
        hint = "" if local else _near_id(source)
        raise MissingDataError(f"model '{name}': cannot be read from {where}: {reason}{hint}") from error


def _near_id(source: str) -> str:
    """A hint at the published checkpoint that a mistyped id may mean; that there is no such folder, too."""
    ids = sorted(set(registry.checkpoints().values()))
    near = [] if source in ids else difflib.get_close_matches(source, ids, n=1, cutoff=0.8)
    return f" There is no such local folder either.{f' Did you mean {near[0]!r}?' if near else ''}"


def _check_placement(vlm: VLM) -> None:
    """The edited site and the vocabulary projection have to be in memory and on one device."""
    from .vlm.measures import home

    site, head = home(vlm.site_module(vlm.default_site)).device, home(vlm.anatomy.lm_head).device
    if "meta" in (site.type, head.type) or site != head:
        raise InputError(
            f"device_map: the edited layer (decoder layer {vlm.default_site.layer}) is on '{site}' and the vocabulary "
            f"projection on '{head}' ('meta' means moved out of memory). Give a device_map that keeps both on one device."
        )


def parse_device(device: str) -> torch.device:
    """Reads "cpu", "cuda:1", "auto", ...

    Raises:
        InputError: there is no such device.
    """
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


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Reads "bfloat16", "bf16", ...

    Raises:
        InputError: a dtype that cannot hold weights.
        UnknownNameError: an unknown name.
    """
    import torch

    if isinstance(dtype, torch.dtype):
        if not dtype.is_floating_point:
            raise InputError(f"dtype {dtype} cannot hold weights. Known: {', '.join(DTYPES)}.")
        return dtype
    name = SHORT_DTYPES.get(str(dtype), str(dtype))
    if name not in DTYPES:
        raise UnknownNameError("dtype", str(dtype), (*DTYPES, *SHORT_DTYPES))
    return getattr(torch, name)
