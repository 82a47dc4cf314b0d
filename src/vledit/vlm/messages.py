"""Chat messages, as Hugging Face's chat templates and pipelines have them, as the turns of a conversation.

    [{"role": "system", "content": "Answer in one word."},
     {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]},
     {"role": "assistant", "content": "a cup"},
     {"role": "user", "content": "What colour is it?"}]

Where a picture stands within its turn is decided by the family's template, not by the message.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .conversation import Turn

SYSTEM = ("system", "developer")
SOURCES = ("image", "url", "path", "base64")
"""Where a part of type "image" may have its picture."""


@dataclass(frozen=True)
class Said:
    """One message: who says it ("system", "developer", "user", "assistant"), its text and its pictures."""

    role: str
    text: str
    images: tuple[Any, ...] = ()


def turns(messages: Iterable[Said]) -> tuple[Turn, ...]:
    """The conversation that the messages are: users' messages in a row are one question, each answered by the assistant's.

    Raises: InputError that names the message, for one that stands in the wrong place.
    """
    system, found = "", []
    texts: list[str] = []
    images: list[Any] = []
    for number, message in enumerate(messages):
        if message.images and message.role != "user":
            raise InputError(f"messages.{number}.content: only users' messages may have pictures.")
        if message.role in SYSTEM:
            if found or texts:
                raise InputError(f"messages.{number}.role: a {message.role} message must stand before all others.")
            system = f"{system}\n{message.text}".strip()
        elif message.role == "user":
            texts.append(message.text)
            images += message.images
        elif not texts:
            raise InputError(f"messages.{number}.role: an assistant's message must follow a user's.")
        else:
            found.append(Turn("\n".join(texts), tuple(images), message.text, system if not found else ""))
            texts, images = [], []
    if not texts:
        raise InputError("messages: the last message must be a user's.")
    return (*found, Turn("\n".join(texts), tuple(images), None, system if not found else ""))


def read_messages(messages: Sequence[Mapping[str, Any]], images: Sequence[Any] | None = None) -> tuple[Turn, ...]:
    """The conversation in messages of the Hugging Face format.

    Args:
        messages: each with a role ("system", "developer", "user" or "assistant") and content: a text, or a list of parts
            {"type": "text", "text": …} and {"type": "image", "image" | "url" | "path" | "base64": …}; OpenAI's
            {"type": "image_url", "image_url": {"url": …}} is taken, too. A picture is anything that `open_picture` takes, or a
            data URL; web addresses are not fetched.
        images: pictures for the parts {"type": "image"} that have none, in their order.

    Raises: InputError, PictureError that name the message and the field.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise InputError("messages: a list of messages is expected, each with a role and content.")
    waiting = iter(images or ())
    said = [_said(number, message, waiting) for number, message in enumerate(messages)]
    if (left := sum(1 for _ in waiting)) > 0:
        raise InputError(f"images: {left} more are given than there are parts of type 'image' without a picture.")
    return turns(said)


def _said(number: int, message: Any, waiting: Iterator[Any]) -> Said:
    place = f"messages.{number}"
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise InputError(f"{place}: a mapping with 'role' and 'content' is expected.")
    role, content = message["role"], message["content"]
    if role not in (*SYSTEM, "user", "assistant"):
        raise InputError(f"{place}.role: {role!r} is none of system, developer, user, assistant.")
    texts, images = [], []
    if isinstance(content, str):
        texts.append(content)
    elif isinstance(content, Sequence):
        for n, part in enumerate(content):
            _part(f"{place}.content.{n}", part, texts, images, waiting)
    else:
        raise InputError(f"{place}.content: a text or a list of parts is expected, not {type(content).__name__}.")
    text = "\n".join(texts).strip()
    if not text:
        raise InputError(f"{place}.content: no text. Put a question beside the picture.")
    return Said(role, text, tuple(images))


def _part(place: str, part: Any, texts: list[str], images: list[Any], waiting: Iterator[Any]) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise InputError(f"{place}.text: missing.")
        texts.append(part["text"])
    elif kind == "image":
        given = [part[name] for name in SOURCES if part.get(name) is not None]
        picture = given[0] if given else next(waiting, None)
        if picture is None:
            raise InputError(f"{place}: there is no picture. Give one as 'image', 'path' or 'url', or in images=[…].")
        images.append(_decoded(f"data:;base64,{picture}" if "base64" in part else picture, place))
    elif kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, Mapping) else url
        if not isinstance(url, str):
            raise InputError(f"{place}.image_url: missing.")
        images.append(_decoded(url, f"{place}.image_url.url"))
    else:
        raise InputError(f"{place}.type: {kind!r} is none of text, image, image_url.")


def _decoded(picture: Any, place: str) -> Any:
    if not isinstance(picture, str):
        return picture
    if picture.lower().startswith(("http://", "https://")):
        raise InputError(f"{place}: web addresses are not fetched. Fetch the picture, and give it or its path.")
    if not picture.lower().startswith("data:"):
        return picture
    try:
        return base64.b64decode(picture.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{place}: the data URL is not valid base64.") from None
