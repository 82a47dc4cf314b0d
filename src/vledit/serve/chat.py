"""OpenAI's chat completions: messages with pictures as data URLs, whole or streamed, with an explanation on request."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from ..errors import InputError, UnknownNameError
from ..report.records import decision_record
from ..vlm.conversation import Turn
from ..vlm.messages import Said, turns
from .access import Person
from .asks import Ask, Reply
from .batching import ClosingError
from .parts import Allowed, service_of
from .pictures import from_data_url
from .service import Service
from .settings import Limits

router = APIRouter(tags=["asking"])
BASE = "-base"
"""Behind the model's name: the same model without edits."""
Counted = Annotated[int, Field(strict=True, ge=1)]


class ImageUrl(BaseModel):
    """A picture as a data URL."""

    url: str = Field(description="data:image/png;base64,… — addresses are not fetched.")
    detail: str | None = None


class Part(BaseModel):
    """A piece of a message."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


class Message(BaseModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class Extension(BaseModel):
    """What OpenAI's API does not have."""

    model_config = ConfigDict(extra="forbid")
    explain: bool = Field(default=False, description="Say which edit answered or was nearest, its distance and radius.")
    scope: Literal["last", "conversation"] = Field(
        default="last",
        description="Whether edits are looked up by the last user turn alone or by the whole conversation.",
    )


class StreamOptions(BaseModel):
    """As OpenAI's."""

    include_usage: bool = False


class Completion(BaseModel):
    """A request for an answer.  Answers are greedy: temperature, top_p, seed and penalties are taken and have no effect."""

    model: str = Field(description="The model's name; with '-base' behind it the model without edits.")
    messages: list[Message] = Field(min_length=1)
    max_tokens: Counted | None = None
    max_completion_tokens: Counted | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(strict=True)] | None = None
    stop: Any = None
    tools: Any = None
    functions: Any = None
    logprobs: Any = None
    response_format: Any = None
    vledit: Extension = Extension()


def turns_of(
    messages: list[Message], limits: Limits, check: Callable[[str, str], None] = lambda field, text: None
) -> tuple[Turn, ...]:
    """The conversation that the messages are.

    Args:
        check: told of every text with the field it stands in; raises InputError where the model cannot be given it.
    Raises: InputError, PictureError that name the message and the field.
    """
    if len(messages) > limits.messages:
        raise InputError(f"messages: {len(messages)} given; at most {limits.messages} are taken.")
    said, pictures = [], 0
    for number, message in enumerate(messages):
        field = f"messages.{number}.content"
        text, found = _content(message, field, limits)
        check(field, text)
        pictures += len(found)
        if pictures > limits.pictures:
            raise InputError(f"{field}: more than {limits.pictures} pictures in one request.")
        said.append(Said(message.role, text, tuple(found)))
    return turns(said)


def _content(message: Message, field: str, limits: Limits) -> tuple[str, list[Any]]:
    if isinstance(message.content, str):
        texts, images = [message.content], []
    else:
        texts, images = [], []
        for number, part in enumerate(message.content):
            place = f"{field}.{number}"
            if part.type == "text":
                if part.text is None:
                    raise InputError(f"{place}.text: missing.")
                texts.append(part.text)
            elif part.image_url is None:
                raise InputError(f"{place}.image_url: missing.")
            else:
                if len(images) >= limits.pictures:
                    raise InputError(f"{place}: more than {limits.pictures} pictures in one request.")
                images.append(from_data_url(part.image_url.url, limits, f"{place}.image_url.url"))
    text = "\n".join(texts).strip()
    if not text:
        raise InputError(f"{field}: no text. Put a question beside the picture.")
    if len(text) > limits.text:
        raise InputError(f"{field}: {len(text)} characters; at most {limits.text} are taken.")
    return text, images


def ask_of(body: Completion, service: Service) -> Ask:
    """What is asked.  Raises: InputError, PictureError naming the field."""
    limits, model = service.settings.limits, service.model
    if body.model not in (model.name, model.name + BASE):
        raise InputError(f"model: '{body.model}' is not served here. Known: {model.name}, {model.name}{BASE}.")
    for name in ("stop", "tools", "functions", "logprobs"):
        if getattr(body, name) not in (None, False, []):
            raise InputError(f"{name}: not supported. Leave it out.")
    if body.n not in (None, 1):
        raise InputError("n: answers are greedy, so there is one. Leave it out.")
    if body.response_format not in (None, {"type": "text"}):
        raise InputError("response_format: only text is supported. Leave it out.")
    most = body.max_completion_tokens or body.max_tokens or model.most_tokens
    if most > limits.answer_tokens:
        raise InputError(f"max_tokens: {most} given; at most {limits.answer_tokens} are taken.")
    conversation = turns_of(body.messages, limits, model.check_text)
    return Ask(conversation, most, body.model == model.name, body.vledit.scope == "conversation")


