"""The API of the history: revisions, returning to one of them, codebook files, read-only edits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import Field
from starlette.background import BackgroundTask

from .access import Person
from .edits import ReasonBody, Writer, by, writable
from .parts import Allowed, service_of

router = APIRouter(prefix="/v1", tags=["history"])
Reader = Annotated[Person, Depends(Allowed("read"))]
Admin = Annotated[Person, Depends(Allowed("admin"))]


class RollbackBody(ReasonBody):
    """Where to go back to; 0 is before the first edit."""

    revision: int = Field(strict=True, ge=0, le=2**31 - 1)


@router.get("/history")
async def history(
    request: Request,
    _person: Reader,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Revisions, newest first: who did what, when and why."""
    store = service_of(request).store
    lines = await run_in_threadpool(store.history, before, limit)
    return {"object": "list", "data": [vars(line) for line in lines]}


@router.get("/fixed", tags=["edits"])
async def fixed(request: Request, _person: Reader) -> dict[str, Any]:
    """The edits that the server was given with --edits; they act as they are, and cannot be changed while it runs."""
    return {"object": "list", "data": await run_in_threadpool(service_of(request).model.fixed.records)}


@router.post("/history/rollback")
async def rollback(request: Request, body: RollbackBody, person: Writer) -> dict[str, Any]:
    """Make everything as it was at a revision.  This is a new revision; nothing is lost."""
    service = service_of(request)
    revision = await run_in_threadpool(service.store.roll_back, body.revision, by(person, body.reason))
    service.watch.tell(revision)
    return {"revision": revision, "to": body.revision}


@router.get("/codebook", response_class=FileResponse)
async def export(request: Request, _person: Reader) -> FileResponse:
    """The edits that act, as a codebook file for `vledit ask --codebook` and `vledit codebook`."""
    folder = tempfile.TemporaryDirectory(prefix="vledit-")
    path = Path(folder.name) / "codebook.vledit"
    await run_in_threadpool(service_of(request).write_codebook, path)
    return FileResponse(
        path,
        media_type="application/octet-stream",
        filename="codebook.vledit",
        background=BackgroundTask(folder.cleanup),
    )


@router.post(
    "/codebook",
    openapi_extra={
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def take(request: Request, person: Admin, reason: Annotated[str, Query(max_length=2000)] = "") -> dict[str, Any]:
    """Take in the edits of a codebook file (the body) that are not here yet."""
    service = service_of(request)
    author = by(person, writable("reason", reason))
    with tempfile.TemporaryDirectory(prefix="vledit-") as folder:
        path = Path(folder) / "codebook.vledit"
        with path.open("wb") as file:
            async for piece in request.stream():
                await run_in_threadpool(file.write, piece)
        added, known = await run_in_threadpool(service.take_codebook, path, author)
    return {"added": added, "known": known, "revision": service.watch.latest}
