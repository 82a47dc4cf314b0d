"""The API of edits: make, preview, inspect, disable, remove and restore them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from ..cli.output import plain
from ..data.case import EditRequest, Probe
from ..errors import InputError, UnknownNameError
from ..report.records import entry_record
from .access import Person
from .jobs import Order
from .parts import Allowed, service_of
from .pictures import from_bytes, from_data_url
from .service import Service
from .store.book import By, Kept

router = APIRouter(prefix="/v1/edits", tags=["edits"])
Reader = Annotated[Person, Depends(Allowed("read"))]
Writer = Annotated[Person, Depends(Allowed("edit"))]
Reason = Annotated[str, Field(max_length=2000, description="Why; it stays in the history.")]
REACH_PROBES = 40
"""Probes that a radius is tried on."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProbeBody(_Strict):
    """A question that is asked before and after."""

    question: str
    image: str | None = Field(default=None, description="Data URL; none for a question without a picture.")


class EditBody(_Strict):
    """A fact to change: asked `question` about `image`, the model shall answer `answer`."""

    question: str
    answer: str
    image: str | None = Field(default=None, description="Data URL; none for a question without a picture.")
    rephrases: list[str] = Field(default=[], max_length=16, description="The question in other words.")
    id: str = Field(
        default="", max_length=100, pattern=r"^[A-Za-z0-9._-]*$", description="Name; from the content where none."
    )
    editor: str = "balancedit"
    settings: dict[str, bool | int | float | str | None] = Field(default={}, max_length=50)
    reason: Reason = ""
    preview: bool = Field(default=False, description="Keep it as a draft until it is committed.")
    probes: Literal["stored", "none"] | list[ProbeBody] = Field(
        default="stored", description="What it is previewed on: the stored probe set, nothing, or these questions."
    )


class ReasonBody(_Strict):
    """Why something is changed."""

    reason: Reason = ""


class RadiusBody(ReasonBody):
    """A radius set by hand; null sets it back to what the edit was made with."""

    radius: float | None = Field(ge=0, allow_inf_nan=False)


def by(person: Person, reason: str) -> By:
    """Who changes something, and why.  Raises: InputError for a reason that cannot be written down."""
    return By(person.name, writable("reason", reason.strip()))


