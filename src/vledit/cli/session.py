"""Opens what a command works on: the picture, the model, the codebook; cheap checks come before the model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, MissingDataError
from .output import busy, errors

if TYPE_CHECKING:
    from ..codebook import Codebook
    from ..editors.edited_model import EditedModel

Model = Annotated[str, typer.Option("--model", "-m", help="Name (see `vledit models`), folder or Hugging Face id.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, … or auto.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 (bf16) or float16 (fp16).")]
Quantization = Annotated[
    str | None, typer.Option(help="8bit or 4bit; the edited layer is not quantised. Needs bitsandbytes.")
]
DeviceMap = Annotated[
    str | None, typer.Option("--device-map", help="auto: spread the model over all devices, instead of --device.")
]
Adapter = Annotated[
    str | None, typer.Option(help="Folder or Hugging Face id of a PEFT adapter for the model. Needs peft.")
]


def load_model(name: str, device: str, dtype: str, **options: Any) -> EditedModel:
    """Loads a model without edits, and says on stderr what it was taken for.  Tests put a small one in its place."""
    from ..loading import POCKET, load
    from ..pocket.assemble import quiet

    quiet()  # transformers' own progress bars and advice
    edited = load(name, device=device, dtype=dtype, **options)
    if name != POCKET:
        errors.print(f"{edited.vlm!r}", style="dim", markup=False, highlight=False, soft_wrap=True)
    return edited


def open_model(
    name: str,
    device: str,
    dtype: str,
    quantization: str | None = None,
    device_map: str | None = None,
    adapter: str | None = None,
) -> EditedModel:
    """The model, with a sign of life on stderr while it loads."""
    given = {"quantization": quantization, "device_map": device_map, "adapter": adapter}
    with busy(f"loading {name} …"):
        return load_model(name, device, dtype, **{key: value for key, value in given.items() if value is not None})


def check_text(field: str, text: str) -> str:
    """The text without outer blanks.  Raises: InputError where nothing is left."""
    if not text.strip():
        raise InputError(f"{field} is empty. Give at least one word.")
    return text.strip()


def read_picture(path: Path | None) -> Any:
    """The picture as RGB, or None.  Raises: PictureError."""
    if path is None:
        return None
    from ..vlm.pictures import open_picture

    return open_picture(path)


def check_codebook(path: Path, writable: bool = False) -> None:
    """Reads the codebook once without a model, so that an unfit file is told before minutes of loading and training.

    Raises: CodebookError.
    """
    from ..codebook import Codebook
    from ..errors import CodebookError

    with Codebook.open(path, readonly=not writable) as book:
        if writable and book.readonly:
            raise CodebookError(f"codebook '{path}' cannot be written. Check its permissions, or copy it.")


def use_codebook(model: EditedModel, path: Path, readonly: bool = False) -> Codebook:
    """Puts the edits of a file onto a model.  Raises: ModelMismatchError, CodebookError."""
    from ..codebook import Codebook

    book = Codebook.open(path, model.vlm.fingerprint, model.vlm.name, readonly=readonly)
    model.codebook = book
    return book


def existing(path: Path, what: str) -> Path:
    """Raises: MissingDataError where there is no such file."""
    if not path.exists():
        raise MissingDataError(f"{what}: there is no file '{path}'. `vledit edit` makes one.")
    return path
