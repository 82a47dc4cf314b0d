"""What makes pictures: a diffusers pipeline, an OpenAI-compatible images endpoint, or the drawings of `icons`.

Chosen by one text: "icons" or "icons:wrong=0.2"; "http://…/v1#model"; anything else names a diffusers pipeline (a folder or a
Hugging Face id).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from PIL.Image import Image

from vledit.errors import InputError


@dataclass(frozen=True)
class Wanted:
    """A picture to be made.

    Args:
        object: what shall be in it; `prompt`: the same as the sentence that a picture model is given.
        seed: another one gives another picture.
    """

    prompt: str
    object: str
    seed: int


@dataclass(frozen=True)
class Made:
    """A picture, or why there is none.

    Args:
        right: whether it shows what was wanted, where its maker knows; None where it only knows the prompt.
    """

    image: Image | None
    refused: str = ""
    right: bool | None = None


class PictureModel(Protocol):
    """Makes pictures.

    `about` is what pictures depend on: it stands in hashes and in the manifest. `together`: how many are asked for at once.
    `licence`: what is known of the pictures' licence, for the data card.
    """

    about: dict[str, Any]
    together: int
    threads: int
    licence: str

    def make(self, wanted: list[Wanted]) -> list[Made]:
        """The pictures in order.  Raises: NoReply, InputError, MissingDataError."""
        ...


@dataclass(frozen=True)
class PictureSettings:
    """How pictures are made.

    Args:
        size: pixels wide and high. steps: of diffusion. batch: a pipeline's pictures at once.
        retries, timeout, rate, concurrency, key_variable: of an endpoint; see `chat.Endpoint`.
        price: dollars a picture. device, dtype: of a pipeline.
    """

    size: int = 512
    steps: int = 30
    batch: int = 4
    retries: int = 5
    timeout: float = 300
    rate: float = 0
    concurrency: int = 4
    key_variable: str = "OPENAI_API_KEY"
    price: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("size", "steps", "batch", "concurrency"):
            if getattr(self, name) < 1:
                raise InputError(f"picture {name}: {getattr(self, name)} given; at least 1 is needed.")
        if self.price < 0:
            raise InputError(f"picture price: {self.price} given; it must not be negative.")


def picture_model(text: str, settings: PictureSettings) -> PictureModel:
    """The picture model that `text` names; a pipeline's weights are loaded when the first picture is wanted.

    Raises: InputError for an unfit text; MissingDataError where a package or the drawings are missing.
    """
    text = text.strip()
    if not text:
        raise InputError("image-model: nothing is given. Give icons, an address with #model, or a diffusers pipeline.")
    if text.startswith(("http://", "https://")):
        from vledit.data.build.endpoint_pictures import EndpointPictures

        url, _, model = text.partition("#")
        if not model:
            raise InputError(f"image-model: '{text}' names no model. Write it behind the address: {text}#MODEL.")
        return EndpointPictures(url, model, settings)
    if text == "icons" or text.startswith("icons:"):
        from vledit.data.build.icon_pictures import IconPictures

        return IconPictures.of(text.partition(":")[2], settings)
    from vledit.data.build.diffusers_pictures import DiffusersPictures

    return DiffusersPictures(text, settings)
