"""Conversations with an edited model, and answers that come piece by piece."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ..errors import InputError
from ..vlm.acting import acting
from ..vlm.conversation import Turn, encode_conversations
from ..vlm.messages import read_messages
from ..vlm.spoken import Spoken, spoken
from ..vlm.surroundings import on_cpu_unless_named

if TYPE_CHECKING:
    from .edited_model import Answer, EditedModel

LOOK_UP = ("last", "conversation")


def converse(
    model: EditedModel, turns: Sequence[Turn], max_new_tokens: int | None = None, look_up: str = "last"
) -> Answer:
    """The greedy answer to the last turn of a conversation.

    Args:
        look_up: what edits are looked up by: "last", the last turn's question and pictures alone, as if it had been asked by
            itself; or "conversation", the whole prompt, for edits that read the prompt.

    Raises: InputError for turns that are unfit (see `encode_conversations`), or an edit that puts embeddings into the prompt.
    """
    from .edited_model import Answer

    if look_up not in LOOK_UP:
        raise InputError(f"look_up: {look_up!r} is neither {' nor '.join(map(repr, LOOK_UP))}.")
    last = turns[-1]
    images = row_of(last.images)
    if len(turns) == 1 and not last.preface:
        return model.answers([images], [last.question], max_new_tokens)[0]
    with model.vlm.lock:
        if look_up == "last":
            effect = model.effects([images], [last.question])[0]
        else:
            effect = model.effects_of(encode_conversations(model.vlm, [turns]), [last.question])[0]
        vlm = effect.responder or model.vlm
        if effect.insert is not None:
            if effect.insert.soft is not None:
                raise InputError(
                    f"messages: edit '{effect.decision.entry}' puts embeddings before the question, which works for single "
                    "questions only. Ask the last one by itself, or use `model.disable()`."
                )
            turns = [*turns[:-1], replace(last, question=effect.insert.question(last.question))]
        encoded = encode_conversations(vlm, [turns])
        with acting(vlm, [effect.changes], encoded):
            return Answer(vlm.answer_encoded(encoded, max_new_tokens)[0], effect.decision)


def row_of(images: Sequence[Any]) -> Any:
    """Pictures of one request as `EditedModel.answers` takes them: None, a picture, or a list."""
    return None if not images else images[0] if len(images) == 1 else list(images)


class _Stopped(Exception):
    """Leaves `generate` when nobody wants to hear the rest."""


class Stream:
    """An answer as it comes: iterate over its pieces of text; put together they are the whole answer.

    The model runs in a thread of its own, from the first piece that is asked for.  Other requests wait until the answer is
    complete, or the stream is closed or forgotten.  Where the calling thread holds the model (within `disable()`), the pieces
    come once the answer is complete.

    Attributes:
        answer: the whole answer with its explanation; None until the last piece has come.
    """

    def __init__(self, model: EditedModel, work: Callable[[], Answer]):
        self.answer: Answer | None = None
        self._model, self._work = model, work
        self._pieces = self._run()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Ends the answer; what has been said is said."""
        self._pieces.close()

    def _run(self) -> Generator[str, None, None]:
        heard: queue.Queue[Any] = queue.Queue()
        stop = threading.Event()
        lock = self._model.vlm.lock

        def listen(said: Spoken) -> None:
            if stop.is_set():
                raise _Stopped
            heard.put(said.settled(0))

        def answer() -> None:
            try:
                with lock, spoken(self._model.vlm, 1, listen):
                    heard.put(self._work())
            except BaseException as error:  # told to whoever listens
                heard.put(error)

        thread = threading.Thread(target=answer, name="vledit-stream", daemon=True)
        mine = getattr(lock, "_is_owned", bool)()  # another thread would wait for this one for ever
        thread.run() if mine else thread.start()
        sent = ""
        try:
            while True:
                one = heard.get()
                if isinstance(one, BaseException):
                    raise one
                text = one if isinstance(one, str) else one.text
                if text.startswith(sent) and len(text) > len(sent):
                    piece, sent = text[len(sent) :], text
                    yield piece
                if not isinstance(one, str):
                    self.answer = one
                    return
        finally:
            stop.set()
            if not mine:
                thread.join()


class Talking:
    """The part of `EditedModel` that holds conversations."""

    def stream(self, image: object | None, question: str, max_new_tokens: int | None = None) -> Stream:
        """As `answer`, piece by piece: `for piece in model.stream(picture, question): …`; then `.answer` explains it."""
        return Stream(_model(self), lambda: _model(self).answer(image, question, max_new_tokens))

    @on_cpu_unless_named
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        images: Sequence[Any] | None = None,
        max_new_tokens: int | None = None,
        *,
        look_up: str = "last",
    ) -> Answer:
        """The greedy answer to the last of several messages in the Hugging Face format.

        Args:
            messages: [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "…"}]}, …];
                see `vlm.messages.read_messages`. They are written as the family's own template writes a conversation.
            images: pictures for the parts {"type": "image"} that have none of their own.
            look_up: see `talking.converse`.
        Raises: InputError, PictureError that name the message.
        """
        return converse(_model(self), read_messages(messages, images), max_new_tokens, look_up)

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        images: Sequence[Any] | None = None,
        max_new_tokens: int | None = None,
        *,
        look_up: str = "last",
    ) -> Stream:
        """As `chat`, piece by piece; see `stream`."""
        turns = read_messages(messages, images)
        return Stream(_model(self), lambda: converse(_model(self), turns, max_new_tokens, look_up))


def _model(one: Talking) -> EditedModel:
    return cast("EditedModel", one)