@router.get("/v1/models")
async def models(request: Request, _person: Annotated[Person, Depends(Allowed("read"))]) -> dict[str, Any]:
    """The model with its edits, and without."""
    model = service_of(request).model
    common = {"object": "model", "created": model.created, "owned_by": "vledit"}
    ids = (model.name, model.name + BASE)
    return {"object": "list", "data": [{"id": id, **common} for id in ids]}


@router.get("/v1/models/{id:path}")
async def model(request: Request, id: str, _person: Annotated[Person, Depends(Allowed("read"))]) -> dict[str, Any]:
    """One of them."""
    served = service_of(request).model
    if id not in (served.name, served.name + BASE):
        raise UnknownNameError("model", id, [served.name, served.name + BASE])
    return {"id": id, "object": "model", "created": served.created, "owned_by": "vledit"}


@router.post("/v1/chat/completions", response_model=None)
async def completions(
    request: Request, body: Completion, _person: Annotated[Person, Depends(Allowed("read"))]
) -> JSONResponse | StreamingResponse:
    """An answer, whole or as server-sent events (`stream`)."""
    service = service_of(request)
    ask = await run_in_threadpool(ask_of, body, service)
    id, created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
    if body.stream:
        events = _Streamed(ask, service)
        await events.first()
        return StreamingResponse(
            events.lines(body, id, created), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )
    service.batcher.submit(ask)
    reply = await answered(request, ask)
    message = {"role": "assistant", "content": reply.text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": reply.finish, "logprobs": None}
    return JSONResponse(
        {
            "id": id,
            "object": "chat.completion",
            "created": created,
            "model": body.model,
            "choices": [choice],
            "usage": _usage(reply),
            **_explained(body, reply),
        }
    )


async def answered(request: Request, ask: Ask) -> Reply:
    """The reply; a client that has gone away is not answered, where its turn has not come yet."""
    waiting = asyncio.ensure_future(asyncio.wrap_future(ask.reply))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
        return await waiting
    except asyncio.CancelledError:
        raise ClosingError(
            "the question was not answered: the client went away, or the server is about to stop."
        ) from None
    finally:
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Streamed:
    """The answer as it comes, from the model's thread into the event loop."""

    def __init__(self, ask: Ask, service: Service):
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._ask, self._sent, self._waiting = ask, "", ""
        loop = asyncio.get_running_loop()
        ask.on_text = lambda text: loop.call_soon_threadsafe(self._queue.put_nowait, text)
        service.batcher.submit(ask)
        ask.reply.add_done_callback(lambda _: loop.call_soon_threadsafe(self._queue.put_nowait, None))

    async def first(self) -> None:
        """Waits until there is something to send.  Raises: what the question could not be answered for."""
        self._waiting = await self._queue.get()
        if self._waiting is None:
            await asyncio.wrap_future(self._ask.reply)

    async def lines(self, body: Completion, id: str, created: int) -> AsyncIterator[str]:
        """Server-sent events."""
        head = {"id": id, "object": "chat.completion.chunk", "created": created, "model": body.model}

        def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
            return f"data: {json.dumps({**head, 'choices': [choice], **more}, ensure_ascii=False)}\n\n"

        try:
            yield event({"role": "assistant", "content": ""})
            text = self._waiting
            while text is not None:
                if text.startswith(self._sent) and len(text) > len(self._sent):
                    yield event({"content": text[len(self._sent) :]})
                    self._sent = text
                text = await self._queue.get()
            try:
                reply = await asyncio.wrap_future(self._ask.reply)
            except Exception:  # after the first event there is no status left to set
                problem = {"message": "the answer broke off; the server's log has more.", "type": "server_error"}
                yield f"data: {json.dumps({'error': problem})}\n\n"
                return
            if len(reply.text) > len(self._sent):
                yield event({"content": reply.text[len(self._sent) :]})
            yield event({}, reply.finish, **_explained(body, reply))
            if body.stream_options is not None and body.stream_options.include_usage:
                yield f"data: {json.dumps({**head, 'choices': [], 'usage': _usage(reply)})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self._ask.reply.cancel()


def _usage(reply: Reply) -> dict[str, int]:
    total = reply.prompt_tokens + reply.answer_tokens
    return {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.answer_tokens, "total_tokens": total}


def _explained(body: Completion, reply: Reply) -> dict[str, Any]:
    if not body.vledit.explain:
        return {}
    if reply.decision is None:
        return {"vledit": {"revision": reply.revision, "fired": False, "explanation": "The base model was asked."}}
    from ..cli.output import plain

    return {"vledit": {"revision": reply.revision, **plain(decision_record(reply.decision))}}
