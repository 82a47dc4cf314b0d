"""Access control: tokens, sessions of the pages, and what is allowed only from this machine."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from ..errors import VLEditError
from .settings import LOOPBACK, ServeSettings
from .store.tokens import SCOPES, Token, TokenStore

COOKIE = "vledit_session"
SESSION_SECONDS = 12 * 3600
CSRF_HEADER = "x-csrf-token"
SAFE = ("GET", "HEAD", "OPTIONS")
_REMEMBERED = 5.0
"""Seconds for which a token that was looked up counts without a new look; so long may a revoked one still be taken."""


class AccessError(VLEditError):
    """Nobody that may do this.  `status`: 401 without a token, 403 with one that does not allow it."""

    def __init__(self, text: str, status: int = 403):
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Person:
    """Who sent a request.

    Args:
        name: written into the history.
        scopes: what it may do.
        key: what its requests are counted by.
        session: of the pages, or "" for programs.
    """

    name: str
    scopes: tuple[str, ...]
    key: str
    session: str = ""

    def may(self, scope: str) -> bool:
        """Whether a scope is among those it has; each holds those before it."""
        return any(SCOPES.index(one) >= SCOPES.index(scope) for one in self.scopes)


class Access:
    """Tells who sent a request.

    Without any token, programs and pages on this machine may do everything on a server that only this machine reaches.
    Beyond loopback nobody may do anything without a token, but for asking and looking where the server was told so.
    """

    def __init__(self, settings: ServeSettings, tokens: TokenStore):
        self.settings, self.tokens = settings, tokens
        self._key = tokens.signing_key()
        self._found: OrderedDict[str, tuple[float, Token | None]] = OrderedDict()
        self._any: tuple[float, bool] = (0.0, False)

    def person(self, request: Request) -> Person:
        """Who sent this request.  Raises: AccessError for a token that is not known."""
        address = request.client.host if request.client else "unknown"
        header = request.headers.get("authorization", "")
        kind, _, secret = header.partition(" ")
        if kind.lower() == "bearer" and secret.strip():
            token = self._remembered(secret.strip(), self.tokens.find)
            if token is not None:
                return Person(token.name, token.scopes, f"token {token.id}")
            if not self._open_here(request):  # on this machine alone, clients may send any key: the official one must
                raise AccessError("the token is not known or was revoked.", 401)
        session = self._session(request)
        if session is not None and session[1] is not None:
            return Person(session[1].name, session[1].scopes, f"token {session[1].id}", session[0])
        name = "" if session is None else session[0]
        if self._open_here(request):
            return Person("local", ("admin",), f"address {address}", name)
        return Person("anonymous", ("read",) if self.settings.open_read else (), f"address {address}", name)

    def check(self, request: Request, person: Person, scope: str) -> None:
        """Raises: AccessError where the person lacks the scope, or a page's request comes from elsewhere."""
        if not person.may(scope):
            if person.name == "anonymous":
                raise AccessError(
                    f"a token with the scope '{scope}' is needed: send 'Authorization: Bearer …' "
                    "(`vledit token create` makes one).",
                    401,
                )
            raise AccessError(f"the scope '{scope}' is needed; this token has {', '.join(person.scopes) or 'none'}.")
        if request.method not in SAFE and not request.headers.get("authorization"):
            self._check_origin(request, person)

    def _check_origin(self, request: Request, person: Person) -> None:
        """A browser sends cookies, and is on this machine, whoever wrote the page: it must prove that the page is ours."""
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site")
        if origin is None and site is None and not request.cookies.get(COOKIE):
            return  # no browser
        own = f"{request.url.scheme}://{request.headers.get('host', '')}"
        if (origin is not None and origin != own) or site not in (None, "same-origin"):
            raise AccessError("the request comes from a page of another site.")
        given = request.headers.get(CSRF_HEADER, "")
        if not person.session or not hmac.compare_digest(given, self.csrf(person.session)):
            raise AccessError(f"the header {CSRF_HEADER} is missing or old. Load the page again.")

    def _open_here(self, request: Request) -> bool:
        """Whether this machine alone reaches the server and no token was ever made."""
        if not self.settings.loopback or any(h in request.headers for h in ("x-forwarded-for", "forwarded")):
            return False
        host = request.headers.get("host", "").rsplit(":", 1)[0].strip("[]")
        if host not in LOOPBACK and not host.startswith("127."):
            return False  # a name of somebody else that was made to lead here
        when, found = self._any
        if time.monotonic() - when > _REMEMBERED or not when:
            found = self.tokens.any()
            self._any = (time.monotonic(), found)
        return not found

    # --- sessions of the pages --------------------------------------------------------------------------------------

    def open_session(self, token: Token | None) -> str:
        """A signed cookie; it holds no secret but its signature."""
        body = f"{secrets.token_hex(8)}.{int(time.time()) + SESSION_SECONDS}.{token.id if token else '-'}"
        return f"{body}.{self._sign(body)}"

    def csrf(self, session: str) -> str:
        """What a page of this session sends along with its requests."""
        return self._sign(f"csrf {session}")

    def _session(self, request: Request) -> tuple[str, Token | None] | None:
        """The session's name and token, where there is a valid one."""
        body, _, signature = request.cookies.get(COOKIE, "").rpartition(".")
        if not body or not hmac.compare_digest(signature.encode(), self._sign(body).encode()):
            return None
        name, until, id = body.split(".")
        if int(until) < time.time():
            return None
        token = None if id == "-" else self._remembered(f"id {id}", lambda _: self.tokens.get(id))
        return (name, token) if token is not None or id == "-" else None

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _remembered(self, secret: str, look: Callable[[str], Token | None]) -> Token | None:
        key = hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
        when, token = self._found.get(key, (0.0, None))
        if time.monotonic() - when > _REMEMBERED or not when:
            token = look(secret)
            self._found[key] = (time.monotonic(), token)
            while len(self._found) > 1000:
                self._found.popitem(last=False)
        return token


class RateLimit:
    """Token buckets: so many requests a minute for everybody, a quarter of a minute's at once."""

    def __init__(self, per_minute: int):
        self.per_minute = per_minute
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str) -> float:
        """0 where the request may pass; else seconds until the next one may."""
        if not self.per_minute:
            return 0.0
        rate, most = self.per_minute / 60, max(1.0, self.per_minute / 4)
        now = time.monotonic()
        left, when = self._buckets.pop(key, (most, now))
        left = min(most, left + (now - when) * rate)
        passes = left >= 1
        self._buckets[key] = (left - 1 if passes else left, now)
        while len(self._buckets) > 10_000:
            self._buckets.popitem(last=False)
        return 0.0 if passes else (1 - left) / rate
