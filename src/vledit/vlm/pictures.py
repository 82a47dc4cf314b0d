"""Anything that stands for a picture → an RGB `PIL.Image`, upright and free of transparency."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..data.case import LazyPicture
from ..errors import InputError, PictureError
from ..paths import local

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

MAX_MEGAPIXELS = 64.0
"""Larger pictures are refused before they are decoded: a few kilobytes of PNG can unfold into gigabytes."""

_ORIENTATION = 0x0112

_BROKEN = (OSError, SyntaxError, ValueError, TypeError, EOFError, KeyError, IndexError, OverflowError, struct.error)
"""What Pillow's decoders raise on damaged files."""


def open_picture(source: object, max_megapixels: float = MAX_MEGAPIXELS) -> PILImage:
    """Opens a picture and makes it RGB.

    Turned upright by its EXIF tag; transparency laid on white; gray, palette, 16-bit and CMYK pictures converted; of an
    animation the first frame.

    Args:
        source: a `PIL.Image.Image`, a path (`~` and `file://` URLs too), an open binary file, the bytes of a picture file,
            a `LazyPicture`, or a NumPy array or torch tensor: (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, whole
            numbers from 0 to 255 or floats from 0 to 1.

    Returns:
        a new picture of mode RGB, decoded. A picture that is RGB and upright already comes back as it is.

    Raises:
        PictureError: missing, unreadable, cut short, not a picture, without any pixel, or larger than `max_megapixels`.
    """
    name = _name(source)
    try:
        picture = _open(source, name)
        _check_size(picture, name, max_megapixels)
        picture.load()
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"image: {name} is too large ({error}). Scale it down first.") from None
    except MemoryError:
        raise PictureError(f"image: {name} does not fit into memory. Scale it down first.") from None
    except _BROKEN as error:
        raise PictureError(f"image: {name} is damaged or cut short ({error}). Save or fetch it again.") from error
    return _rgb(_upright(picture))


def picture_key(source: object) -> str:
    """A name for what a picture shows, for caches and results files: equal pixels give equal keys.

    A `LazyPicture` names itself; None (no picture) is "none".
    """
    if source is None:
        return "none"
    if isinstance(source, LazyPicture):
        return source.key
    picture = open_picture(source)
    digest = hashlib.sha256(struct.pack("<2I", *picture.size))
    digest.update(picture.tobytes())
    return digest.hexdigest()[:32]


def _name(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return f"'{os.fspath(source)}'"
    if isinstance(source, Image.Image):
        return f"the given picture ({source.mode}, {source.size[0]}×{source.size[1]})"
    if isinstance(source, LazyPicture):
        return f"'{source.key}'"
    return f"the given {type(source).__name__}"


def _open(source: object, name: str) -> PILImage:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, LazyPicture):
        return source.open()
    if isinstance(source, np.ndarray):
        return _of_array(source, name)
    if callable(getattr(source, "detach", None)) and hasattr(source, "cpu"):  # a torch tensor, without importing torch
        tensor = source.detach().cpu()  # type: ignore[attr-defined]
        return _of_array((tensor.float() if tensor.is_floating_point() else tensor).numpy(), name)
    if isinstance(source, bytes | bytearray | memoryview):
        stream: Path | io.BytesIO = io.BytesIO(bytes(source))
    elif callable(getattr(source, "read", None)):
        stream = _read(source, name)
    elif isinstance(source, str | os.PathLike):
        stream = _path(os.fspath(source), name)
        if stream.is_dir():
            raise PictureError(f"image: {name} is a folder. Give the path of one picture file.")
        if not stream.exists():
            raise PictureError(f"image: there is no file {name}. Check the path.")
        if stream.stat().st_size == 0:
            raise PictureError(f"image: {name} is an empty file.")
    else:
        raise PictureError(
            f"image: cannot make a picture of a {type(source).__name__}. Give a path, a PIL picture, an array, an open "
            "binary file, the bytes of a picture file, or None for a question without a picture."
        )
    try:
        return Image.open(stream)
    except UnidentifiedImageError:
        raise PictureError(
            f"image: {name} is not a picture in a known format. Give a PNG, JPEG, WebP or the like."
        ) from None


