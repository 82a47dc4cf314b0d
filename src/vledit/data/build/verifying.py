"""What a vision-language model sees in pictures, and whether wordings mean the same: the checks of everything that is made."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vledit.data.build.chat import Chat, Endpoint, NoReply
from vledit.data.build.store import Store
from vledit.errors import MissingDataError

if TYPE_CHECKING:
    from vledit.vlm.base import VLM

ANSWER_TOKENS = 16
Asked = tuple[str, Path | None, str]
"""Hash of a picture's file ("" for none), where it is, the question."""


class Verifier(Protocol):
    """A model that looks at pictures.  `about`: what its answers depend on; `together`: questions asked at once."""

    about: dict[str, Any]
    together: int

    def answers(self, asked: Sequence[tuple[Path | None, str]]) -> list[str]:
        """One answer per (picture, question); the picture may be None."""
        ...


class ModelVerifier:
    """A model that is loaded here, by greedy decoding."""

    def __init__(self, vlm: VLM, batch: int = 32):
        self.vlm, self.together = vlm, batch
        self.about = {"model": vlm.name, "fingerprint": vlm.fingerprint, "answer_tokens": ANSWER_TOKENS}

    def answers(self, asked: Sequence[tuple[Path | None, str]]) -> list[str]:
        """See `Verifier`."""
        from vledit.vlm.pictures import open_picture

        images = [None if path is None else open_picture(path) for path, _ in asked]
        return self.vlm.answer(images, [question for _, question in asked], ANSWER_TOKENS)


class EndpointVerifier:
    """A model behind an OpenAI-compatible endpoint that takes pictures (`vledit serve`, vLLM, a provider's)."""

    def __init__(self, endpoint: Endpoint, store: Store, concurrency: int = 4):
        self.endpoint, self.about, self.concurrency = endpoint, endpoint.about(), concurrency
        self.together = 4 * concurrency
        self._chat = Chat(endpoint, store)

    def answers(self, asked: Sequence[tuple[Path | None, str]]) -> list[str]:
        """See `Verifier`.  Raises: MissingDataError where there is no reply after all retries."""
        try:
            with ThreadPoolExecutor(self.concurrency, "vledit-verifier") as pool:
                return list(pool.map(self._one, *zip(*asked, strict=True))) if asked else []
        except NoReply as error:
            raise MissingDataError(f"verifier: {error}. What is done so far is kept.") from error

    def _one(self, path: Path | None, question: str) -> str:
        parts: list[dict[str, Any]] = [{"type": "text", "text": f"{question} Answer in a few words."}]
        if path is not None:
            parts.insert(0, {"type": "image_url", "image_url": {"url": _jpeg_uri(path)}})
        reply = self._chat([{"role": "user", "content": parts}])  # type: ignore[dict-item]
        return " ".join(reply.text.split())


def _jpeg_uri(path: Path) -> str:
    from vledit.vlm.pictures import open_picture

    stream = io.BytesIO()
    open_picture(path).save(stream, "JPEG", quality=95, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


class Judge:
    """Asks a verifier and keeps its answers by content hash."""

    def __init__(self, verifier: Verifier, store: Store):
        self.verifier, self.store = verifier, store

    def ask(
        self, asked: Sequence[Asked], phase: str, progress: Callable[[str, int, int], None] = lambda *_: None
    ) -> list[str]:
        """The answers in order; what was answered before is not asked again."""
        unique = {(key, question): path for key, path, question in asked}
        kept = {pair: self.store.get("answers", self._asked(*pair)) for pair in unique}
        missing = [pair for pair, answer in kept.items() if answer is None]
        done = len(unique) - len(missing)
        progress(phase, done, len(unique))
        for start in range(0, len(missing), self.verifier.together):
            some = missing[start : start + self.verifier.together]
            found = self.verifier.answers([(unique[pair], pair[1]) for pair in some])
            for pair, answer in zip(some, found, strict=True):
                kept[pair] = self.store.put("answers", self._asked(*pair), {"answer": answer})
            progress(phase, done := done + len(some), len(unique))
        return [kept[key, question]["answer"] for key, _, question in asked]

    def _asked(self, key: str, question: str) -> dict[str, Any]:
        return {"verifier": self.verifier.about, "picture": key, "question": question}


class Meaning(Protocol):
    """Tells how near two wordings are in meaning.  `about`: what it depends on, for the manifest."""

    about: dict[str, Any]

    def cosines(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One cosine per pair of texts."""
        ...


class EncoderMeaning:
    """By a sentence encoder (`vledit.retrieval`).  Raises: see `vledit.retrieval.encoder`."""

    def __init__(self, name: str, device: str = "cpu"):
        from vledit.retrieval import encoder

        self.encoder = encoder(name, device)
        self.about = {"encoder": name}

    def cosines(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """See `Meaning`."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        if not texts:
            return []
        place = {text: number for number, text in enumerate(texts)}
        vectors = self.encoder.encode(texts)
        return [float(vectors[place[first]] @ vectors[place[second]]) for first, second in pairs]


class EmbeddingMeaning:
    """By the base model's own token embeddings, for where no sentence encoder can be had; cruder."""

    def __init__(self, vlm: VLM):
        self.vlm = vlm
        self.about = {"encoder": "the token embeddings of the model", "fingerprint": vlm.fingerprint}

    def cosines(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """See `Meaning`."""
        from vledit.editors.rephrase import cosine

        return [cosine(self.vlm, first, second) for first, second in pairs]