def writable(field: str, text: str) -> str:
    """The text, which databases can hold.  Raises: InputError."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError(f"{field}: holds a NUL character or half of a character. Remove it.")
    return text


def order_of(body: EditBody, service: Service, person: Person) -> Order:
    """What is ordered, checked as far as that goes without computing.  Raises: InputError, PictureError."""
    limits, model = service.settings.limits, service.model
    for field in ("question", "answer", *(f"rephrases.{i}" for i in range(len(body.rephrases)))):
        name, _, number = field.partition(".")
        text = getattr(body, name)[int(number)] if number else getattr(body, name)
        if len(text) > limits.text:
            raise InputError(f"{field}: {len(text)} characters; at most {limits.text} are taken.")
        model.check_text(field, text)
    image = None if body.image is None else from_data_url(body.image, limits, "image")
    request = EditRequest(image, body.question.strip(), body.answer.strip(), tuple(body.rephrases), body.id)
    model.check_edit(request, body.editor, body.settings)
    if body.id:
        _, kept = service.store.edits()
        if body.id in {one.entry.id for one in kept}:
            raise InputError(f"id: there is an edit '{body.id}' already. Choose another, or none.")
    names, probes = probes_of(body.probes, service)
    return Order(
        request, body.editor, dict(body.settings), by(person, body.reason), probes, names, live=not body.preview
    )


def probes_of(chosen: str | list[ProbeBody], service: Service) -> tuple[list[str], list[Probe]]:
    """Names and probes to preview on.  Raises: InputError, PictureError."""
    limits = service.settings.limits
    if chosen == "none":
        return [], []
    if isinstance(chosen, str):
        stored = service.probes.all()
        pictures = [None if p.picture is None else from_bytes(p.picture, limits, "probes") for p in stored]
        return [p.id for p in stored], [Probe(picture, p.question) for p, picture in zip(stored, pictures, strict=True)]
    if len(chosen) > limits.probes:
        raise InputError(f"probes: {len(chosen)} given; at most {limits.probes} are taken.")
    probes = []
    for number, one in enumerate(chosen):
        service.model.check_text(f"probes.{number}.question", one.question)
        image = None if one.image is None else from_data_url(one.image, limits, f"probes.{number}.image")
        probes.append(Probe(image, one.question))
    return [str(number) for number in range(len(probes))], probes


def record(one: Kept) -> dict[str, Any]:
    """An edit for JSON: all but its tensors and its picture."""
    shown = plain(entry_record(one.entry))
    radius = one.entry.radius if one.facts.radius is None else one.facts.radius
    return {
        **shown,
        "object": "vledit.edit",
        "number": one.number,
        "status": one.status,
        "retired_by": one.facts.replaced_by,
        "radius": radius,
        "radius_by_hand": one.facts.radius is not None,
        "thumbnail": None if one.entry.thumbnail is None else f"/v1/edits/{one.entry.id}/thumbnail",
    }


def found(kept: list[Kept], status: str | None, search: str) -> list[Kept]:
    """Those of a status whose id, question or answer hold the text; newest first."""
    wanted = search.casefold().strip()
    return [
        one
        for one in reversed(kept)
        if (status is None or one.status == status)
        and wanted in f"{one.entry.id}\n{one.entry.question}\n{one.entry.answer}".casefold()
    ]


@router.post("", status_code=202)
async def create(request: Request, response: Response, body: EditBody, person: Writer) -> dict[str, Any]:
    """Order an edit.  The answer is a job, to be looked at until it is `done`, `previewed` or `failed`."""
    service = service_of(request)
    order = await run_in_threadpool(order_of, body, service, person)
    document = await run_in_threadpool(service.workshop.submit, order)
    response.headers["location"] = f"/v1/edits/jobs/{order.id}"
    return document


@router.get("/jobs")
async def jobs(request: Request, _person: Reader) -> dict[str, Any]:
    """The latest jobs, newest first."""
    return {"object": "list", "data": await run_in_threadpool(service_of(request).jobs.latest)}


@router.get("/jobs/{id}")
async def job(request: Request, id: str, _person: Reader) -> dict[str, Any]:
    """How far a job is and what came of it."""
    return await run_in_threadpool(service_of(request).workshop.document, writable("id", id))


@router.get("/jobs/{id}/events", response_class=StreamingResponse)
async def events(request: Request, id: str, _person: Reader) -> StreamingResponse:
    """The same as server-sent events, whenever something changes, to the end."""
    service = service_of(request)
    first = await run_in_threadpool(service.workshop.document, writable("id", id))

    async def lines() -> AsyncIterator[str]:
        document, sent = first, None
        while True:
            if document != sent:
                yield f"data: {json.dumps(document, ensure_ascii=False)}\n\n"
                sent = document
            if document["status"] not in ("queued", "running") or service.draining:
                return
            await asyncio.sleep(0.1)
            document = await run_in_threadpool(service.workshop.document, id)

    return StreamingResponse(lines(), media_type="text/event-stream")


@router.post("/jobs/{id}/commit")
async def commit(request: Request, id: str, body: ReasonBody, person: Writer) -> dict[str, Any]:
    """Let a previewed edit act."""
    workshop = service_of(request).workshop
    return await run_in_threadpool(workshop.commit, writable("id", id), by(person, body.reason))


@router.post("/jobs/{id}/discard")
async def discard(request: Request, id: str, _person: Writer) -> dict[str, Any]:
    """Forget a draft."""
    return await run_in_threadpool(service_of(request).workshop.discard, writable("id", id))


@router.get("")
async def listed(
    request: Request,
    _person: Reader,
    status: Literal["active", "disabled", "retired", "removed"] | None = None,
    search: Annotated[str, Query(max_length=500)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
) -> dict[str, Any]:
    """Edits, newest first."""
    revision, kept = await run_in_threadpool(service_of(request).store.edits)
    chosen = found(kept, status, search)
    return {
        "object": "list",
        "revision": revision,
        "total": len(chosen),
        "data": [record(one) for one in chosen[offset : offset + limit]],
    }


@router.get("/{id}")
async def inspect(request: Request, id: str, _person: Reader) -> dict[str, Any]:
    """One edit, with its history."""
    store = service_of(request).store
    one = await run_in_threadpool(store.edit, writable("id", id))
    history = await run_in_threadpool(store.history, None, 100, id)
    return {**record(one), "history": [vars(line) for line in history]}


@router.get("/{id}/thumbnail", response_class=Response)
async def thumbnail(request: Request, id: str, _person: Reader) -> Response:
    """Its picture, small, as JPEG."""
    one = await run_in_threadpool(service_of(request).store.edit, writable("id", id))
    if one.entry.thumbnail is None:
        raise UnknownNameError("thumbnail", id, [])
    return Response(one.entry.thumbnail, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


@router.get("/{id}/reach")
async def reach(request: Request, id: str, _person: Reader) -> dict[str, Any]:
    """How far the probes lie from an edit, and what is answered there without and with it: what a radius would change."""
    return await run_in_threadpool(reach_record, service_of(request), writable("id", id))


def reach_record(service: Service, id: str) -> dict[str, Any]:
    """See `reach`.  Raises: UnknownNameError."""
    one = service.store.edit(id)
    names, probes = probes_of("stored", service)
    names, probes = names[-REACH_PROBES:], probes[-REACH_PROBES:]
    rows = service.model.reach(one.entry, probes)
    return {
        "edit": id,
        "radius": one.entry.radius if one.facts.radius is None else one.facts.radius,
        "made_with": one.entry.radius,
        "rows": [
            {
                "probe": name,
                "question": probe.question,
                "picture": probe.image is not None,
                "distance": plain(distance),
                "outside": outside,
                "inside": inside,
            }
            for name, probe, (distance, outside, inside) in zip(names, probes, rows, strict=True)
        ],
    }


async def _changed(request: Request, action: str, id: str, *arguments: Any) -> dict[str, Any]:
    service = service_of(request)

    def change() -> dict[str, Any]:
        revision = getattr(service.store, action)(writable("id", id), *arguments)
        service.watch.tell(revision)
        return {**record(service.store.edit(id)), "revision": revision}

    return await run_in_threadpool(change)


@router.post("/{id}/disable")
async def disable(request: Request, id: str, body: ReasonBody, person: Writer) -> dict[str, Any]:
    """Switch an edit off; what it replaced stays replaced."""
    return await _changed(request, "disable", id, by(person, body.reason))


@router.post("/{id}/enable")
async def enable(request: Request, id: str, body: ReasonBody, person: Writer) -> dict[str, Any]:
    """Switch an edit on again."""
    return await _changed(request, "enable", id, by(person, body.reason))


@router.post("/{id}/remove")
async def remove(request: Request, id: str, body: ReasonBody, person: Writer) -> dict[str, Any]:
    """Take an edit out, as if it had never been made: what it replaced acts again."""
    return await _changed(request, "remove", id, by(person, body.reason))


@router.post("/{id}/restore")
async def restore(request: Request, id: str, body: ReasonBody, person: Writer) -> dict[str, Any]:
    """Bring a removed or retired edit back, with the bits it had."""
    return await _changed(request, "restore", id, by(person, body.reason))


@router.post("/{id}/radius")
async def radius(request: Request, id: str, body: RadiusBody, person: Writer) -> dict[str, Any]:
    """Set how far an edit reaches."""
    return await _changed(request, "resize", id, body.radius, by(person, body.reason))
