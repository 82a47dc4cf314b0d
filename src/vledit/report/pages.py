"""Self-contained HTML pages: templates filled in, pictures embedded; nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.cache import write_atomic


def data_uri(picture: Image.Image, side: int = 192, quality: int = 88) -> str:
    """The picture as a WebP data URI, at most `side` pixels wide and high; `quality`: 0 to 100."""
    small = picture.convert("RGB")
    if max(small.size) > side:
        small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def write_page(template: Path, out: Path, **values: Any) -> Path:
    """Fills the Jinja2 file `template` and writes it to `out`, whole or not at all; everything filled in is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_atomic(out, environment.get_template(template.name).render(**values).encode())
    return out