def _of_array(values: np.ndarray, name: str) -> PILImage:
    """A picture of numbers; channels stand last, or first where the first axis alone can be theirs."""
    shape = values.shape
    if values.ndim == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2 and (values.ndim != 3 or values.shape[2] not in (3, 4)):
        raise PictureError(
            f"image: {name} has the shape {shape}. Give (H, W), (H, W, 3) or (3, H, W), one picture at a time."
        )
    if values.size == 0:
        raise PictureError(f"image: {name} has no pixels (shape {shape}).")
    kind, top = values.dtype.kind, 1.0 if values.dtype.kind == "f" else 255.0
    if kind not in "uif" or not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        raise PictureError(
            f"image: {name} ({values.dtype}) holds values that are no colours. Give whole numbers from 0 to 255, or floats "
            "from 0 to 1 (undo the normalisation first)."
        )
    if kind == "f":
        values = np.round(values * 255)
    return Image.fromarray(np.ascontiguousarray(values.astype(np.uint8)))


def _path(given: str | bytes, name: str) -> Path:
    text = os.fsdecode(given)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", text)  # one letter is a drive
    kind = scheme[1].lower() if scheme and not Path(text).exists() else "file"
    if kind in ("http", "https"):
        raise PictureError(f"image: {name} is a web address. Download it and give the file's path.")
    if kind != "file" and (text.startswith(f"{scheme[1]}://") or kind == "data"):  # type: ignore[index]
        raise PictureError(f"image: {name[:60]} is an address that is not read. Give a file's path, or its bytes.")
    try:
        return local(text)
    except (InputError, RuntimeError) as error:  # RuntimeError: ~ where there is no home
        raise PictureError(f"image: {error}") from None


def _read(source: Any, name: str) -> io.BytesIO:
    """An open file from where it stands, as Pillow reads it, but it is left open and rewound: it can be given again."""
    try:
        start = source.tell() if source.seekable() else None
        data = source.read()
        if start is not None:
            source.seek(start)
    except (OSError, ValueError, AttributeError) as error:
        raise PictureError(f"image: {name} cannot be read ({error}). Give an open binary file.") from None
    if not isinstance(data, bytes | bytearray):
        raise PictureError(f"image: {name} gives text. Open the file in binary mode, open(path, 'rb').")
    if not data:
        raise PictureError(f"image: {name} gives no bytes; is it at its end, or empty?")
    return io.BytesIO(data)


def _check_size(picture: PILImage, name: str, max_megapixels: float) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise PictureError(f"image: {name} has no pixels ({width}×{height}).")
    if width * height > max_megapixels * 1e6:
        raise PictureError(
            f"image: {name} has {width * height / 1e6:.0f} megapixels; at most {max_megapixels:g} are taken. "
            "Scale it down first."
        )


def _upright(picture: PILImage) -> PILImage:
    try:
        if picture.getexif().get(_ORIENTATION, 1) == 1:
            return picture
        return ImageOps.exif_transpose(picture) or picture
    except _BROKEN:  # a damaged EXIF block does not make the pixels unreadable
        return picture


def _rgb(picture: PILImage) -> PILImage:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _eight_bit(picture).convert("RGB")
    if picture.has_transparency_data:
        colours = picture.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return picture.convert("RGB")


def _eight_bit(picture: PILImage) -> PILImage:
    """Pictures of 16 or 32 bits (or floats), which Pillow's own conversion would cut off at 255."""
    values = np.asarray(picture).astype(np.float64)
    values = np.nan_to_num(values)
    top = values.max()
    if picture.mode == "F":
        scale = 255.0 if top <= 1.0 else 1.0
    else:
        scale = 1.0 if picture.mode == "I" and top <= 255 else 255.0 / 65535.0
    return Image.fromarray(np.clip(np.round(values * scale), 0, 255).astype(np.uint8))
