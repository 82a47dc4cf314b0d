"""Dependencies of the routes: the service, and a person with the required permission."""

from __future__ import annotations

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from .access import Access, Person, RateLimit
from .batching import BusyError
from .service import Service


def service_of(request: Request) -> Service:
    """The service behind the application."""
    return request.app.state.service


def access_of(request: Request) -> Access:
    """Who tells persons apart."""
    return request.app.state.access


class Allowed:
    """A dependency: the person who sent the request, if it may.

    Args:
        scope: what is needed: "read", "edit" or "admin".
    Raises: AccessError; BusyError where it sends too many requests.
    """

    def __init__(self, scope: str):
        self.scope = scope

    async def __call__(self, request: Request) -> Person:
        """Who it is."""
        access, rate = access_of(request), request.app.state.rate
        person = await run_in_threadpool(access.person, request)
        request.state.person = person.name
        access.check(request, person, self.scope)
        seconds = rate.wait(person.key)
        if seconds:
            raise BusyError(f"more than {rate.per_minute} requests a minute", seconds)
        return person


__all__ = ["Allowed", "RateLimit", "access_of", "service_of"]
