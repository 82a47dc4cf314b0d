"""Pictures by an OpenAI-compatible images endpoint (`images/generations`)."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from vledit.data.build.chat import Pace, check_url, client, content_refusal, public_url, translated
from vledit.data.build.picture_models import Made, PictureSettings, Wanted
from vledit.errors import PictureError

_STRICT = ("dall-e", "gpt-image", "chatgpt-image")
"""Models that refuse a seed; of them, only dall-e takes response_format."""


class EndpointPictures:
    """Asks for one picture a request; the seed is sent to models that may take one."""

    together = 1
    licence = "as the endpoint's terms say"

    def __init__(self, url: str, model: str, settings: PictureSettings):
        check_url("image-model", url)
        self.url, self.model, self.settings = url, model, settings
        self.about = {"url": public_url(url), "model": model, "size": settings.size}
        self.threads = settings.concurrency
        self._pace = Pace(settings.rate)
        self._client: Any = None

    def make(self, wanted: list[Wanted]) -> list[Made]:
        """See `PictureModel`."""
        return [self._one(one) for one in wanted]

    def _one(self, wanted: Wanted) -> Made:
        import openai

        from vledit.vlm.pictures import open_picture

        s = self.settings
        if self._client is None:
            self._client = client(self.url, s.key_variable, s.retries, s.timeout)
        strict = self.model.startswith(_STRICT)
        more: dict[str, Any] = {} if strict else {"extra_body": {"seed": wanted.seed}}
        if not strict or self.model.startswith("dall-e"):
            more["response_format"] = "b64_json"
        self._pace.wait()
        try:
            answer = self._client.images.generate(
                model=self.model, prompt=wanted.prompt, n=1, size=f"{s.size}x{s.size}", **more
            )
        except openai.APIError as error:
            if refusal := content_refusal(error):
                return Made(None, f"refused by the picture model: {refusal}")
            raise translated(error, "image-model", self.url, s.key_variable) from error
        content = answer.data[0].b64_json if answer.data else None
        if not content:
            return Made(None, "the endpoint sent no picture in the reply (b64_json)")
        try:
            return Made(open_picture(base64.b64decode(content, validate=True)))
        except (binascii.Error, PictureError) as error:
            return Made(None, f"what the endpoint sent is no picture ({error})")
