"""The API of the probe set: the questions that every edit is previewed on."""

from __future__ import annotations

import io
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from ..errors import InputError, UnknownNameError
from .access import Person
from .edits import ProbeBody, Writer, writable
from .parts import Allowed, service_of
from .pictures import from_data_url
from .service import Service
from .store.probes import StoredProbe

router = APIRouter(prefix="/v1/probes", tags=["probes"])
Reader = Annotated[Person, Depends(Allowed("read"))]
SIDE = 512
"""Pixels that a stored picture is at most wide and high."""


class NewProbe(ProbeBody):
    """A question to keep; `note`: what it is there for."""

    note: str = Field(default="", max_length=500)


def keep(body: NewProbe, service: Service) -> StoredProbe:
    """Stores a probe.  Raises: InputError, PictureError."""
    if len(body.question) > service.settings.limits.text:
        raise InputError(f"question: more than {service.settings.limits.text} characters.")
    service.model.check_text("question", body.question)
    content = None
    if body.image is not None:
        picture = from_data_url(body.image, service.settings.limits, "image").copy()
        picture.thumbnail((SIDE, SIDE))
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        content = stream.getvalue()
    return service.probes.add(body.question.strip(), content, writable("note", body.note))


def record(probe: StoredProbe) -> dict[str, Any]:
    """A probe for JSON."""
    picture = None if probe.picture is None else f"/v1/probes/{probe.id}/picture"
    return {
        "id": probe.id,
        "created": probe.created,
        "question": probe.question,
        "picture": picture,
        "note": probe.note,
    }


@router.get("")
async def listed(request: Request, _person: Reader) -> dict[str, Any]:
    """The probe set, oldest first."""
    found = await run_in_threadpool(service_of(request).probes.all)
    return {"object": "list", "data": [record(probe) for probe in found]}


@router.post("", status_code=201)
async def add(request: Request, body: NewProbe, _person: Writer) -> dict[str, Any]:
    """Put a question into the probe set."""
    return record(await run_in_threadpool(keep, body, service_of(request)))


@router.get("/{id}/picture", response_class=Response)
async def picture(request: Request, id: str, _person: Reader) -> Response:
    """A probe's picture, as PNG."""
    for probe in await run_in_threadpool(service_of(request).probes.all):
        if probe.id == id and probe.picture is not None:
            return Response(probe.picture, media_type="image/png", headers={"cache-control": "private, max-age=3600"})
    raise UnknownNameError("picture of a probe", id, [])


@router.delete("/{id}", status_code=204, response_class=Response)
async def delete(request: Request, id: str, _person: Writer) -> Response:
    """Take a question out of the probe set."""
    await run_in_threadpool(service_of(request).probes.delete, writable("id", id))
    return Response(status_code=204)
