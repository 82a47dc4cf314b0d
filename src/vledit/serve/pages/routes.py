"""The pages and the pieces of them that HTMX asks for."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles

from ...errors import InputError
from ...vlm.conversation import Turn
from ..access import COOKIE, AccessError, Person
from ..asks import Ask
from ..chat import answered
from ..edits import EditBody, by, found, order_of, reach_record, record, writable
from ..parts import Allowed, access_of, service_of
from ..pictures import from_bytes
from ..probes import NewProbe, keep
from .keymap import key_map
from .rendering import STATIC, page, set_cookie

router = APIRouter(include_in_schema=False)
Reader = Annotated[Person, Depends(Allowed("read"))]
Writer = Annotated[Person, Depends(Allowed("edit"))]
Text = Annotated[str, Form()]
Picture = Annotated[UploadFile | None, File()]
Status = Literal["", "active", "disabled", "retired", "removed"]
static = StaticFiles(directory=STATIC)


async def _bytes(request: Request, picture: UploadFile | None) -> bytes | None:
    """The bytes of a picture that was sent along, or None.  Raises: PictureError."""
    if picture is None or not picture.filename:
        return None
    content = await picture.read(service_of(request).settings.limits.picture_bytes + 1)
    await run_in_threadpool(from_bytes, content, service_of(request).settings.limits, "picture")
    return content


def _url(content: bytes | None) -> str | None:
    return None if content is None else "data:image/png;base64," + base64.b64encode(content).decode()


@router.get("/")
async def front(request: Request, person: Reader) -> HTMLResponse:
    """Ask and edit beside each other."""
    return page(request, "front.html.j2", person)


@router.post("/ui/ask")
async def ask(request: Request, person: Reader, question: Text = "", picture: Picture = None) -> HTMLResponse:
    """The answer with the edits and without, and why."""
    service, content = service_of(request), await _bytes(request, picture)
    if not question.strip():
        raise InputError("question: it is empty. Type one.")
    if len(question) > service.settings.limits.text:
        raise InputError(f"question: more than {service.settings.limits.text} characters.")
    await run_in_threadpool(service.model.check_text, "question", question)
    image = None if content is None else from_bytes(content, service.settings.limits, "picture")
    turn = Turn(question.strip(), () if image is None else (image,))
    asks = [Ask((turn,), service.model.most_tokens, edited) for edited in (True, False)]
    for one in asks:
        service.batcher.submit(one)
    edited, base = await asyncio.gather(*(answered(request, one) for one in asks))
    return page(request, "_answer.html.j2", person, edited=edited, base=base)


@router.post("/ui/edit")
async def edit(
    request: Request,
    person: Writer,
    question: Text = "",
    answer: Text = "",
    rephrases: Text = "",
    reason: Text = "",
    mode: Text = "preview",
    picture: Picture = None,
) -> HTMLResponse:
    """Orders an edit; the piece that is returned asks again until it is done."""
    service, content = service_of(request), await _bytes(request, picture)
    body = EditBody(
        question=question,
        answer=answer,
        image=_url(content),
        rephrases=[line.strip() for line in rephrases.splitlines() if line.strip()][:16],
        reason=reason[:2000],
        preview=mode != "live",
    )
    order = await run_in_threadpool(order_of, body, service, person)
    job = await run_in_threadpool(service.workshop.submit, order)
    return page(request, "_job.html.j2", person, job=job)


@router.get("/ui/jobs/{id}")
async def job(request: Request, id: str, person: Reader) -> HTMLResponse:
    """How far a job is."""
    found = await run_in_threadpool(service_of(request).workshop.document, writable("id", id))
    return page(request, "_job.html.j2", person, job=found)


@router.post("/ui/jobs/{id}/{action}")
async def decide(request: Request, id: str, action: Literal["commit", "discard"], person: Writer) -> HTMLResponse:
    """Lets a draft act, or drops it."""
    workshop = service_of(request).workshop
    if action == "commit":
        found = await run_in_threadpool(workshop.commit, writable("id", id), by(person, ""))
    else:
        found = await run_in_threadpool(workshop.discard, writable("id", id))
    return page(request, "_job.html.j2", person, job=found)


@router.get("/edits")
async def edits(
    request: Request, person: Reader, search: Annotated[str, Query(max_length=500)] = "", status: Status = ""
) -> HTMLResponse:
    """The codebook, or the piece of it that fits a search."""
    revision, kept = await run_in_threadpool(service_of(request).store.edits)
    chosen = found(kept, status or None, search)
    values = {"edits": [record(one) for one in chosen[:200]], "total": len(chosen), "all": len(kept)}
    values["fixed"] = service_of(request).model.fixed.records()
    name = "_edits.html.j2" if "hx-request" in request.headers else "edits.html.j2"
    return page(request, name, person, search=search, status=status, revision=revision, **values)


async def _one(request: Request, person: Person, id: str, name: str = "edit.html.j2") -> HTMLResponse:
    store = service_of(request).store
    one = await run_in_threadpool(store.edit, id)
    history = await run_in_threadpool(store.history, None, 100, id)
    return page(request, name, person, edit=record(one), history=history)


@router.get("/edits/{id}")
async def one(request: Request, id: str, person: Reader) -> HTMLResponse:
    """One edit."""
    return await _one(request, person, writable("id", id))


@router.get("/ui/edits/{id}/reach")
async def reach(request: Request, id: str, person: Reader) -> HTMLResponse:
    """How the probes lie to an edit: what its radius decides."""
    found = await run_in_threadpool(reach_record, service_of(request), writable("id", id))
    distances = [row["distance"] for row in found["rows"] if row["distance"] is not None]
    most = 1.15 * max([found["radius"], found["made_with"], *distances, 1e-6])
    return page(request, "_reach.html.j2", person, reach=found, most=most)


@router.post("/ui/edits/{id}/radius")
async def radius(request: Request, id: str, person: Writer, radius: Text = "") -> HTMLResponse:
    """Sets the radius; nothing sets it back to what the edit was made with."""
    service = service_of(request)
    try:
        value = float(radius) if radius.strip() else None
    except ValueError:
        raise InputError(f"radius: '{radius[:40]}' is not a number.") from None
    revision = await run_in_threadpool(service.store.resize, writable("id", id), value, by(person, ""))
    service.watch.tell(revision)
    return await _one(request, person, id, "_edit.html.j2")


@router.post("/ui/edits/{id}/{action}")
async def change(
    request: Request, id: str, action: Literal["disable", "enable", "remove", "restore"], person: Writer
) -> HTMLResponse:
    """Switches an edit off or on, takes it out or brings it back."""
    service = service_of(request)
    revision = await run_in_threadpool(getattr(service.store, action), writable("id", id), by(person, ""))
    service.watch.tell(revision)
    return await _one(request, person, id, "_edit.html.j2")


@router.get("/map")
async def map_(request: Request, person: Reader) -> HTMLResponse:
    """The keys with their radii."""
    _, active = await run_in_threadpool(service_of(request).store.active)
    found = await run_in_threadpool(key_map, [entry for _, entry in active])
    return page(request, "map.html.j2", person, map=found)


@router.get("/history")
async def history(request: Request, person: Reader, before: Annotated[int | None, Query(ge=1)] = None) -> HTMLResponse:
    """What was done, with a way back."""
    lines = await run_in_threadpool(service_of(request).store.history, before, 101)
    values = {"lines": lines[:100], "more": lines[99].number if len(lines) > 100 else None}
    return page(request, "history.html.j2", person, newest=service_of(request).watch.latest, **values)


@router.post("/ui/rollback/{revision}")
async def rollback(request: Request, revision: int, person: Writer) -> Response:
    """Makes everything as it was at a revision."""
    service = service_of(request)
    made = await run_in_threadpool(service.store.roll_back, revision, by(person, f"back to revision {revision}"))
    service.watch.tell(made)
    return Response(status_code=204, headers={"hx-redirect": "/history"})


@router.get("/probes")
async def probes(request: Request, person: Reader) -> HTMLResponse:
    """The probe set."""
    found = await run_in_threadpool(service_of(request).probes.all)
    return page(request, "probes.html.j2", person, probes=found)


@router.post("/ui/probes")
async def probe(request: Request, person: Writer, question: Text = "", picture: Picture = None) -> HTMLResponse:
    """Keeps a question as a probe."""
    content = await _bytes(request, picture)
    body = NewProbe(question=question, image=_url(content), note="")
    await run_in_threadpool(keep, body, service_of(request))
    found = await run_in_threadpool(service_of(request).probes.all)
    return page(request, "_kept.html.j2", person, count=len(found))


@router.post("/ui/probes/{id}/delete")
async def drop(request: Request, id: str, _person: Writer) -> Response:
    """Takes a question out of the probe set."""
    await run_in_threadpool(service_of(request).probes.delete, writable("id", id))
    return Response("")


@router.get("/login")
async def login(request: Request) -> HTMLResponse:
    """Where a token is typed in."""
    return page(request, "login.html.j2", None, wrong=False)


@router.post("/login")
async def enter(request: Request, token: Text = "") -> Response:
    """Opens a session for a token."""
    origin = request.headers.get("origin")
    if origin not in (None, f"{request.url.scheme}://{request.headers.get('host', '')}"):
        raise AccessError("the request comes from a page of another site.")
    seconds = request.app.state.logins.wait(f"login {request.client.host if request.client else ''}")
    known = None if seconds else await run_in_threadpool(service_of(request).tokens.find, token.strip())
    if known is None:
        return page(request, "login.html.j2", None, code=429 if seconds else 401, wrong=True)
    response = RedirectResponse("/", 303)
    set_cookie(request, response, access_of(request).open_session(known))
    return response


@router.post("/logout")
async def leave(request: Request, _person: Reader) -> Response:
    """Ends the session."""
    response = Response(status_code=204, headers={"hx-redirect": "/login"})
    response.delete_cookie(COOKIE, path="/")
    return response
