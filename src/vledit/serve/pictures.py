"""Pictures in a request: data URLs only, decoded within limits.  Nothing is ever downloaded."""

from __future__ import annotations

import base64
import binascii
import io
from typing import TYPE_CHECKING

from ..errors import InputError, PictureError
from .settings import Limits

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""No others: Pillow hands some to outside programs."""


def from_data_url(url: str, limits: Limits, field: str) -> PILImage:
    """The picture in a data URL, RGB.

    Raises: InputError for a web address or a broken data URL; PictureError for what is no picture or too large; both name
        `field`.
    """
    return from_bytes(bytes_of(url, limits, field), limits, field)


def bytes_of(url: str, limits: Limits, field: str) -> bytes:
    """The bytes in a data URL.  Raises: as `from_data_url`."""
    head, comma, body = url.partition(",")
    if not head.lower().startswith("data:"):
        raise InputError(f"{field}: addresses are not fetched. Send the picture itself, as data:image/png;base64,…")
    if not comma or not head.lower().endswith(";base64"):
        raise InputError(f"{field}: not a base64 data URL. Send data:image/png;base64,…")
    if len(body) * 3 // 4 > limits.picture_bytes:
        raise PictureError(f"{field}: the picture has more than {limits.picture_bytes} bytes. Scale it down first.")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{field}: the data URL is not valid base64.") from None


def from_bytes(content: bytes, limits: Limits, field: str) -> PILImage:
    """A picture file's bytes as RGB.  Raises: PictureError that names `field`."""
    from PIL import Image

    from ..vlm.pictures import open_picture

    if not content:
        raise PictureError(f"{field}: the picture is empty.")
    if len(content) > limits.picture_bytes:
        raise PictureError(f"{field}: the picture has more than {limits.picture_bytes} bytes. Scale it down first.")
    try:
        Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError(f"{field}: the picture is too large ({error}). Scale it down first.") from None
    except Exception:  # Pillow's readers raise whatever they stumble over
        raise PictureError(f"{field}: not a picture. Send one of {', '.join(FORMATS)}.") from None
    try:
        return open_picture(content, limits.picture_megapixels)
    except PictureError as error:
        raise PictureError(f"{field}: {str(error).removeprefix('image: ')}") from error
