"""Templates filled in for somebody: with their session and the secret that their requests must bring."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..access import COOKIE, SESSION_SECONDS, Person
from ..parts import access_of, service_of

STATIC = Path(__file__).with_name("static")
_templates = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def number(value: float | None) -> str:
    """Three significant digits, without a tail."""
    return "–" if value is None else "0" if abs(value) < 1e-3 else f"{value:.3g}"


def when(time: str) -> str:
    """An ISO time as '27 Nov 2026, 09:31 UTC'."""
    return datetime.datetime.fromisoformat(time).strftime("%-d %b %Y, %H:%M UTC")


_templates.filters |= {"number": number, "when": when}


def page(request: Request, template: str, person: Person | None, code: int = 200, **values: Any) -> HTMLResponse:
    """The template filled in; opens a session where there is none."""
    access, cookie = access_of(request), None
    session = "" if person is None else person.session
    if not session:
        cookie = access.open_session(None)
        session = cookie.split(".")[0]
    text = _templates.get_template(template).render(
        model=service_of(request).model.name,
        person=person,
        may_edit=person is not None and person.may("edit"),
        csrf=access.csrf(session),
        path=request.url.path,
        **values,
    )
    response = HTMLResponse(text, code)
    if cookie is not None:
        set_cookie(request, response, cookie)
    return response


def set_cookie(request: Request, response: Response, value: str) -> None:
    """The session, out of the reach of scripts and of other sites."""
    response.set_cookie(
        COOKIE,
        value,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )
